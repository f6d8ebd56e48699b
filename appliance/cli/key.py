"""tapebay key: the working keys that make the keys of grants, and what is denied."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import table


def _keys(shown: dict[str, Any], _given: dict[str, Any]) -> None:
    rows = [(str(row["version"]), "yes" if row["current"] else "", str(row["grants"])) for row in shown["working_keys"]]
    table(["working key", "makes keys", "live grants"], rows, empty="None")
    if shown["denied_tags"]:
        typer.echo(f"Denied tags: {', '.join(shown['denied_tags'])}")


def _ended(shown: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"Denied. {shown['grants_ended']} grants ended.")


COMMANDS = [
    VerbCommand("key.list", _keys, example="tapebay key list"),
    VerbCommand("key.rotate", _keys, example="tapebay key rotate"),
    VerbCommand("key.deny", _ended, example="tapebay key deny --tag nightly"),
    VerbCommand("key.allow", _keys, example="tapebay key allow --tag nightly"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay key`."""
    add_group(app, "key", "Working keys of the gate, and what is denied.", COMMANDS)
