"""tapebay request, tapebay requests: a drive with a volume, for one host, as long as it needs it."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add, add_group
from appliance.cli.tables import table


def _one(request: dict[str, Any], _given: dict[str, Any]) -> None:
    why = f" ({request['why']})" if request["why"] else ""
    typer.echo(f"{request['request']}: {request['state']}{why}")
    for unit in request["units"]:
        holds = f", holds {unit['cartridge']}" if unit["cartridge"] else ""
        typer.echo(f"LUN {unit['lun']}  {unit['device']}, serial number {unit['serial_number']}{holds}")
    if (grant := request.get("grant")) is not None:
        typer.echo(f"portal {', '.join(grant['portals'])}  target {grant['target']}")
        typer.echo(f"user {grant['user']}\nsecret {grant['secret']}")
        typer.echo(f"mutual user {grant['mutual_user']}\nmutual secret {grant['mutual_secret']}")


def _renewed(renewed: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{renewed['request']}: renewed for {renewed['lease_seconds']:g} s")


def _list(requests: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["request", "state", "initiator", "drives and cartridges", "why"],
        [(each["request"], each["state"], each["initiator"], _units(each), each["why"]) for each in requests],
        empty="None; make one: tapebay request create --initiator IQN",
    )


def _units(request: dict[str, Any]) -> str:
    return ", ".join(" ".join(filter(None, (unit["device"], unit["cartridge"]))) for unit in request["units"])


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
