"""tapebay partition: one library cut into several."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.foreseen import said_foreseen
from appliance.cli.tables import joined, table


def _partitions(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["partition", "model", "serial", "slots", "import/export", "drives", "barcodes", ">cartridges"],
        [
            (
                row["name"],
                row["model"],
                row["serial"],
                row["slots"],
                row["import_export"],
                joined(row["drives"]),
                row["barcodes"],
                row["cartridges"],
            )
            for row in rows
        ],
        empty="No partitions: one media changer shows the whole library.",
    )


def _one(row: dict[str, Any], _given: dict[str, Any]) -> None:
    if said_foreseen(row):
        return
    _partitions([row], _given)
    typer.echo(f"element addresses: {joined(f'{kind} {run}' for kind, run in row['addresses'].items())}")


def _deleted(row: dict[str, Any], _given: dict[str, Any]) -> None:
    if not said_foreseen(row):
        typer.echo(f"partition {row['name']} is deleted")


COMMANDS = [
    VerbCommand("partition.list", _partitions),
    VerbCommand("partition.show", _one),
    VerbCommand(
        "partition.create",
        _one,
        example="tapebay partition create payroll --slots 1-20 --import-export 1 --drives drive0 --barcodes 'PAY*'",
    ),
    VerbCommand("partition.change", _one, example="tapebay partition change payroll --add-slots 21-30 --dry-run"),
    VerbCommand(
        "partition.delete",
        _deleted,
        question=lambda given: (
            "" if given.get("dry_run") else f"Delete partition {given['name']}, also from initiators?"
        ),
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay partition`."""
    add_group(
        app, "partition", "Cut the library into several whole ones, each with a media changer of its own.", COMMANDS
    )
