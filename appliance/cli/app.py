"""The commands and their help. The file of a command is imported when it is asked for: help of all takes longer."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_group

from appliance import __version__
from appliance.cli.options import complain
from appliance.failures import Failure

# The files of this folder, and which commands and groups each registers, in the order of the help.
FILES = {
    "service": ("init", "serve", "stop", "check", "models", "demo", "version"),
    "status": ("status", "health"),
    "robot": ("load", "unload", "move"),
    "configuration": ("plan", "apply", "show-config"),
    "cartridge": ("cartridge",),
    "disk": ("disk",),
    "snapshot": ("snapshot",),
    "drive": ("drive",),
    "changer": ("changer",),
    "partition": ("partition",),
    "pool": ("pool",),
    "remote": ("remote",),
    "copies": ("copy", "copies"),
    "backup": ("backup",),
    "catalogue": ("catalogue", "verify"),
    "target": ("target",),
    "account": ("account",),
    "zone": ("zone",),
    "who": ("who",),
    "session": ("session",),
    "reservation": ("reservation",),
    "restore": ("restore",),
    "agent": ("agent",),
    "mount": ("mount", "renew", "release"),
    "request": ("request", "requests"),
    "token": ("token",),
    "broker": ("broker",),
    "key": ("key",),
    "audit": ("audit",),
}
_FILE_OF = {name: file for file, names in FILES.items() for name in names}

# click's, wherever this typer keeps it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """`tapebay`: imports commands as they are asked for. With --json, a command line that cannot be understood is said
    in JSON too."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_FILE_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            for file in [_FILE_OF[cmd_name]] if cmd_name in _FILE_OF else FILES:  # all, to say what was meant
                self.commands.update(_registered_by(file))
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **options: Any) -> Any:
        given = args[0] if args else options.pop("args", None)
        arguments = list(sys.argv[1:] if given is None else given)
        if "--json" not in arguments or not options.get("standalone_mode", True):
            return super().main(arguments, **options)
        try:
            status = super().main(arguments, **{**options, "standalone_mode": False})
        except _UsageError as error:
            complain(Failure.USAGE, error.format_message(), as_json=True)  # type: ignore[attr-defined]
            status = Failure.USAGE.exit_status
        except typer.Abort:  # at a question
            status = Failure.REFUSED.exit_status
        sys.exit(status or 0)

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _our_words():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _our_words():
            return super().invoke(ctx)


@contextmanager
def _our_words() -> Iterator[None]:
    """typer has pydantic read the options; what pydantic says of them is no operator's language."""
    try:
        yield
    except typer.BadParameter as error:
        if type(error.__cause__).__name__ == "ValidationError":
            from appliance.settings.problems import of_value

            error.message = of_value(cast(Any, error.__cause__))
        raise


def _registered_by(file: str) -> dict[str, Any]:
    """The commands and groups of one file, by name."""
    registered = typer.Typer(rich_markup_mode=app.rich_markup_mode, pretty_exceptions_enable=False)
    import_module(f"appliance.cli.{file}").register(registered)
    return dict(get_group(registered).commands)


app = typer.Typer(
    name="tapebay",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="An emulated SCSI tape library, its disks and a data mover, served over iSCSI.",
    epilog="Start: [bold]tapebay init DIR[/] then [bold]tapebay serve --config DIR[/]. Exit status: 0 done, 1 refused, "
    "2 bad command line, 3 bad configuration, 4 no daemon, 5 library in use, 6 not found.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tapebay {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `tapebay` itself."""


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # a path whose bytes are not UTF-8 is printed as it is
    app(prog_name="tapebay")
