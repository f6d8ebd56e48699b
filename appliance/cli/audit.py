"""tapebay audit: who changed what, and whether the record of it is whole."""

import json
import time
from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import table


def _list(events: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        [">number", "when", "who", "did", "to", "details"],
        [
            (
                event["number"],
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at_microseconds"] / 1e6)),
                event["actor"],
                event["action"],
                event["subject"],
                json.dumps(event["details"]) if event["details"] else "",
            )
            for event in events
        ],
        empty="Nothing has been changed.",
    )


def _verified(found: dict[str, Any], _given: dict[str, Any]) -> None:
    for fault in found["faults"]:
        typer.secho(fault["problem"], fg="red")
    whole = "the record is NOT as it was written" if found["faults"] else "nothing was changed, removed or reordered"
    typer.echo(f"{found['events']} events, {found['first']} to {found['last']}: {whole}")
    typer.echo(f"newest: {found['last']}:{found['hash']}")


COMMANDS = [
    VerbCommand("audit.list", _list, example="tapebay audit list --subject A00001L6"),
    VerbCommand(
        "audit.verify",
        _verified,
        doing="Checking",
        of_bytes=False,
        fails=lambda found: bool(found["faults"]),
        example="tapebay audit verify",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay audit`."""
    add_group(app, "audit", "Who changed what, when; and whether the record of it is whole.", COMMANDS)
