"""tapebay snapshot: disks held as they were at one instant, while they go on being written."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import joined, seconds, table


def _size(length_bytes: int) -> str:
    from appliance.settings.units import format_size

    return format_size(length_bytes)


def _list(snapshots: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["snapshot", "state", "disks", ">stored", ">of at most", ">age", ">expires in", "reason"],
        [
            (
                one["snapshot"],
                one["state"],
                joined(disk["disk"] for disk in one["disks"]),
                _size(one["stored_bytes"]),
                _size(one["budget_bytes"]),
                seconds(one["age_seconds"]),
                seconds(one["seconds_left"]),
                one["reason"],
            )
            for one in snapshots
        ],
        empty="No snapshots; make one: tapebay snapshot create DISK",
    )


def _show(one: dict[str, Any], given: dict[str, Any]) -> None:
    _list([one], given)
    table(
        ["disk", ">size", ">on the disk", ">saved", ">given back", "device", "mark"],
        [
            (
                disk["disk"],
                *(_size(disk[name]) for name in ("size_bytes", "live_bytes", "saved_bytes", "retired_bytes")),
                disk["device"],
                disk["mark"],
            )
            for disk in one["disks"]
        ],
        empty="",
    )


def _made(one: dict[str, Any], _given: dict[str, Any]) -> None:
    disks = ", ".join(disk["disk"] for disk in one["disks"])
    left = seconds(one["seconds_left"])
    typer.echo(f"{one['snapshot']}: {disks} {one['state']}, for {left} at most, in {_size(one['budget_bytes'])}")


def _changes(found: dict[str, Any], _given: dict[str, Any]) -> None:
    table([">offset", ">length"], found["extents"], empty="Nothing has changed.")
    if found["next_offset"] is not None:
        typer.echo(f"More: --offset {found['next_offset']}")


def _over(one: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{one['snapshot']}: {one['state']}" + (f" ({one['reason']})" if one["reason"] else ""))


COMMANDS = [
    VerbCommand("snapshot.create", _made, example="tapebay snapshot create data,log --budget 10G"),
    VerbCommand("snapshot.take", _made),
    VerbCommand("snapshot.list", _list),
    VerbCommand("snapshot.show", _show, example="tapebay snapshot show 0123456789abcdef"),
    VerbCommand("snapshot.renew", _made),
    VerbCommand("snapshot.changes", _changes),
    VerbCommand("snapshot.release", _over, example="tapebay snapshot release 0123456789abcdef"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay snapshot`."""
    add_group(app, "snapshot", "Hold disks as they are at one instant, to copy them while they are written.", COMMANDS)
