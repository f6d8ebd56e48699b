"""tapebay copy, and tapebay copies: what EXTENDED COPY moves and has moved."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add, add_group
from appliance.cli.tables import table


def _list(copies: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    names = ("number", "device", "state", "bytes_written", "initiator", "failed_segment")
    table(
        [">number", "device", "state", ">bytes", "initiator", ">failed"],
        [[copy[name] for name in names] for copy in copies],
        empty="No copies since the daemon's start.",
    )


def _show(copy: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"copy {copy['number']} on {copy['device']} for {copy['initiator']}: {copy['state']}")
    typer.echo(f"{copy['bytes_written']} bytes written, {copy['segments']} segments begun, CRC32C {copy['crc32c']}")
    if copy["reason"]:
        segment = copy["failed_segment"]
        typer.echo(f"{'' if segment is None else f'segment {segment}, '}{copy['reason']}; sense data {copy['sense']}")
    rows = [[result[name] for name in ("segment", "bytes_taken", "crc32c")] for result in copy["results"]]
    table([">segment", ">bytes", "crc32c"], rows, empty="No segment's checksum yet.")


def _changed(copy: dict[str, Any], _given: dict[str, Any]) -> None:
    rate = copy["bytes_per_second"]
    pace = f"at most {rate} bytes a second" if rate else "as fast as can be"
    typer.echo(f"copy {copy['number']} on {copy['device']}: {copy['state']}, {pace}")


def _copied(copied: dict[str, Any], _given: dict[str, Any]) -> None:
    rate = copied["bytes_copied"] / max(copied["seconds"], 0.001) / 1e6
    typer.echo(
        f"{copied['source']} to {copied['destination']}: {copied['bytes_copied']} bytes in {copied['seconds']} s "
        f"({rate:.0f} MB/s), {copied['commands']} commands, CRC32C {copied['crc32c']}"
    )


COPY = VerbCommand(
    "copy",
    _copied,
    doing="Copying {source} to {destination}",
    interrupted="stopped; the destination has what was copied so far, and a tape ends at a whole block",
    example="tapebay copy disk:data@0+2048 cartridge:A00001L6@end",
)
COMMANDS = [
    VerbCommand("copies.list", _list),
    VerbCommand("copies.limit", _changed, example='tapebay copies limit 3 "50 MiB"'),
    VerbCommand("copies.stop", _changed, example="tapebay copies stop 3"),
    VerbCommand("copies.show", _show, example="tapebay copies show 3 --json"),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay copy` and `tapebay copies`."""
    add(app, [COPY])
    add_group(app, "copies", "Copies that initiators had made: how far they are, how they ended.", COMMANDS)
