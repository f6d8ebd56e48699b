"""tapebay status, health: what the running daemon serves, and whether it lives."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add
from appliance.cli.tables import session_state, table


def _status(report: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{report['library']}: Tapebay {report['version']}, process {report['pid']}, {report['config']}")
    for portal in report["portals"]:
        advertised = f", advertised as {portal['advertised']}" if portal["advertised"] else ""
        typer.echo(f"portal {portal['listen']}{advertised}, portal group {portal['group']}")
    for target in report["targets"]:
        _target(report, f"target {target['iqn']}", target["luns"])
    if (gate := report["gate"]) is not None:
        _target(report, f"gate {gate['iqn']}, which the keys of grants open", gate["luns"])
    for device in report["devices"]:
        if device["problem"]:
            typer.secho(f"{device['name']} is not served: {device['problem']}", fg="red")
    table(
        ["place", ">address", "partition", "cartridge", "from"],
        [
            (row["place"], row["address"], _partition(row), row["barcode"], row["source"])
            for row in report["elements"]
            if row["barcode"]
        ],
        title="Cartridges in the library",
        empty="No cartridges in the library.",
    )
    free = sum(row["barcode"] is None and row["place"].startswith("slot:") for row in report["elements"])
    shelf = f"; on the shelf: {', '.join(report['shelf'])}" if report["shelf"] else ""
    typer.echo(f"{free} free slots{shelf}")
    for storage in report["storage"]:
        typer.echo(_storage(storage))
    if (broker := report["broker"]) is not None and not broker["up"]:
        typer.secho(f"{broker['why']}: nothing is granted, and live grants go on", fg="red")
    table(
        ["initiator", "target", "address", "state", ">commands"],
        [
            (row["initiator"], row["target"], row["address"], session_state(row), row["commands"])
            for row in report["sessions"]
        ],
        title="Sessions",
        empty="No sessions.",
    )


def _target(report: dict[str, Any], line: str, luns: dict[str, str]) -> None:
    typer.echo(line)
    columns = ["lun", "device", "partition", "type", "model", "serial", "holds"]
    table(columns, _devices(report, luns), empty="No devices.")


def _storage(storage: dict[str, Any]) -> str:
    from appliance.settings.units import format_size

    full = ": FULL, writes fail or are about to" if storage["full"] else ""
    free, total = format_size(storage["free_bytes"]), format_size(storage["total_bytes"])
    return f"storage of {', '.join(storage['holds'])}: {free} free of {total} ({storage['path']}){full}"


def _devices(report: dict[str, Any], luns: dict[str, str]) -> list[tuple[object, ...]]:
    """Of a device that only grants show, a snapshot's, the name alone."""
    devices = {device["name"]: device for device in report["devices"]}
    columns = ("partition", "type", "model", "serial", "holds")
    return [
        (lun, name, *(devices[name][column] if name in devices else "" for column in columns))
        for lun, name in luns.items()
    ]


def _partition(row: dict[str, Any]) -> str:
    """The partition of an element, and its address there."""
    return f"{row['partition']} {row['partition_address']}" if row["partition"] else ""


COMMANDS = [
    VerbCommand(
        "status",
        _status,
        help="Show what the running daemon serves: portals, targets, the gate, devices, cartridges, storage, sessions.",
    ),
    VerbCommand(
        "health",
        lambda _report, _given: None,
        help="Exit with 0 when the daemon answers, 4 when not. For container health checks.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds them to `tapebay`."""
    add(app, COMMANDS)
