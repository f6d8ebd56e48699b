"""tapebay zone, who, reservation, session: who sees what, who holds what."""

import time
from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add
from appliance.cli.options import table

session = typer.Typer(no_args_is_help=True, help="Who is logged in; end a session.")
reservation = typer.Typer(no_args_is_help=True, help="What initiators have reserved; break what dead servers left.")
zone = typer.Typer(no_args_is_help=True, help="Say which initiators and accounts see which devices.")


def _joined(values: Any) -> str:
    return ", ".join(map(str, values))


def _account(principal: str) -> str:
    """An account; nothing for who is no more than the initiator that stands beside it."""
    return principal if principal.startswith("account ") else ""


def _luns(luns: dict[str, str]) -> str:
    return _joined(f"{lun} {name}" for lun, name in luns.items())


def _zones(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["zone", "initiators", "accounts", "devices", "own LUNs", "only from"],
        [
            (
                row["name"],
                _joined(row["initiators"]),
                _joined(row["accounts"]),
                _joined([*row["devices"], *(f"{name} (remote)" for name in row["remotes"])]),
                _luns(row["luns"]),
                _joined([*row["networks"], *(f"portal group {group}" for group in row["portal_groups"])]),
            )
            for row in rows
        ],
        empty="No zones: every initiator that a target admits sees all of its devices.",
    )


def _one_zone(row: dict[str, Any], given: dict[str, Any]) -> None:
    _zones([row], given)


def _who(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["target", "as", "sees", "because"],
        [
            (
                row["target"],
                row["principal"],
                (_luns(row["luns"]) or "no device") if row["admitted"] else "nothing",
                "; ".join(row["reasons"]),
            )
            for row in rows
        ],
    )


def _sessions(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        [">session", "initiator", "as", "target", "from", "since", "holds", ">commands", ">MB in", ">MB out"],
        [
            (
                row["id"],
                row["initiator"],
                _account(row["principal"]),
                row["target"],
                row["address"],
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since"])),
                _joined(row["holds"]),
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
        typer.echo(f"{name.replace('_', ' ')}: {_joined(value) if isinstance(value, list) else value}")


def _reservations(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["device", "what", "type", "initiator", "as", "key", "logged in", "survives power loss"],
        [
            (
                row["device"],
                row["kind"],
                row["type"],
                f"{row['initiator']},i,0x{row['isid']}",
                _account(row["principal"]),
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
    (session, VerbCommand("session.list", _sessions)),
    (session, VerbCommand("session.show", _one_session)),
    (
        session,
        VerbCommand(
            "session.end",
            lambda row, _given: typer.echo(f"session {row['id']} of {row['initiator']} is ended"),
            question=lambda given: f"End session {given['id']} and abort its commands?",
        ),
    ),
    (reservation, VerbCommand("reservation.list", _reservations)),
    (
        reservation,
        VerbCommand(
            "reservation.break",
            _broken,
            question=lambda given: f"Break the reservations of {given['device']}? Two servers may then write at once.",
            example="tapebay reservation break drive0 --initiator iqn.1993-08.org.debian:dead",
        ),
    ),
    (zone, VerbCommand("zone.list", _zones)),
    (zone, VerbCommand("zone.show", _one_zone)),
    (
        zone,
        VerbCommand(
            "zone.create",
            _one_zone,
            example="tapebay zone create payroll --accounts payroll --devices drive1,disk0",
        ),
    ),
    (zone, VerbCommand("zone.change", _one_zone, example="tapebay zone change payroll --devices drive1,drive2,disk0")),
    (
        zone,
        VerbCommand(
            "zone.delete",
            lambda row, _given: typer.echo(f"zone {row['name']} is deleted"),
            question=lambda given: f"Delete zone {given['name']} and end the sessions that see nothing without it?",
        ),
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the groups to `tapebay`."""
    for group, command in COMMANDS:
        add(group, command)
    for name, group in (("zone", zone), ("session", session), ("reservation", reservation)):
        app.add_typer(group, name=name)
    add(app, VerbCommand("who", _who, name="who", example="tapebay who iqn.1993-08.org.debian:host"))
