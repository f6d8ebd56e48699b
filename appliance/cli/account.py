"""tapebay account: CHAP accounts."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.foreseen import said_foreseen
from appliance.cli.tables import table


def _accounts(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["user", "initiator", "target", "mutual", "zones"],
        [
            (row["user"], row["initiator"], row["target"], "yes" if row["mutual"] else "no", ", ".join(row["zones"]))
            for row in rows
        ],
        empty="No accounts: nobody is asked to log in.",
    )


def _made(row: dict[str, Any], given: dict[str, Any]) -> None:
    if not said_foreseen(row):
        _accounts([row], given)


def _deleted(row: dict[str, Any], _given: dict[str, Any]) -> None:
    if not said_foreseen(row):
        typer.echo(f"the account of {row['user']} is deleted")


COMMANDS = [
    VerbCommand("account.list", _accounts),
    VerbCommand(
        "account.create",
        _made,
        example="tapebay account create backup --secret-file backup.secret",
    ),
    VerbCommand("account.show", lambda row, given: _accounts([row], given)),
    VerbCommand(
        "account.change",
        lambda row, given: _accounts([row], given),
        example="tapebay account change backup --secret-command 'pass show backup'",
    ),
    VerbCommand(
        "account.delete",
        _deleted,
        question=lambda given: (
            "" if given.get("dry_run") else f"Delete the account of {given['user']} and end its sessions?"
        ),
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay account`."""
    add_group(app, "account", "Make, change, delete and list CHAP accounts.", COMMANDS)
