"""tapebay agent: hot backups of the server that this runs on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import ConfigOption, JsonOption, reporting, show
from appliance.failures import Failure, OperatorError

if TYPE_CHECKING:
    from appliance.agent.backup import Job
    from appliance.control.client import Client

Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Directories or files of mounted file systems.")]
Exclude = Annotated[
    list[str], typer.Option("--exclude", metavar="PATTERN", help="Names, or paths below a mount point, to leave out.")
]
MOST_SHOWN = 1000

app = typer.Typer(no_args_is_help=True, help="Hot backups of this server: what its file systems hold, without a pause.")


def register(parent: typer.Typer) -> None:
    """Adds `tapebay agent`."""
    app.command("map")(map_)
    app.command()(backup)
    parent.add_typer(app, name="agent")


def map_(paths: Paths, exclude: Exclude = [], as_json: JsonOption = False) -> None:  # noqa: B006 - typer's way
    """Show where the files of PATH lie on their disks, and which go another way and why. Run it as root.

    It looks at the live file systems, so what it shows is of now; a backup looks at a snapshot.
    """
    with reporting(as_json):
        from appliance.agent.live_map import mapped

        rows = mapped(paths, exclude)
        show(rows, as_json, _map_table)


def backup(
    paths: Paths,
    to: Annotated[list[str], typer.Option("--to", metavar="CARTRIDGE", help="Cartridges, in the order of their use.")],
    exclude: Exclude = [],  # noqa: B006 - typer's way
    before: Annotated[list[str], typer.Option("--before", metavar="COMMAND", help="Run before the instant.")] = [],  # noqa: B006
    after: Annotated[
        list[str], typer.Option("--after", metavar="COMMAND", help="Run after it, whatever happens.")
    ] = [],  # noqa: B006
    drive: Annotated[str | None, typer.Option(help="The drive's name; by default the first that suits.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also cartridges that hold something.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the files of PATH while they are in use: their file systems are held still for a moment, then mapped from
    a snapshot, and the appliance writes them to tape. Run it as root, with TAPEBAY_API and TAPEBAY_TOKEN_FILE."""
    with reporting(as_json):
        import shlex

        from appliance.agent.backup import EXPECTED, Job, explained

        job = Job(
            paths, exclude=exclude, before=[shlex.split(line) for line in before],
            after=[shlex.split(line) for line in after],
        )  # fmt: skip
        try:
            report = _backed_up(job, config, to=to, drive=drive, overwrite=overwrite)
        except EXPECTED as error:
            raise explained(error) from error
        show(report, as_json, _told)
        if report["state"] != "done":
            raise OperatorError(Failure.REFUSED, f"backup {report['number']} is {report['state']}: {report['reason']}")


def _backed_up(job: Job, config: Path | None, **wanted: Any) -> Any:
    from appliance.agent.backup import HotBackup, Sources
    from appliance.agent.mount import Agent

    if os.geteuid():
        raise OperatorError(Failure.REFUSED, "only root may hold a file system still and mount a snapshot; use sudo")
    api = _client(config)
    key = hashlib.sha256(api.token.encode()).hexdigest().encode() if api.token else b""
    sources = Sources(api).of(job.paths)
    hot = HotBackup(api, Agent(api), lambda line: typer.echo(line, err=True), key=key)
    return hot.run(job, sources, **wanted)


def _client(config: Path | None) -> Client:
    """Of TAPEBAY_API, or of the library on this machine."""
    from appliance.control.client import Client
    from appliance.settings import config_file

    return Client.from_environment() or Client.at_socket(config_file.control_socket(config_file.find(config)))


def _told(report: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    typer.echo(
        f"backup {report['number']}: {report['state']}, {report['files']} files, {format_size(report['content_bytes'])}"
        f" on {', '.join(volume['barcode'] for volume in report['volumes'])}, {report['skipped']} left out"
    )


def _map_table(rows: list[dict[str, Any]]) -> None:
    from appliance.cli.tables import table
    from appliance.settings.units import format_size

    table(
        ["path", "kind", ">size", "where"],
        [(row["path"], row["kind"], format_size(row["size"]), row["where"]) for row in rows[:MOST_SHOWN]],
        empty="There is nothing.",
    )
    if len(rows) > MOST_SHOWN:
        typer.echo(f"and {len(rows) - MOST_SHOWN} more; --json has all")
