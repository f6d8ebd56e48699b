"""A disk as a copy uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from datamover.file_run import FileSpan
from scsi_targets.devices.copying.access import DiskAccess
from scsi_targets.devices.copying.local import LocalAccess
from scsi_targets.t10 import sbc, sense
from scsi_targets.t10.sense import CheckCondition
from vlib_images.disk.image import Provisioning

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from scsi_targets.devices.disk.storage import BlockStorage
    from scsi_targets.devices.unit.task import Task

ZEROS = memoryview(bytes(1 << 20))


class BlockDeviceAccess(LocalAccess, DiskAccess):
    """READ(16) and WRITE(16). The disk goes on serving others meanwhile."""

    reading = sbc.Read16
    writing = sbc.Write16
    alone = False

    def __init__(self, disk: BlockStorage, task: Task) -> None:
        super().__init__(disk, task)
        self._disk = disk
        self.block_length = disk.block_length
        self._data_until = 0  # where the run of data ends that the last look found: within it nothing is looked up

    def holds(self, address: int) -> bool:
        return not self._disk.accessible or address < self._disk.capacity

    def check_range(self, address: int, count: int, *, writes: bool) -> None:
        if self._disk.accessible and count and address + count > self._disk.capacity:
            field = (self.writing if writes else self.reading).logical_block_address
            raise CheckCondition(sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, field)

    def read_into(self, buffer: Buffer, offset: int, /) -> None:
        with self.command(self.reading), self._disk.gate.shared:
            view = memoryview(buffer)
            self._check(offset, view.nbytes, writes=False)
            if self._holds_nothing(offset, view.nbytes):
                _clear(view)
                self._disk.medium.pass_over(offset, view.nbytes)
            else:
                self._disk.medium.read_into(view, offset)

    def write(self, buffer: Buffer, offset: int, /) -> None:
        with self.command(self.writing), self._disk.gate.shared:
            self._check(offset, memoryview(buffer).nbytes, writes=True)
            self._disk.medium.write(buffer, offset, durable=not self._disk.writeback_cache)

    @contextmanager
    def file_span(self, offset: int, length: int, /) -> Iterator[FileSpan | None]:
        """Up to the first hole."""
        with self.command(self.reading), self._disk.gate.shared:
            self._guest.check()
            yield self._file_span(offset, length)

    def _file_span(self, offset: int, length: int) -> FileSpan | None:
        if offset + length > self._disk.capacity * self.block_length or self._holds_nothing(offset, 1):
            return None
        descriptor = self._disk.medium.fileno()
        return None if descriptor is None else FileSpan(descriptor, offset, min(length, self._data_until - offset))

    def _holds_nothing(self, offset: int, length: int) -> bool:
        """Whether all of a range is without data now: it is zeros, and its storage is left in peace. Only runs of data
        are remembered, as another initiator may write to what was empty a moment ago."""
        if offset + length <= self._data_until:
            return False
        medium = self._disk.medium
        for extent in medium.extents(offset, medium.size_bytes - offset):
            end = extent.offset + extent.length
            if extent.state is Provisioning.MAPPED:
                self._data_until = end
                break
            if end >= offset + length:
                return True
        return False

    def _check(self, offset: int, length: int, *, writes: bool) -> None:
        self._guest.check()  # a reset that came since has waited for the gate
        first, end = offset // self.block_length, offset + length
        self.check_range(first, -(-end // self.block_length) - first, writes=writes)


def _clear(view: memoryview) -> None:
    for at in range(0, len(view), len(ZEROS)):
        part = view[at : at + len(ZEROS)]
        part[:] = ZEROS[: len(part)]
