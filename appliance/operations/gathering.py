"""One backup of several servers: they are gathered, their agents come, and one backup is begun."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.backup import (
    SERVER,
    Background,
    BackupReport,
    DriveName,
    Incremental,
    Overwrite,
    check_lists,
    followed,
    part_of,
    refusals,
)
from appliance.operations.verb import SIZE, Cancelled, Nothing, OnLibrary, Parameters, Positional, Result, Scope, verb
from appliance.settings.units import parse_size

if TYPE_CHECKING:
    from appliance.backup.gathering import Gathering

ServerName = Annotated[str, Field(pattern=SERVER)]
Job = Annotated[str, Positional("JOB"), Field(pattern=SERVER, description="As the agents' files call it: [[jobs]].")]
WAIT_SECONDS = 600.0


class Gather(Parameters):
    job: Job
    server: Annotated[list[str], Field(min_length=1, max_length=64, description="Servers that are to come.")]
    disk: Annotated[list[str], Field(description="Disks that no server uses now, which are read from outside.")] = []
    to: Annotated[list[str], Field(min_length=1, description="Cartridges, in the order of their use.")]
    drive: DriveName = None
    incremental: Incremental = False
    overwrite: Overwrite = False
    checkpoint: Annotated[str, SIZE, Field(description="How much is between two checkpoints.")] = "4 GiB"
    wait_seconds: Annotated[float, Field(gt=0, le=86400, description="For the servers to come.")] = WAIT_SECONDS
    background: Background = False


class OneServer(Parameters):
    server: Annotated[ServerName, Field(description="The agent's.")]


class Join(OneServer):
    job: Job
    snapshot: Annotated[str, Field(description="That the agent holds.")]
    disks: Annotated[list[str], Field(min_length=1, description="Its disks, whose files the agent has listed.")]


class Decline(OneServer):
    job: Job
    reason: Annotated[str, Field(min_length=1, max_length=2000, description="Why the server cannot take part.")]


class Become(Result):
    """What became of what an agent has joined: nothing yet, the backup's number, or why there is none."""

    number: int | None
    reason: str


class Waiting(Result):
    """A backup that waits for servers."""

    job: str
    come: list[str]
    missing: list[str]


@verb("backup.gather", Scope.OPERATE, reports_progress=True)
def gather(context: OnLibrary, parameters: Gather) -> BackupReport:
    """Back several servers up as one: their agents (`tapebay agent serve`) are waited for, then all is written.

    Whatever keeps one of them away ends it for all, by name, before anything is written."""
    from appliance.backup.gathering import Joined

    backups = context.library.backups
    with refusals():
        backups.check(parameters.to, parameters.drive, parameters.disk)
        gathering = backups.gatherings.open(parameters.job, parameters.server)
        became = Joined(reason="whoever gathered has gone")
        try:
            number = _begun(context, parameters, gathering)
            became = Joined(number)
        except OperatorError as error:
            became = Joined(reason=str(error))
            raise
        finally:
            backups.gatherings.close(gathering, became)
            if became.number is None:
                for part in gathering.parts.values():
                    _let_go(context, part.snapshot, became.reason)
        return followed(context, number, parameters.background)


def _begun(context: OnLibrary, parameters: Gather, gathering: Gathering) -> int:
    from appliance.backup.gathering import wait_for_all

    try:
        parts = wait_for_all(gathering, parameters.wait_seconds, time.monotonic, context.progress)
    except Cancelled:
        raise OperatorError(Failure.REFUSED, "whoever gathered has gone") from None
    disks = [disk for part in parts for disk in part.disks]
    if shared := set(disks) & set(parameters.disk):
        raise OperatorError(Failure.USAGE, f"{', '.join(sorted(shared))} has come from a server, so it is in use")
    record = context.library.backups.begin(
        disks + parameters.disk, parameters.to, checkpoint_bytes=parse_size(parameters.checkpoint),
        servers=tuple(parts), drive=parameters.drive, overwrite=parameters.overwrite,
        incremental=parameters.incremental, selection=f"job {parameters.job} of {' '.join(parameters.server)}",
    )  # fmt: skip
    return record.number


def _let_go(context: OnLibrary, snapshot: str | None, reason: str) -> None:
    if snapshot is not None:
        kept = context.library.held(snapshot)
        context.library.snapshots.release(kept, reason)


@verb("backup.gathering", Scope.READ)
def gathering(context: OnLibrary, parameters: Nothing) -> list[Waiting]:
    """List the backups that wait for servers: who has come, and who has not."""
    return [
        Waiting(job=one.job, come=[name for name in one.parts if name not in one.missing], missing=one.missing)
        for one in context.library.backups.gatherings.all()
    ]


@verb("backup.wanted", Scope.READ)
def wanted(context: OnLibrary, parameters: OneServer) -> list[str]:
    """For agents: the jobs that wait for their server."""
    return context.library.backups.gatherings.wanted(parameters.server)


@verb("backup.join", Scope.OPERATE)
def join(context: OnLibrary, parameters: Join) -> Become:
    """For agents: the server's snapshot and its lists are there. Asked again, it tells what became of it."""
    with refusals():
        came = part_of(context, parameters.server, parameters.snapshot, parameters.disks)
        joined = context.library.backups.gatherings.join(parameters.job, came, lambda: _accept(context, parameters))
        return Become.model_validate(joined)


def _accept(context: OnLibrary, parameters: Join) -> None:
    """Only what the lists name is kept from now on, and no list is due any more. Raises OperatorError, ListRefused."""
    from appliance.library.snapshots.states import SetState, SnapshotStateError

    check_lists(context, parameters.snapshot, parameters.disks)
    kept = context.library.held(parameters.snapshot)
    if kept.state is not SetState.HELD:  # it has been asked before
        return
    try:
        kept.narrow({disk: context.library.file_lists.get(kept.name, disk).extents() for disk in kept.disks})
    except SnapshotStateError:
        if why := kept.over_because:
            raise OperatorError(Failure.REFUSED, why) from None


@verb("backup.decline", Scope.OPERATE)
def decline(context: OnLibrary, parameters: Decline) -> list[str]:
    """For agents: their server cannot take part, and why. What still waits for it is answered."""
    with refusals():
        gatherings = context.library.backups.gatherings
        gatherings.decline(parameters.job, parameters.server, parameters.reason)
        return gatherings.wanted(parameters.server)
