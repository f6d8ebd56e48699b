"""The commands and their help."""

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from appliance import __version__
from appliance.cli import access, cartridge, configuration, copies, devices, disk, remote, request, robot, service
from appliance.cli.options import complain
from appliance.failures import Failure

# click's, wherever this typer keeps it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """`tapebay`: with --json, a command line that cannot be understood is said in JSON too."""

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


service.register(app)
robot.register(app)
request.register(app)
configuration.register(app)
app.add_typer(cartridge.app, name="cartridge")
app.add_typer(disk.app, name="disk")
app.add_typer(remote.app, name="remote")
app.add_typer(copies.app, name="copies")
app.add_typer(request.app, name="request")
devices.register(app)
access.register(app)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # a path whose bytes are not UTF-8 is printed as it is
    app(prog_name="tapebay")
