"""tapebay request, tapebay requests: a drive with a volume, for one host, as long as it needs it."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add, add_group
from appliance.cli.tables import table


def _one(request: dict[str, Any], _given: dict[str, Any]) -> None:
    where = f", {request['cartridge']} in {request['drive']}" if request["drive"] else ""
    why = f" ({request['why']})" if request["why"] else ""
    typer.echo(f"{request['request']}: {request['state']}{where}{why}")
    if (grant := request.get("grant")) is not None:
        typer.echo(f"portal {', '.join(grant['portals'])}  target {grant['target']}  LUN {grant['lun']}")
        typer.echo(f"user {grant['user']}\nsecret {grant['secret']}")
        typer.echo(f"mutual user {grant['mutual_user']}\nmutual secret {grant['mutual_secret']}")


def _renewed(renewed: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{renewed['request']}: renewed for {renewed['lease_seconds']:g} s")


def _list(requests: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    names = ("request", "state", "initiator", "drive", "cartridge", "why")
    table(
        list(names),
        [tuple(request[name] or "" for name in names) for request in requests],
        empty="None; make one: tapebay request create --initiator IQN",
    )


COMMANDS = [
    VerbCommand("request.create", _one, example="tapebay request create --initiator iqn.1993-08.org.debian:host"),
    VerbCommand("request.show", _one, example="tapebay request show 0123456789abcdef"),
    VerbCommand("request.cancel", _one, example="tapebay request cancel 0123456789abcdef"),
    VerbCommand("grant.renew", _renewed, example="tapebay request renew 0123456789abcdef"),
    VerbCommand("grant.release", _one, example="tapebay request release 0123456789abcdef"),
    VerbCommand("grant.revoke", _one, example="tapebay request revoke 0123456789abcdef"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay request` and `tapebay requests`."""
    add_group(app, "request", "A drive with a volume, for one host, as long as it needs it.", COMMANDS)
    add(app, [VerbCommand("request.list", _list, name="requests")])
