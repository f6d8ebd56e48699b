"""tapebay restore: from tape to disk, without a server."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add


def _restored(made: dict[str, Any], _given: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    speed = made["stored_bytes"] / max(made["seconds"], 1e-3) / 1e6
    typer.echo(
        f"{made['disk']}: {made['file']} of backup {made['backup']}, {format_size(made['size_bytes'])}, of which"
        f" {format_size(made['stored_bytes'])} came from tape with the right CRC32C at {speed:.0f} MB/s"
    )


COMMANDS = [
    VerbCommand(
        "restore", _restored, doing="Restoring {to_disk}", example="tapebay restore 3 data.img --to-disk data-of-monday"
    )
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay restore`."""
    add(app, COMMANDS)
