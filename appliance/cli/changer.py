"""tapebay changer: the library's slots."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group


def _changer(row: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{row['slots']} slots, {row['import_export']} import/export slots")


COMMANDS = [
    VerbCommand("changer.resize", _changer, example="tapebay changer resize --slots 40"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay changer`."""
    add_group(app, "changer", "Give the library more or fewer slots.", COMMANDS)
