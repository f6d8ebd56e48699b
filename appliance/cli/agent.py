"""tapebay agent: hot backups of the server that this runs on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import ConfigOption, JsonOption, YesOption, confirm, reporting, show
from appliance.failures import Failure, OperatorError

if TYPE_CHECKING:
    from appliance.agent.backup import AgentJob, HotBackup
    from appliance.agent.network_process import NetworkProcess
    from appliance.control.client import Client

Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Directories or files of mounted file systems.")]
Exclude = Annotated[
    list[str], typer.Option("--exclude", metavar="PATTERN", help="Names, or paths below a mount point, to leave out.")
]
Incremental = Annotated[
    bool, typer.Option("--incremental", help="Only what has changed since the newest backup of the same paths.")
]
DEFAULT_FILE = Path("/etc/tapebay/agent.toml")
AgentFile = Annotated[Path, typer.Option("--agent-file", metavar="FILE", help="The agent's own settings.")]
MOST_SHOWN = 1000

app = typer.Typer(no_args_is_help=True, help="Hot backups of this server: what its file systems hold, without a pause.")


def register(parent: typer.Typer) -> None:
    """Adds `tapebay agent`."""
    app.command("map")(map_)
    app.command()(backup)
    app.command()(pair)
    app.command()(run)
    app.command()(serve)
    app.command()(restore)
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
    incremental: Incremental = False,
    patience: Annotated[
        float, typer.Option(min=0, max=86400, help="Seconds for which one that fails is resumed again and again.")
    ] = 600.0,
    image: Annotated[bool, typer.Option("--image", help="Images of the disks, in place of files.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the files of PATH while they are in use: their file systems are held still for a moment, then mapped from
    a snapshot, and the appliance writes them to tape. Run it as root, with TAPEBAY_API and TAPEBAY_TOKEN_FILE."""
    with reporting(as_json):
        import shlex

        from appliance.agent.backup import AgentJob

        job = AgentJob(
            paths, exclude=exclude, before=[shlex.split(line) for line in before],
            after=[shlex.split(line) for line in after], patience_seconds=patience, image=image,
        )  # fmt: skip
        wanted = {"to": to, "drive": drive, "overwrite": overwrite, "incremental": incremental}
        _report(job, _client(config), as_json, **wanted)


