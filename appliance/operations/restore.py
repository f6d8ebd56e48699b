"""restore: from tape to disk, without a server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.backup import DriveName, Number, refusals
from appliance.operations.disk import BlockSize
from appliance.operations.verb import OnLibrary, Parameters, Positional, Result, Scope, library_of, verb

if TYPE_CHECKING:
    from appliance.backup.catalogue import Kept
    from appliance.backup.placing import PlaceOnDisk
    from scsi_targets.devices.disk.block_device import BlockDevice


class Restore(Parameters):
    number: Number
    file: Annotated[
        str, Positional("[FILE]"), Field(description="An image in the backup; by default its only file.")
    ] = ""
    to_disk: Annotated[str | None, Field(description="A new disk, which is there once all of it is right.")] = None
    over: Annotated[str | None, Field(description="A disk that is there, which is overwritten.")] = None
    partition: Annotated[int | None, Field(ge=1, description="Of that disk only this partition, by its number.")] = None
    force: Annotated[bool, Field(description="Overwrite it although initiators use it; they are cut off.")] = False
    dry_run: Annotated[bool, Field(description="Only say what would be done.")] = False
    block_size: BlockSize = 512
    drive: DriveName = None


class Restored(Result):
    """What is on the disk. stored_bytes: read from tape, holes left out; its CRC32C agreed."""

    backup: int
    file: str
    disk: str
    size_bytes: int
    stored_bytes: int
    crc32c: int
    seconds: float
    served: bool
    plan: list[str] = Field(description="What was done, or of a dry run what would be, a line each.")
    dry_run: bool


@verb("restore", Scope.ADMINISTER, reports_progress=True)
def restore(context: OnLibrary, parameters: Restore) -> Restored:
    """Bring an image in a backup back from tape without a server: as a new disk, or over one that is there.

    Initiators see a new disk once all of it is there. One that is there is overwritten when nobody uses it, and is
    nobody else's meanwhile."""
    from appliance.backup.restore import RestoreFailed
    from scsi_targets.client.unit import CommandFailed

    if (parameters.to_disk is None) == (parameters.over is None):
        raise OperatorError(Failure.USAGE, "say where to: --to-disk NAME for a new disk, or --over DISK")
    if parameters.over is None and parameters.partition is not None:
        raise OperatorError(Failure.USAGE, "--partition goes with --over DISK")
    with refusals():
        context.library.backups.check((), parameters.drive)
        kept = context.library.backups.file_of(parameters.number, parameters.file)
        try:
            return _to_new(context, parameters, kept) if parameters.over is None else _over(context, parameters, kept)
        except (RestoreFailed, CommandFailed) as error:
            left = "nothing was restored" if parameters.over is None else f"{parameters.over} holds a part of it now"
            raise OperatorError(Failure.REFUSED, f"{left}: {error}") from error


def _to_new(context: OnLibrary, parameters: Restore, kept: Kept) -> Restored:
    from appliance.backup.entries import FileExtent
    from appliance.backup.restore import RestoreTarget
    from appliance.library import disk_making

    began, name, file = time.monotonic(), str(parameters.to_disk), kept.file
    plan = [_from(context, parameters, kept), f"to the new disk {name}, which is served once all of it is there"]
    if parameters.dry_run:
        return _restored(context, parameters, kept, name, file.size, plan, began)
    target = RestoreTarget([FileExtent(0, 0, file.size)], parameters.block_size)

    def fill(unit: BlockDevice) -> None:
        context.library.backups.restore(parameters.number, kept, unit, target, parameters.drive, context.progress)

    disk = disk_making.fill_disk(
        context.files, name, file.size, fill, library=library_of(context), block_size=parameters.block_size
    )
    return _restored(context, parameters, kept, name, disk["size_bytes"], plan, began)


def _over(context: OnLibrary, parameters: Restore, kept: Kept) -> Restored:
    from appliance.backup.placing import place_on
    from appliance.backup.service import READER
    from appliance.library.taking import disk_of, taken

    began, name, library = time.monotonic(), str(parameters.over), context.library
    unit = disk_of(library, name)
    place = place_on(name, unit, parameters.partition)
    target = place.target(kept.file.size, unit.block_length)
    plan = [_from(context, parameters, kept), *_lines(context, parameters, kept, place)]
    if not parameters.dry_run:
        with taken(library, name, READER, force=parameters.force):
            library.backups.restore(parameters.number, kept, unit, target, parameters.drive, context.progress)
        context.log.warning("a disk was overwritten from a backup", disk=name, backup=parameters.number)
    return _restored(context, parameters, kept, name, place.size_bytes, plan, began)


def _from(context: OnLibrary, parameters: Restore, kept: Kept) -> str:
    from appliance.settings.units import format_size

    with context.library.backups.chain(parameters.number) as chain:
        pieces = chain.pieces(kept)
        tapes = [
            link.volumes[part.volume].barcode for link, file in pieces for part in link.catalogue.parts_of(file.number)
        ]
    size, stored = format_size(kept.file.size), format_size(sum(file.stored_bytes for _, file in pieces))
    name = os.fsdecode(kept.file.name)
    return f"{name} of backup {parameters.number}: {size}, {stored} from {', '.join(dict.fromkeys(tapes))}"


def _lines(context: OnLibrary, parameters: Restore, kept: Kept, place: PlaceOnDisk) -> list[str]:
    """What happens to a disk that is there."""
    from appliance.library.taking import users_of
    from appliance.settings.units import format_size

    end = place.offset + kept.file.size
    lines = [f"over {place.words}: bytes {place.offset} to {end} are overwritten, its holes with zeros"]
    if rest := place.size_bytes - kept.file.size:
        lines.append(f"the last {format_size(rest)} of {place.words} stay as they are")
    verdict = "is cut off" if parameters.force else "so it is refused, without --force"
    lines += [f"{user}: {verdict}" for user in users_of(context.library, str(parameters.over))]
    return [*lines, f"the next increment of disk {parameters.over} will be a full backup"]


def _restored(
    context: OnLibrary, parameters: Restore, kept: Kept, name: str, size_bytes: int, plan: list[str], began: float
) -> Restored:
    return Restored(
        backup=parameters.number, file=os.fsdecode(kept.file.name), disk=name, size_bytes=size_bytes,
        stored_bytes=kept.file.stored_bytes, crc32c=kept.file.crc32c, seconds=time.monotonic() - began,
        served=name in context.library.units, plan=plan, dry_run=parameters.dry_run,
    )  # fmt: skip
