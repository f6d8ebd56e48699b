"""tapebay restore: from tape to disk, without a server."""

from pathlib import Path
from typing import Any

import typer

from appliance.cli.ask import ask_by_name
from appliance.cli.commands import VerbCommand, add


def _restored(made: dict[str, Any], given: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    if made["dry_run"]:
        _show_plan(made)
        return
    speed = made["stored_bytes"] / max(made["seconds"], 1e-3) / 1e6
    typer.echo(
        f"{made['disk']}: {made['file']} of backup {made['backup']}, {format_size(made['size_bytes'])}, of which"
        f" {format_size(made['stored_bytes'])} came from tape with the right CRC32C at {speed:.0f} MB/s"
    )


def _show_plan(made: dict[str, Any]) -> None:
    for line in made["plan"]:
        typer.echo(line, err=True)


def _plan(config: Path | None, given: dict[str, Any]) -> None:
    """What is about to be overwritten, and by what, is said before the question."""
    if not given.get("dry_run"):
        _show_plan(ask_by_name(config, "restore", **{**given, "dry_run": True}))


def _question(given: dict[str, Any]) -> str:
    if "over" not in given or given.get("dry_run"):
        return ""
    return f"Overwrite {given['over']}? What is on it is lost."


COMMANDS = [
    VerbCommand(
        "restore", _restored, doing="Restoring", question=_question, before=_plan,
        example="tapebay restore 3 data.img --to-disk data-of-monday",
    )
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds `tapebay restore`."""
    add(app, COMMANDS)
