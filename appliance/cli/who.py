"""tapebay who: what an initiator would see, and why."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add
from appliance.cli.tables import luns, table


def _who(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["target", "as", "sees", "because"],
        [
            (
                row["target"],
                row["principal"],
                (luns(_with_partitions(row)) or "no device") if row["admitted"] else "nothing",
                "; ".join(row["reasons"]),
            )
            for row in rows
        ],
    )


def _with_partitions(row: dict[str, Any]) -> dict[str, str]:
    """Each device with the partition that it is in, but for the media changer that has its name."""
    partitions = row["partitions"]
    return {
        lun: f"{name} ({partitions[name]})" if partitions.get(name, name) != name else name
        for lun, name in row["luns"].items()
    }


COMMANDS = [VerbCommand("who", _who, example="tapebay who iqn.1993-08.org.debian:host")]


def register(app: typer.Typer) -> None:
    """Adds it to `tapebay`."""
    add(app, COMMANDS)
