"""tapebay session: who is logged in."""

import time
from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import account, joined, session_state, table


def _sessions(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        [">session", "initiator", "as", "target", "from", "since", "state", "holds", ">commands", ">MB in", ">MB out"],
        [
            (
                row["id"],
                row["initiator"],
                account(row["principal"]),
                row["target"],
                row["address"],
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since"])),
                session_state(row),
                joined(row["holds"]),
                row["commands"],
                f"{row['bytes_in'] / 1e6:.1f}",
                f"{row['bytes_out'] / 1e6:.1f}",
            )
            for row in rows
        ],
        empty="No sessions.",
    )


def _one_session(row: dict[str, Any], _given: dict[str, Any]) -> None:
    for name, value in row.items():
        typer.echo(f"{name.replace('_', ' ')}: {joined(value) if isinstance(value, list) else value}")


COMMANDS = [
    VerbCommand("session.list", _sessions),
    VerbCommand("session.show", _one_session),
    VerbCommand(
        "session.end",
        lambda row, _given: typer.echo(f"session {row['id']} of {row['initiator']} is ended"),
        question=lambda given: f"End session {given['id']} and abort its commands?",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay session`."""
    add_group(app, "session", "Who is logged in; end a session.", COMMANDS)
