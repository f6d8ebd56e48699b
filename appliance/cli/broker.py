"""tapebay broker: who makes grants of requests."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group


def _broker(shown: dict[str, Any], _given: dict[str, Any]) -> None:
    down = f"{shown['why'][:1].upper()}{shown['why'][1:]}: nothing is granted, and live grants go on"
    state = "The broker serves requests" if shown["up"] else down
    typer.echo(f"{state}. {shown['live']} grants, {shown['waiting']} requests wait.")


COMMANDS = [
    VerbCommand("broker.show", _broker, example="tapebay broker show"),
    VerbCommand("broker.stop", _broker, example="tapebay broker stop"),
    VerbCommand("broker.start", _broker, example="tapebay broker start"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay broker`."""
    add_group(app, "broker", "Who makes grants of requests.", COMMANDS)
