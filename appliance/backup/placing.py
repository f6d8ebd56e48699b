"""Where on a disk that is there already an image from a backup goes."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.backup.entries import FileExtent
from appliance.backup.filesystems.partitions import partitions
from appliance.backup.filesystems.reader import NotReadable, Reader
from appliance.backup.restore import RestoreTarget
from appliance.failures import Failure, OperatorError
from appliance.settings.units import format_size
from scsi_targets.devices.disk.block_device import BlockDevice


@dataclass(frozen=True, slots=True)
class PlaceOnDisk:
    """A disk, or a partition of it. words: which, for an operator. offset, size_bytes: on the disk."""

    words: str
    offset: int
    size_bytes: int

    def target(self, size_bytes: int, block_length: int) -> RestoreTarget:
        """For an image of that size. Raises OperatorError where it does not fit."""
        if size_bytes > self.size_bytes:
            message = f"an image of {format_size(size_bytes)} does not fit into {self.words}"
            raise OperatorError(Failure.REFUSED, f"{message}, which has {format_size(self.size_bytes)}")
        return RestoreTarget([FileExtent(0, self.offset, size_bytes)], block_length, clears=True)


def place_on(name: str, unit: BlockDevice, partition: int | None) -> PlaceOnDisk:
    """The disk, or a partition by its number. Raises OperatorError, CheckCondition (no medium), OSError."""
    image = unit.medium
    if partition is None:
        return PlaceOnDisk(f"disk {name}", 0, image.size_bytes)
    try:
        found = partitions(Reader(image), unit.block_length)
    except NotReadable as error:
        raise OperatorError(Failure.REFUSED, f"the partition table of disk {name} cannot be read: {error}") from error
    for one in found:
        if one.number == partition:
            return PlaceOnDisk(f"partition {partition} of disk {name}", one.offset, one.size_bytes)
    known = ", ".join(str(one.number) for one in found) or "none"
    raise OperatorError(Failure.NOT_FOUND, f"disk {name} has no partition {partition}; it has {known}")
