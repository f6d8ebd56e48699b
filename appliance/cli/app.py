"""The commands and their help."""

import io
import sys
from typing import Annotated

import typer

from appliance import __version__
from appliance.cli import cartridge, cartridge_work, disk, robot, service

app = typer.Typer(
    name="tapebay",
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
cartridge_work.register(cartridge.app)
app.add_typer(cartridge.app, name="cartridge")
app.add_typer(disk.app, name="disk")


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # a path whose bytes are not UTF-8 is printed as it is
    app(prog_name="tapebay")
