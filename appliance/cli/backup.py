"""tapebay backup: the files of disks to tape. `tapebay backup DISK... --to CARTRIDGE` is `tapebay backup start`."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import seconds, table

FIRST = "start"  # what is meant where no command is named


class StartsBackups(TyperGroup):
    """Takes the name of a disk for that of no command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = [FIRST, *args]
        return super().resolve_command(ctx, args)


def costs(backup: dict[str, Any]) -> Iterator[str]:
    """What it cost each server, and the library, a line each."""
    from appliance.settings.units import format_size

    if not backup["servers"]:
        yield "Bytes over a server's network: 0"
    for part in backup["servers"]:
        if part["snapshot"] is None:
            yield f"server {part['server']}: it has not come yet"
            continue
        share = part["network_bytes"] / max(part["content_bytes"], 1)
        each = part["processor_seconds_per_gibibyte"]
        yield (
            f"server {part['server']}, {', '.join(part['disks'])}: {part['payload_bytes']} bytes of files over its "
            f"network, {format_size(part['network_bytes'])} in all ({share:.2%} of the content), "
            f"{part['processor_seconds']:g} s of its processor{f', {each:g} s a GiB' if each is not None else ''}"
        )
    if backup["processor_seconds_per_gibibyte"] is not None:
        yield (
            f"the library's processor: {backup['processor_seconds']:g} s, "
            f"{backup['processor_seconds_per_gibibyte']:g} s a GiB"
        )


def _report(backup: dict[str, Any], _given: dict[str, Any]) -> None:
    number, state = backup["number"], backup["state"]
    why = f": {backup['reason']}" if backup["reason"] else ""
    typer.echo(f"backup {number} of {', '.join(backup['disks'])}: {state}{why}")
    if backup["since"] is not None:
        typer.echo(f"an increment: what has changed since backup {backup['since']}")
    elif backup["full_because"]:
        typer.echo(f"a full one, not an increment: {backup['full_because']}")
    rate = f", {backup['megabytes_per_second']:g} MB/s" if backup["megabytes_per_second"] is not None else ""
    files = f"{backup['files']} of {backup['total_files']} files"
    content = f"{backup['content_bytes']} of {backup['total_bytes']} bytes"
    left = f", about {seconds(backup['seconds_left'])} left" if backup["seconds_left"] is not None else ""
    typer.echo(f"{files}, {content}{rate}{left}")
    for line in costs(backup):
        typer.echo(line)
    for part in backup["parts"]:
        typer.echo(f"{part['prefix']}: {part['kind']}")
    table(
        [">volume", "cartridge", ">bytes", "state"],
        [
            (volume["number"], volume["barcode"], volume["archive_bytes"] or "", _state(volume))
            for volume in backup["volumes"]
        ],
        empty="No cartridge yet.",
    )
    if backup["skipped"]:
        typer.echo(f"{backup['skipped']} files were left out:")
    for skipped in backup["left_out"]:
        typer.echo(f"  {skipped['name']}: {skipped['reason']}")
    if state == "done" and backup["since"] is not None:
        typer.echo(
            "Extract it after the backups that it follows, oldest first, with -G, which removes what is gone: "
            "mt -f /dev/nst0 setblk 0; tar -b 512 -xpGf /dev/nst0"
        )
    elif state == "done":
        typer.echo("List it on any host: mt -f /dev/nst0 setblk 0; tar -b 512 -tvf /dev/nst0")
    elif state in ("failed", "cancelled", "interrupted"):
        typer.echo(f"Go on at its last checkpoint: tapebay backup resume {number}")


def _state(volume: dict[str, Any]) -> str:
    if volume["lost"]:
        return "lost: another backup was written over it"
    if not volume["closed"]:
        return "begun"
    if volume["cut"]:
        return "cut short at a checkpoint: it took nothing more"
    return "complete" if volume["indexed"] else "complete, without an index"


def _list(backups: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        [">number", ">since", "state", ">left", "disks", "cartridges", ">files", ">bytes", "reason"],
        [
            (
                backup["number"],
                "" if backup["since"] is None else backup["since"],
                backup["phase"] or backup["state"],
                seconds(backup["seconds_left"]),
                " ".join(backup["disks"]),
                " ".join(backup["cartridges"]),
                f"{backup['files']}/{backup['total_files']}",
                backup["content_bytes"],
                backup["reason"],
            )
            for backup in backups
        ],
        empty="None; make one: tapebay backup DISK --to CARTRIDGE",
    )


def _gathering(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["job", "has come", "has not come"],
        [(row["job"], " ".join(row["come"]), " ".join(row["missing"])) for row in rows],
        empty="No backup waits for a server.",
    )


def _deleted(backup: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"backup {backup['number']} is forgotten; {', '.join(backup['cartridges'])} are as they were")


def _unfinished(backup: dict[str, Any]) -> bool:
    return backup["state"] in ("failed", "cancelled", "interrupted")


_GOES_ON = "the backup goes on; look at it: tapebay backup list, stop it: tapebay backup cancel"
COMMANDS = [
    VerbCommand(
        "backup.start", _report, doing="Backing up", interrupted=_GOES_ON, fails=_unfinished,
        example="tapebay backup data --to A00001L6 --to A00002L6",
    ),
    VerbCommand(
        "backup.gather", _report, doing="Backing up", interrupted=_GOES_ON, fails=_unfinished,
        example="tapebay backup gather nightly --server web --server mail --disk archive --to A00001L6",
    ),
    VerbCommand("backup.gathering", _gathering, example="tapebay backup gathering"),
    VerbCommand("backup.list", _list),
    VerbCommand("backup.show", _report, example="tapebay backup show 3"),
    VerbCommand(
        "backup.resume", _report, doing="Backing up", interrupted=_GOES_ON, fails=_unfinished,
        example="tapebay backup resume 3 --to A00003L6",
    ),
    VerbCommand("backup.wait", _report, doing="Backing up", interrupted=_GOES_ON, fails=_unfinished),
    VerbCommand(
        "backup.delete", _deleted,
        question=lambda given: f"Forget backup {given['number']} and its catalogue?",
    ),
    VerbCommand("backup.cancel", _report, example="tapebay backup cancel 3"),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds `tapebay backup`."""
    text = "The files of disks to tape, without a server: tapebay backup DISK... --to CARTRIDGE. A tape that tar lists."
    add_group(app, "backup", text, COMMANDS, kind=StartsBackups)
