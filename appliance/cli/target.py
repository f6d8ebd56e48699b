"""tapebay target: what initiators log in to."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.foreseen import said_foreseen
from appliance.cli.tables import table


def _targets(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["target", "initiators", "luns"],
        [
            (row["iqn"], ", ".join(row["initiators"]), ", ".join(f"{lun} {name}" for lun, name in row["luns"].items()))
            for row in rows
        ],
    )


def _one_target(row: dict[str, Any], given: dict[str, Any]) -> None:
    if not said_foreseen(row):
        _targets([row], given)


COMMANDS = [
    VerbCommand("target.list", _targets),
    VerbCommand("target.show", _one_target, example="tapebay target show IQN"),
    VerbCommand("target.create", _one_target, example="tapebay target create iqn.2026-11.io.tapebay:second"),
    VerbCommand(
        "target.change", _one_target, example="tapebay target change IQN --initiators 'iqn.1993-08.org.debian:*'"
    ),
    VerbCommand(
        "target.remove",
        lambda row, _given: typer.echo(f"{row['iqn']} is removed"),
        question=lambda given: f"Remove target {given['iqn']} and end its sessions?",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay target`."""
    add_group(app, "target", "Add, change, remove and list targets.", COMMANDS)
