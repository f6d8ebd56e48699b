"""tapebay reservation: who holds what."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import account, table


def _reservations(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["device", "what", "type", "initiator", "as", "key", "logged in", "survives power loss"],
        [
            (
                row["device"],
                row["kind"],
                row["type"],
                f"{row['initiator']},i,0x{row['isid']}",
                account(row["principal"]),
                row["key"],
                "yes" if row["logged_in"] else "no",
                "yes" if row["survives"] else "no",
            )
            for row in rows
        ],
        empty="Nothing is reserved.",
    )


def _broken(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    for row in rows:
        typer.echo(f"{row['device']}: the {row['kind']} of {row['initiator']} is broken")


COMMANDS = [
    VerbCommand("reservation.list", _reservations),
    VerbCommand("reservation.show", _reservations),
    VerbCommand(
        "reservation.break",
        _broken,
        question=lambda given: f"Break the reservations of {given['device']}? Two servers may then write at once.",
        example="tapebay reservation break drive0 --initiator iqn.1993-08.org.debian:dead",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay reservation`."""
    add_group(app, "reservation", "What initiators have reserved; break what dead servers left.", COMMANDS)
