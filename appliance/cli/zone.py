"""tapebay zone: which initiators and accounts see which devices."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.foreseen import said_foreseen
from appliance.cli.tables import joined, luns, table


def _zones(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["zone", "initiators", "accounts", "devices", "own LUNs", "only from"],
        [
            (
                row["name"],
                joined(row["initiators"]),
                joined(row["accounts"]),
                joined([*row["devices"], *(f"{name} (remote)" for name in row["remotes"])]),
                luns(row["luns"]),
                joined([*row["networks"], *(f"portal group {group}" for group in row["portal_groups"])]),
            )
            for row in rows
        ],
        empty="No zones: every initiator that a target admits sees all of its devices.",
    )


def _one_zone(row: dict[str, Any], given: dict[str, Any]) -> None:
    if not said_foreseen(row):
        _zones([row], given)


def _deleted(row: dict[str, Any], _given: dict[str, Any]) -> None:
    if not said_foreseen(row):
        typer.echo(f"zone {row['name']} is deleted")


def _question(given: dict[str, Any]) -> str:
    return (
        "" if given.get("dry_run") else f"Delete zone {given['name']} and end the sessions that see nothing without it?"
    )


COMMANDS = [
    VerbCommand("zone.list", _zones),
    VerbCommand("zone.show", _one_zone),
    VerbCommand(
        "zone.create",
        _one_zone,
        example="tapebay zone create payroll --accounts payroll --devices drive1,disk0",
    ),
    VerbCommand("zone.change", _one_zone, example="tapebay zone change payroll --add-devices drive2 --dry-run"),
    VerbCommand("zone.delete", _deleted, question=_question),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay zone`."""
    add_group(app, "zone", "Say which initiators and accounts see which devices.", COMMANDS)
