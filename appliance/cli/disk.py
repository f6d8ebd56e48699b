"""tapebay disk: create, import, export, grow, remove and list."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import table


def _made(disk: dict[str, Any], _given: dict[str, Any]) -> None:
    served = "served" if disk["served"] else "served from the daemon's next start"
    typer.echo(f"{disk['name']}: {_size(disk['size_bytes'])}, {disk['image']}, {served}")


def _grown(disk: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{disk['name']}: {_size(disk['size_bytes'])}")


def _exported(image: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{image['name']}: written to {image['image']}")


def _size(length_bytes: int | None) -> str:
    from appliance.settings.units import format_size

    return "missing" if length_bytes is None else format_size(length_bytes)


def _remarks(disk: dict[str, Any]) -> str:
    flags = [flag.replace("_", "-") for flag in ("read_only", "removable") if disk[flag]]
    return ", ".join([*flags, *([disk["problem"]] if disk["problem"] else [])])


def _list(disks: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["name", ">size", ">stored", ">block", "remarks", "image"],
        [
            (
                disk["name"],
                _size(disk["size_bytes"]),
                _size(disk["stored_bytes"]),
                disk["block_size"],
                _remarks(disk),
                disk["image"],
            )
            for disk in disks
        ],
        empty='No disks; make one: tapebay disk create backup "10 GiB"',
    )


COMMANDS = [
    VerbCommand("disk.show", lambda disk, given: _list([disk], given), example="tapebay disk show backup"),
    VerbCommand("disk.create", _made, example='tapebay disk create backup "10 GiB"'),
    VerbCommand("disk.import", _made, example="tapebay disk import backup old.qcow2", doing="Importing {file}"),
    VerbCommand("disk.export", _exported, example="tapebay disk export backup backup.qcow2", doing="Exporting {name}"),
    VerbCommand("disk.grow", _grown, example='tapebay disk grow backup "20 GiB"'),
    VerbCommand(
        "disk.remove",
        lambda disk, _given: typer.echo(f"{disk['name']} is removed; its image stays: {disk['image']}"),
        question=lambda given: f"Remove disk {given['name']}, also from initiators that use it? Its image stays.",
        example="tapebay disk remove backup",
    ),
    VerbCommand("disk.list", _list),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay disk`."""
    add_group(app, "disk", "Make, import, export, grow, remove and list disks.", COMMANDS)
