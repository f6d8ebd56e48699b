"""restore: from tape to disk, without a server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.backup import Drive, Number, refusals
from appliance.operations.disk import BlockSize
from appliance.operations.verb import OnLibrary, Parameters, Positional, Result, Scope, library_of, verb

if TYPE_CHECKING:
    from scsi_targets.devices.disk.block_device import BlockDevice


class Restore(Parameters):
    number: Number
    file: Annotated[
        str, Positional("[FILE]"), Field(description="An image in the backup; by default its only file.")
    ] = ""
    to_disk: Annotated[str, Field(description="A new disk, which is there once all of it is right.")]
    block_size: BlockSize = 512
    drive: Drive = None


class Restored(Result):
    """What is on the new disk. stored_bytes: read from tape, holes left out; its CRC32C agreed."""

    backup: int
    file: str
    disk: str
    size_bytes: int
    stored_bytes: int
    crc32c: int
    seconds: float
    served: bool


@verb("restore", Scope.ADMINISTER, reports_progress=True)
def restore(context: OnLibrary, parameters: Restore) -> Restored:
    """Make a new disk of an image in a backup, without a server; initiators see it once all of it is there."""
    from appliance.backup.entries import Extent
    from appliance.backup.restore import RestoreFailed, Target
    from appliance.library import disk_making
    from scsi_targets.client.unit import CommandFailed

    service = context.library.backups
    began = time.monotonic()
    with refusals():
        kept = service.file_of(parameters.number, parameters.file)
        file = kept.file
        target = Target([Extent(0, 0, file.size)], parameters.block_size)

        def fill(unit: BlockDevice) -> None:
            service.restore(parameters.number, kept, unit, target, parameters.drive, context.progress)

        try:
            disk = disk_making.fill_disk(
                context.files, parameters.to_disk, file.size, fill, library=library_of(context),
                block_size=parameters.block_size,
            )  # fmt: skip
        except (RestoreFailed, CommandFailed) as error:
            raise OperatorError(Failure.REFUSED, f"nothing was restored: {error}") from error
    return Restored(
        backup=parameters.number, file=os.fsdecode(file.name), disk=parameters.to_disk, size_bytes=disk["size_bytes"],
        stored_bytes=file.stored_bytes, crc32c=file.crc32c, seconds=time.monotonic() - began,
        served=parameters.to_disk in context.library.units,
    )  # fmt: skip
