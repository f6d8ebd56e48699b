"""load, unload, move: cartridges between elements, the drives and the shelf."""

from typing import Annotated

import typer

from appliance.cli.options import ConfigOption, JsonOption, reporting, request, show

Cartridge = Annotated[str, typer.Argument(metavar="CARTRIDGE", help="Barcode, or the place where it is (slot:1).")]
Drive = Annotated[str, typer.Argument(metavar="DRIVE", help="drive:0, drive:1, ... or the drive's name.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Also when it is being written, reserved or locked by an initiator (it is logged)."),
]

PLACES = (
    "Places: slot:1 is the first storage slot, ie:1 the first import/export element, drive:0 the first drive, "
    "shelf is outside the library; a number is an element address."
)


def register(app: typer.Typer) -> None:
    app.command(epilog=f"Example: tapebay load A00001L6 drive:0. {PLACES}")(load)
    app.command(epilog=f"Example: tapebay unload drive:0 slot:5. {PLACES}")(unload)
    app.command(epilog=f"Example: tapebay move A00001L6 ie:1. {PLACES}")(move)


def load(
    cartridge: Cartridge,
    drive: Drive = "drive:0",
    force: Force = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a cartridge into a drive; one that is loaded there already stays as it is."""
    with reporting(as_json):
        show(request(config, "load", cartridge=cartridge, drive=drive, force=force), as_json, _say)


def unload(
    drive: Drive = "drive:0",
    to: Annotated[str | None, typer.Argument(help="Where to; by default the slot it came from.")] = None,
    force: Force = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the cartridge out of a drive, back to its slot."""
    with reporting(as_json):
        show(request(config, "unload", drive=drive, to=to, force=force), as_json, _say)


def move(
    cartridge: Cartridge,
    to: Annotated[str, typer.Argument(help="The place to move it to.")],
    force: Force = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a cartridge to another place, or between the library and the shelf."""
    with reporting(as_json):
        show(request(config, "move", cartridge=cartridge, to=to, force=force), as_json, _say)


def _say(result: dict[str, str]) -> None:
    stays = result["from"] == result["to"]
    where = f"is in {result['to']}" if stays else f"{result['from']} -> {result['to']}"
    typer.echo(f"{result['barcode']}{' ' if stays else ': '}{where}")
