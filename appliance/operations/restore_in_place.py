"""restore.extents, restore.end: the content of files into their own blocks on a disk that stays in use."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.backup import SERVER, DriveName, Number, refusals
from appliance.operations.verb import OnLibrary, Parameters, Result, Scope, verb

MOST_EXTENTS = 100_000


class RestoreExtents(Parameters):
    number: Number
    file: Annotated[str, Field(min_length=1, description="The file's name in the backup.")]
    disk: Annotated[str, Field(description="The disk on which the file is now.")]
    size: Annotated[int, Field(ge=0, description="The file's size in bytes, which is the one in the backup.")]
    extents: Annotated[
        list[Annotated[list[int], Field(min_length=3, max_length=3)]],
        Field(max_length=MOST_EXTENTS, description="(offset in the file, offset on the disk, length) in bytes."),
    ]
    drive: DriveName = None
    run: Annotated[
        str | None,
        Field(pattern=SERVER, description="Made up by whoever asks; its files have one drive, until restore.end."),
    ] = None


class RestoredExtents(Result):
    """What is in the file's blocks now. stored_bytes: read from tape, holes left out; their CRC32C agreed."""

    backup: int
    file: str
    size_bytes: int
    stored_bytes: int
    crc32c: int
    modified_ns: int = Field(description="When the file was changed last, since 1970.")


class EndRun(Parameters):
    run: Annotated[str, Field(pattern=SERVER, description="As restore.extents was told.")]


class EndedRun(Result):
    """Whether there was anything to give back."""

    was_kept: bool


@verb("restore.extents", Scope.ADMINISTER, reports_progress=True)
def extents(context: OnLibrary, parameters: RestoreExtents) -> RestoredExtents:
    """For agents: write the content of a file in a backup into the blocks where the file lies now.

    Whoever asks keeps everybody else from the file, and has asked its file system twice where it is. The drive of a run
    is given back by restore.end, when a file fails on its way, or after a minute without another one."""
    from appliance.backup.listing import checked_extents
    from appliance.backup.restore import RestoreFailed, RestoreTarget
    from appliance.library.taking import disk_of
    from scsi_targets.client.unit import CommandFailed

    unit = disk_of(context.library, parameters.disk)
    if unit.lent_to is not None:
        raise OperatorError(Failure.REFUSED, f"disk {parameters.disk} is {unit.lent_to.name}'s for now")
    with refusals():
        kept = context.library.backups.file_of(parameters.number, parameters.file)
        if kept.file.size != parameters.size:
            message = f"{parameters.file} has {kept.file.size} bytes in the backup, and {parameters.size} on the disk"
            raise OperatorError(Failure.REFUSED, f"{message}; take it from the tape with tar")
        found = list(checked_extents(parameters.extents, parameters.size, unit.medium.size_bytes))
        target = RestoreTarget(found, unit.block_length, clears=True)
        try:
            context.library.backups.restore(
                parameters.number, kept, unit, target, parameters.drive, context.progress, parameters.run
            )
        except (RestoreFailed, CommandFailed) as error:
            message = f"{parameters.file} may hold a part of it now: {error}"
            raise OperatorError(Failure.REFUSED, message) from error
    unit.flush()
    return RestoredExtents(
        backup=parameters.number, file=os.fsdecode(kept.file.name), size_bytes=kept.file.size,
        stored_bytes=kept.file.stored_bytes, crc32c=kept.file.crc32c, modified_ns=kept.file.modified_ns,
    )  # fmt: skip


@verb("restore.end", Scope.ADMINISTER)
def end(context: OnLibrary, parameters: EndRun) -> EndedRun:
    """For agents: no more files come in a run of restore.extents; the cartridge goes home."""
    return EndedRun(was_kept=context.library.backups.kept_drives.end(parameters.run))
