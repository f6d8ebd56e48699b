"""tapebay zone, who, reservation, session: who sees what, who holds what."""

from typing import Any

import typer

from appliance.cli.commands import Command, add
from appliance.cli.options import table

zone = typer.Typer(no_args_is_help=True, help="Say which initiators and accounts see which devices.")


def _joined(values: Any) -> str:
    return ", ".join(map(str, values))


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


COMMANDS = [
    (zone, Command("zone.list", _zones)),
    (zone, Command("zone.show", _one_zone)),
    (
        zone,
        Command(
            "zone.create",
            _one_zone,
            example="tapebay zone create payroll --accounts payroll --devices drive1,disk0",
        ),
    ),
    (zone, Command("zone.change", _one_zone, example="tapebay zone change payroll --devices drive1,drive2,disk0")),
    (
        zone,
        Command(
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
    app.add_typer(zone, name="zone")
    add(app, Command("who", _who, name="who", example="tapebay who iqn.1993-08.org.debian:host"))
