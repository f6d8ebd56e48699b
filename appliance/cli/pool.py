"""tapebay pool: cartridges that belong together."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import joined, table


def _pools(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["pool", "barcodes", "cartridges", ">holds", ">blank"],
        [
            (
                row["name"],
                row["barcodes"],
                joined(row["cartridges"]),
                row["holds"],
                "looking" if row["blank"] is None else row["blank"],
            )
            for row in rows
        ],
        empty="No pools: requests take any blank cartridge.",
    )


def _one(row: dict[str, Any], given: dict[str, Any]) -> None:
    _pools([row], given)


def _deleted(row: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"pool {row['name']} is deleted; its cartridges are in no pool now")


COMMANDS = [
    VerbCommand("pool.list", _pools),
    VerbCommand("pool.show", _one),
    VerbCommand("pool.create", _one, example="tapebay pool create databases --barcodes 'DB*'"),
    VerbCommand("pool.change", _one, example="tapebay pool change databases --add-cartridges A00001L6"),
    VerbCommand(
        "pool.delete",
        _deleted,
        question=lambda given: f"Delete pool {given['name']}? Tokens that are for it reach nothing then.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay pool`."""
    add_group(app, "pool", "Say which cartridges belong together.", COMMANDS)
