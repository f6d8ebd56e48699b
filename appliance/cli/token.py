"""tapebay token: who is let in by the API on TCP."""

import time
from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import table


def _list(tokens: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["token", "scope", "partitions", "pools", "expires", "last used"],
        [
            (
                token["name"],
                token["scope"],
                _reach(token["partitions"]),
                _reach(token["pools"]),
                "expired" if token["expired"] else _time(token["expires_at_ms"], "never"),
                _time(token["last_used_at_ms"], ""),
            )
            for token in tokens
        ],
        empty="None; make one: tapebay token create NAME --scope read",
    )


def _created(token: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(token["token"])
    typer.echo(f"{token['name']}: {token['scope']}; this is shown once, so keep it now", err=True)


def _reach(names: list[str] | None) -> str:
    return "all" if names is None else ", ".join(names)


def _time(at_ms: int | None, otherwise: str) -> str:
    return otherwise if at_ms is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at_ms / 1000))


COMMANDS = [
    VerbCommand("token.create", _created, example="tapebay token create payroll --scope operate --days 90"),
    VerbCommand("token.list", _list),
    VerbCommand("token.show", lambda token, given: _list([token], given), example="tapebay token show payroll"),
    VerbCommand(
        "token.revoke",
        lambda token, _given: typer.echo(f"{token['name']} is revoked"),
        example="tapebay token revoke payroll",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay token`."""
    add_group(app, "token", "What applications show to be let in by the API on TCP.", COMMANDS)
