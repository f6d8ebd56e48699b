"""tapebay plan, apply, show-config: tapebay.toml beside what the library contains."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add
from appliance.cli.foreseen import foreseen_lines


def _plan(planned: dict[str, Any], _given: dict[str, Any]) -> None:
    lines = list(planned["changes"])
    lines += [f"{line}  (left alone: needs apply --prune)" for line in planned["removals"]]
    lines += [f"drift: {line}" for line in planned["drift"]]
    lines += foreseen_lines(planned)
    typer.echo("\n".join(lines) or "tapebay.toml and the library agree.")


COMMANDS = [
    VerbCommand("configuration.plan", _plan),
    VerbCommand("configuration.apply", _plan, example="tapebay apply --prune"),
    VerbCommand("configuration.show", lambda shown, _given: typer.echo(shown["toml"], nl=False), name="show-config"),
]


def register(app: typer.Typer) -> None:
    """Adds them to `tapebay`."""
    add(app, COMMANDS)
