"""tapebay remote: disks and tape drives of other iSCSI targets."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import table


def _added(unit: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{unit['name']}: {unit['kind']} {unit['naa']}, {unit['address']}")


def _removed(unit: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{unit['name']}: removed, {unit['address']}")


def _list(units: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["name", "kind", "naa", "address", "target"],
        [tuple(unit[name] for name in ("name", "kind", "naa", "address", "target")) for unit in units],
        empty="None; add one: tapebay remote add array iscsi://HOST:3260/IQN/LUN",
    )


COMMANDS = [
    VerbCommand("remote.add", _added, example="tapebay remote add array iscsi://192.0.2.7/iqn.2026-01.org.example:a/1"),
    VerbCommand("remote.list", _list),
    VerbCommand("remote.show", _added, example="tapebay remote show array"),
    VerbCommand("remote.reach", _added, example="tapebay remote reach array"),
    VerbCommand("remote.remove", _removed, example="tapebay remote remove array"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay remote`."""
    add_group(app, "remote", "Disks and tape drives of other iSCSI targets, to copy from and to.", COMMANDS)