def pair(
    url: Annotated[str, typer.Argument(metavar="URL", help="https://HOST:PORT of the appliance's API.")],
    token_file: Annotated[Path, typer.Option(metavar="FILE", help="A token of scope operate, mode 0600.")],
    certificate_authority: Annotated[
        Path | None, typer.Option(metavar="FILE", help="In PEM; by default the system's.")
    ] = None,
    agent_file: AgentFile = DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Pair this server with an appliance, once: asks it, and keeps how in /etc/tapebay/agent.toml."""
    with reporting(as_json):
        from appliance.agent import pairing
        from appliance.settings import secrets

        try:
            token = secrets.from_file(token_file)
        except secrets.SecretError as error:
            raise OperatorError(Failure.USAGE, str(error)) from None
        made = pairing.pair(url, token, certificate_authority, agent_file)
        show(made, as_json, lambda _: typer.echo(f"{agent_file} is there; add [[jobs]], then: tapebay agent run NAME"))


def run(
    name: Annotated[str, typer.Argument(metavar="JOB", help="The name of one of the [[jobs]].")],
    incremental: Incremental = False,
    agent_file: AgentFile = DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Make a backup that /etc/tapebay/agent.toml names, with the appliance that this server is paired with."""
    with reporting(as_json):
        from appliance.agent import pairing

        settings = pairing.load(agent_file)
        wanted = settings.job(name)
        if not wanted.to:
            raise OperatorError(Failure.CONFIGURATION, f"job {name} names no cartridges; add: to = [...]")
        job = pairing.job_of(wanted)
        options = {"to": wanted.to, "drive": wanted.drive, "overwrite": wanted.overwrite}
        options["incremental"] = incremental or wanted.incremental
        _report(job, pairing.client_of(settings, agent_file), as_json, **options)


def serve(agent_file: AgentFile = DEFAULT_FILE) -> None:
    """Take part in backups of several servers (tapebay backup gather) whenever this one is wanted; its jobs are
    those of /etc/tapebay/agent.toml."""
    with reporting(False):
        from appliance.agent import pairing, serving
        from appliance.agent.backup import MountedSource, MountedSources

        settings = pairing.load(agent_file)
        hot = _hot(pairing.client_of(settings, agent_file))
        hot.name = settings.appliance.server or hot.name

        def found(name: str) -> tuple[AgentJob, list[MountedSource]]:
            job = pairing.job_of(pairing.load(agent_file).job(name))  # as it is now
            return job, MountedSources(hot.api).of(job.paths)

        typer.echo(f"this server is {hot.name}", err=True)
        serving.serve(hot, found, hot.api)


def restore(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a directory with all below it.")],
    backup: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Of the backup; by default the newest that has it.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What the backup calls PATH, if not so.")] = None,
    drive: Annotated[str | None, typer.Option(help="The drive's name; by default the first that suits.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which file would come back which way.")] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the content of files back from a backup into the blocks where they are, past this server. Run it as root.

    Files that are gone, have another size now or are in use come back by tar: which, and why, is said first.
    """
    with reporting(as_json):
        from appliance.agent.asking import Asking
        from appliance.agent.backup import MountedSources, server_name
        from appliance.agent.file_systems import NotMapped
        from appliance.agent.restoring import Restoring

        if os.geteuid():
            raise OperatorError(Failure.REFUSED, "only root may keep everybody else from a file; use sudo")
        api = Asking(_without_rights(_client(config)))
        try:
            source, real = MountedSources(api).of([path])[0], path.resolve()
        except NotMapped as error:
            raise OperatorError(Failure.REFUSED, f"{error}; take it from the tape with tar") from error
        here = str(real).strip("/")
        names = [name.strip("/")] if name else [here, f"{server_name()}/{here}"]  # the other: of several servers
        restoring = Restoring(api, source, real, names, lambda line: typer.echo(line, err=True), drive)
        number = backup or restoring.newest()
        ways = restoring.plan(number)
        rows = [way.told() for way in ways]
        if dry_run:
            show(rows, as_json, _ways)
            return
        if not as_json:
            _ways(rows)
        count = sum(row["way"] == "in place" for row in rows)
        confirm(f"Overwrite {count} files with what they were in backup {number}?" if count else "", yes)
        done = restoring.run(number, ways)
        show(done, as_json, lambda _: typer.echo(f"{sum(not row['why'] for row in done)} of {len(rows)} restored"))


def _ways(rows: list[dict[str, Any]]) -> None:
    from appliance.cli.tables import table
    from appliance.settings.units import format_size

    table(
        ["path", ">size", "way", "why", "cartridge", ">block"],
        [
            (row["path"], format_size(row["size"]), row["way"], row["why"], row["cartridge"], row["block"])
            for row in rows[:MOST_SHOWN]
        ],
        empty="There is nothing.",
    )
    if len(rows) > MOST_SHOWN:
        typer.echo(f"and {len(rows) - MOST_SHOWN} more; --json has all")


def _report(job: AgentJob, api: Client, as_json: bool, **wanted: Any) -> None:
    from appliance.agent.backup import EXPECTED, explained

    try:
        report = _backed_up(job, api, **wanted)
    except EXPECTED as error:
        raise explained(error) from error
    show(report, as_json, _told)
    if report["state"] != "done":
        raise OperatorError(Failure.REFUSED, f"backup {report['number']} is {report['state']}: {report['reason']}")


def _backed_up(job: AgentJob, api: Client, **wanted: Any) -> Any:
    from appliance.agent.backup import MountedSources

    hot = _hot(api)
    return hot.run(job, MountedSources(hot.api).of(job.paths), **wanted)


def _hot(api: Client) -> HotBackup:
    from appliance.agent.asking import Asking
    from appliance.agent.backup import HotBackup
    from appliance.agent.mount import Agent
    from appliance.agent.network_process import NetworkProcess

    if os.geteuid():
        raise OperatorError(Failure.REFUSED, "only root may hold a file system still and mount a snapshot; use sudo")
    key = hashlib.sha256(api.token.encode()).hexdigest().encode() if api.token else b""
    network = _without_rights(api)
    asking = Asking(network)
    made = HotBackup(asking, Agent(asking), lambda line: typer.echo(line, err=True), key=key)
    if isinstance(network, NetworkProcess):
        made.network = network.cost
    return made


def _without_rights(api: Client) -> Client | NetworkProcess:
    """The same, asked by a process that has no right on this server. Before there are threads."""
    from appliance.agent.network_process import NetworkProcess, user_of_network

    if api.socket_path is not None:  # which is root's to open, and no network
        return api
    return NetworkProcess(api, user_of_network())


def _client(config: Path | None) -> Client:
    """Of TAPEBAY_API, or of the library on this machine."""
    from appliance.control.client import Client
    from appliance.settings import config_file

    return Client.from_environment() or Client.at_socket(config_file.control_socket(config_file.find(config)))


def _told(report: dict[str, Any]) -> None:
    from appliance.cli.backup import costs
    from appliance.settings.units import format_size

    typer.echo(
        f"backup {report['number']}: {report['state']}, {report['files']} files, {format_size(report['content_bytes'])}"
        f" on {', '.join(volume['barcode'] for volume in report['volumes'])}, {report['skipped']} left out"
    )
    if report["since"] is not None:
        typer.echo(f"an increment: what has changed since backup {report['since']}")
    elif report["full_because"]:
        typer.echo(f"a full one, not an increment: {report['full_because']}")
    for line in costs(report):
        typer.echo(line)


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
