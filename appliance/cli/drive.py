"""tapebay drive: the library's tape drives."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import table


def _drives(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    columns = ["name", "place", "model", "cartridge"]
    table(columns, [[row[column] for column in columns] for row in rows], empty="No drives.")


def _drive_made(row: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{row['name']}: {row['model']}, {row['place']}")


def _drive_gone(row: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{row['name']} is removed")


COMMANDS = [
    VerbCommand("drive.list", _drives),
    VerbCommand("drive.show", lambda row, given: _drives([row], given), example="tapebay drive show drive0"),
    VerbCommand("drive.create", _drive_made, example="tapebay drive create drive2"),
    VerbCommand("drive.remove", _drive_gone, question=lambda given: f"Remove {given['name']}, also from initiators?"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay drive`."""
    add_group(app, "drive", "Add, remove and list tape drives.", COMMANDS)
