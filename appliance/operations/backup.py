"""Backups: the files of disks to tape, without a server; a tape that tar lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import (
    SIZE,
    Cancelled,
    Nothing,
    OnLibrary,
    Parameters,
    Positional,
    Result,
    Scope,
    Volatile,
    verb,
)
from appliance.settings.units import parse_size

if TYPE_CHECKING:
    from appliance.backup.records import Backup as Record
    from appliance.backup.servers import ServerPart

Number = Annotated[int, Positional("NUMBER"), Field(ge=1, description="As `tapebay backup list` shows it.")]
DriveName = Annotated[
    str | None, Field(description="The drive's name; by default the cartridge's, or the first empty one.")
]
Overwrite = Annotated[bool, Field(description="Also onto cartridges that hold something; backups there are lost.")]
Incremental = Annotated[
    bool, Field(description="Only what has changed since the newest backup of the same files; a full one if need be.")
]
Background = Annotated[bool, Field(description="Do not wait for the end.")]
POLL_SECONDS = 0.2
MOST_BYTES = 1 << 52  # 4 PiB; a number of JSON that every reader has exactly (RFC 8259 6)
SERVER = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class SkippedFile(Result):
    """A file that cannot be backed up from outside."""

    name: str
    reason: str


class BackupDetails(Result):
    """One backup. Bytes are of the content of files, holes left out."""

    number: int
    state: Literal["running", "done", "failed", "cancelled", "interrupted", "lost"]
    phase: Annotated[str, Volatile()] = Field(description="Of one that runs: waiting, counting, comparing, copying.")
    disks: list[str]
    cartridges: list[str]
    created_at: float = Field(description="Seconds since 1970.")
    ended_at: float | None
    reason: str = Field(description="Why it ended, or empty.")
    files: Annotated[int, Volatile()]
    total_files: Annotated[int, Volatile()]
    content_bytes: Annotated[int, Volatile()]
    total_bytes: Annotated[int, Volatile()]
    skipped: Annotated[int, Volatile()] = Field(description="Files that cannot be backed up from outside.")
    since: int | None = Field(description="The backup that this one follows as an increment.")
    full_because: str = Field(description="Why it is a full one, where an increment was asked for; or empty.")
    megabytes_per_second: Annotated[float | None, Volatile()] = Field(description="Of what this run has written.")
    seconds_left: Annotated[float | None, Volatile()] = Field(
        description="Of one that copies: how long it will still take, at its pace."
    )


class BackupVolume(Result):
    """A cartridge of a backup."""

    number: int
    barcode: str
    archive_bytes: int
    closed: bool
    indexed: bool
    cut: bool = Field(description="It took nothing more, and ends at a checkpoint without an end of its archive.")
    lost: bool = Field(description="Another backup was written over it.")


class PartOfDisk(Result):
    """A file system, or what is saved as an image."""

    prefix: str
    kind: str


class PartOfServer(Result):
    """A server whose agent takes part. Bytes are over its own network; the library moves the content of files."""

    server: str
    snapshot: str | None = Field(description="That it holds, or held; none where it has not come yet.")
    disks: list[str]
    payload_bytes: int = Field(description="Content of files that crossed its network, in lists: of small ones alone.")
    network_bytes: int = Field(description="All that its agent saw crossing it: lists, API, metadata of the snapshot.")
    content_bytes: int = Field(description="Of the files that it listed.")
    processor_seconds: float = Field(description="Of the agent and what it started.")
    processor_seconds_per_gibibyte: float | None = Field(description="The same for 1 GiB of that content.")


class BackupReport(BackupDetails):
    """With what is on which cartridge, what each disk was taken for, the first hundred files left out, what it cost the
    servers, and the daemon while it ran."""

    volumes: Annotated[list[BackupVolume], Volatile()]
    parts: Annotated[list[PartOfDisk], Volatile()]
    left_out: Annotated[list[SkippedFile], Volatile()]
    identifier: str
    servers: Annotated[list[PartOfServer], Volatile()]
    processor_seconds: Annotated[float, Volatile()] = Field(description="Of the daemon while it ran.")
    processor_seconds_per_gibibyte: Annotated[float | None, Volatile()] = Field(
        description="The same for 1 GiB of content."
    )


class StartBackup(Parameters):
    disks: Annotated[list[str], Positional("DISK..."), Field(min_length=1, description="Disks, all at one instant.")]
    snapshot: Annotated[
        str | None,
        Field(description="One that an agent holds, whose files it has listed, or --raw; by default one is made."),
    ] = None
    server: Annotated[str | None, Field(pattern=SERVER, description="Whose agent that is, for the report.")] = None
    to: Annotated[list[str], Field(min_length=1, description="Cartridges, in the order of their use.")]
    drive: DriveName = None
    raw: Annotated[bool, Field(description="Save the disks as images, whatever is on them.")] = False
    incremental: Incremental = False
    since: Annotated[int | None, Field(ge=1, description="Only what has changed since this backup, by its number.")] = (
        None
    )
    selection: Annotated[
        str, Field(max_length=10_000, description="For agents: which files of the disks; increments are of the same.")
    ] = ""
    overwrite: Overwrite = False
    checkpoint: Annotated[str, SIZE, Field(description="How much is between two checkpoints.")] = "4 GiB"
    background: Background = False


class ResumeBackup(Parameters):
    number: Number
    to: Annotated[list[str] | None, Field(description="More cartridges.")] = None
    drive: DriveName = None
    overwrite: Overwrite = False
    background: Background = False


class OneBackup(Parameters):
    number: Number


class AccountForBackup(Parameters):
    number: Number
    server: Annotated[str, Field(pattern=SERVER, description="The agent's.")]
    payload_bytes: Annotated[int, Field(ge=0, le=MOST_BYTES, description="Content of files over its network.")]
    network_bytes: Annotated[int, Field(ge=0, le=MOST_BYTES, description="All bytes over it.")]
    processor_seconds: Annotated[float, Field(ge=0, le=1e9, description="Of the agent and what it started.")]


def _still(context: OnLibrary, parameters: Parameters) -> AbstractContextManager[Any]:
    """Neither an operator nor its own thread makes a step of a backup without it; who waits for an end lets it go."""
    return context.library.backups.records.changing


@verb("backup.start", Scope.OPERATE, reports_progress=True)
def start(context: OnLibrary, parameters: StartBackup) -> BackupReport:
    """Back the files of disks up to cartridges, as tar archives: a snapshot is taken, and no byte passes a server."""
    with refusals():
        if parameters.snapshot is not None:
            check_lists(context, parameters.snapshot, parameters.disks, raw=parameters.raw)
        options = parameters.model_dump(
            include={"snapshot", "drive", "raw", "overwrite", "incremental", "since", "selection"}
        )
        if parameters.server is not None and parameters.snapshot is not None:
            options["servers"] = (part_of(context, parameters.server, parameters.snapshot, parameters.disks),)
        record = context.library.backups.begin(
            parameters.disks, parameters.to, checkpoint_bytes=parse_size(parameters.checkpoint), **options
        )
        return followed(context, record.number, parameters.background)


def part_of(context: OnLibrary, server: str, snapshot: str, disks: list[str]) -> ServerPart:
    """What a server has of a backup."""
    from appliance.backup.servers import ServerPart

    content_bytes = sum(context.library.file_lists.content_bytes(snapshot, disk) for disk in disks)
    return ServerPart(server, snapshot, tuple(disks), content_bytes)


def check_lists(context: OnLibrary, snapshot: str, disks: Sequence[str], *, raw: bool = False) -> None:
    """Whether a snapshot has these disks, and unless they are saved as images, whether their lists are there. Raises
    OperatorError, ListRefused."""
    kept = context.library.held(snapshot)
    if kept.state.over:
        raise OperatorError(Failure.REFUSED, f"snapshot {snapshot} is {kept.state.value}: {kept.reason}")
    for disk in disks:
        if disk not in kept.sizes:
            raise OperatorError(Failure.NOT_FOUND, f"snapshot {snapshot} has no disk {disk}")
        if not raw and not context.library.file_lists.get(snapshot, disk).whole:
            raise OperatorError(Failure.REFUSED, f"the list of files of disk {disk} is not whole yet")


@verb("backup.resume", Scope.OPERATE, reports_progress=True, changes="backup.show", still=_still)
def resume(context: OnLibrary, parameters: ResumeBackup) -> BackupReport:
    """Go on at the last checkpoint of a backup that was interrupted, was cancelled, or failed.

    It is refused when the disks do not hold any more what was written."""
    with refusals():
        record = context.library.backups.resume(
            parameters.number, parameters.to or [], parameters.drive, overwrite=parameters.overwrite
        )
        return followed(context, record.number, parameters.background)


@verb("backup.wait", Scope.READ, reports_progress=True)
def wait(context: OnLibrary, parameters: OneBackup) -> BackupReport:
    """Wait for the end of a backup."""
    with refusals():
        return followed(context, parameters.number, False)


@verb("backup.account", Scope.OPERATE, changes="backup.show", still=_still)
def account(context: OnLibrary, parameters: AccountForBackup) -> BackupReport:
    """For agents: what a backup has cost their server. Sent again, it says it anew."""
    with refusals():
        context.library.backups.records.note_server(**parameters.model_dump())
        return _report(context, parameters.number)


@verb("backup.cancel", Scope.OPERATE, changes="backup.show", still=_still)
def cancel(context: OnLibrary, parameters: OneBackup) -> BackupReport:
    """Stop a backup that runs. It can be resumed."""
    with refusals():
        context.library.backups.cancel(parameters.number)
        return _report(context, parameters.number)


@verb("backup.delete", Scope.OPERATE, changes="backup.show", still=_still)
def delete(context: OnLibrary, parameters: OneBackup) -> BackupDetails:
    """Forget a backup that does not run, and its catalogue. Its cartridges stay as they are."""
    with refusals():
        shown = _shown(context, context.library.backups.records.get(parameters.number))
        context.library.backups.forget(parameters.number)
        return shown


@verb("backup.list", Scope.READ, key=("number",))
def list_(context: OnLibrary, parameters: Nothing) -> list[BackupDetails]:
    """List the backups, oldest first."""
    return [_shown(context, record) for record in context.library.backups.records.all()]


@verb("backup.show", Scope.READ)
def show(context: OnLibrary, parameters: OneBackup) -> BackupReport:
    """One backup: how it stands, its cartridges, and what was left out."""
    with refusals():
        return _report(context, parameters.number)


def followed(context: OnLibrary, number: int, background: bool) -> BackupReport:
    """Whoever asked sees progress in bytes until the end; when they go, the backup goes on."""
    service = context.library.backups
    while not background and not service.wait(number, POLL_SECONDS):
        job = service.job(number)
        if job is None:
            continue
        try:
            context.progress(job.progress.content_bytes, job.progress.total_bytes)
        except Cancelled:
            break
    return _report(context, number)


def _report(context: OnLibrary, number: int) -> BackupReport:
    service = context.library.backups
    record = service.records.get(number)
    with service.catalogue(number) as catalogue:
        volumes = [BackupVolume.model_validate(volume) for volume in catalogue.volumes()]
        facts, left_out = catalogue.facts(), catalogue.skipped(100)
    return BackupReport(
        **_shown(context, record).model_dump(),
        volumes=volumes,
        parts=[PartOfDisk(**part) for part in facts.get("parts", [])],
        left_out=[
            SkippedFile(name=file.name.decode(errors="surrogateescape"), reason=file.reason) for file in left_out
        ],
        identifier=record.identifier,
        servers=[
            PartOfServer(
                **dataclasses.asdict(part),
                processor_seconds_per_gibibyte=_per_gibibyte(part.processor_seconds, part.content_bytes),
            )
            for part in record.servers
        ],
        processor_seconds=record.processor_seconds,
        processor_seconds_per_gibibyte=_per_gibibyte(record.processor_seconds, record.content_bytes),
    )


def _per_gibibyte(seconds: float, content_bytes: int) -> float | None:
    return round(seconds * (1 << 30) / content_bytes, 3) if content_bytes and seconds else None


def _shown(context: OnLibrary, record: Record) -> BackupDetails:
    service = context.library.backups
    job, last = service.job(record.number), service.last_progress(record.number)
    progress = job.progress if job is not None else last
    if job is not None:
        files, content = job.progress.files, job.progress.content_bytes
    else:
        files, content = _durable(context, record)
    return BackupDetails(
        number=record.number, state=record.state.value, phase=job.progress.phase if job is not None else "",
        disks=list(record.disks), cartridges=list(record.cartridges), created_at=record.created_at,
        ended_at=record.ended_at, reason=record.reason, files=files, total_files=record.files, content_bytes=content,
        total_bytes=record.content_bytes, skipped=record.skipped, since=record.since, full_because=record.full_because,
        megabytes_per_second=progress.megabytes_per_second if progress is not None else None,
        seconds_left=job.progress.seconds_left if job is not None else None,
    )  # fmt: skip


def _durable(context: OnLibrary, record: Record) -> tuple[int, int]:
    """(files, bytes) that are on tape."""
    from appliance.backup.catalogue import Catalogue, CatalogueDamaged

    try:
        catalogue = Catalogue.open(context.library.backups.path_of(record))
    except (CatalogueDamaged, OSError):
        return 0, 0
    try:
        return catalogue.totals()
    finally:
        catalogue.close()


class refusals:
    """What the backups refuse, in an operator's terms."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from appliance.backup.catalogue import CatalogueDamaged
        from appliance.backup.listing import ListRefused
        from appliance.backup.records import BackupStateError, NoSuchBackup

        if isinstance(error, ListRefused):
            raise OperatorError(Failure.USAGE, str(error)) from error
        if isinstance(error, NoSuchBackup):
            raise OperatorError(Failure.NOT_FOUND, str(error)) from error
        if isinstance(error, BackupStateError | CatalogueDamaged):
            raise OperatorError(Failure.REFUSED, str(error)) from error
