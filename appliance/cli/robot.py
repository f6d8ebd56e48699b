"""load, unload, move: cartridges between elements, the drives and the shelf."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add

PLACES = (
    "Places: slot:1 is the first storage slot, ie:1 the first import/export element, drive:0 the first drive, "
    "shelf is outside the library; a number is an element address."
)


def _say(moved: dict[str, str], _given: dict[str, Any]) -> None:
    stays = moved["from"] == moved["to"]
    where = f"is in {moved['to']}" if stays else f"{moved['from']} -> {moved['to']}"
    typer.echo(f"{moved['barcode']}{' ' if stays else ': '}{where}")


COMMANDS = [
    VerbCommand("load", _say, example=f"tapebay load A00001L6 drive:0. {PLACES}"),
    VerbCommand("unload", _say, example=f"tapebay unload drive:0 slot:5. {PLACES}"),
    VerbCommand("move", _say, example=f"tapebay move A00001L6 ie:1. {PLACES}"),
]


def register(app: typer.Typer) -> None:
    """Adds them to `tapebay`."""
    add(app, COMMANDS)
