"""A file as a copy source or destination: a disk of bytes that has no LUN, and that one copy names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from scsi_targets.devices.copying.access import Access, Designator, DiskAccess
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition, Sense, SenseCode

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

    from scsi_targets.devices.unit.task import Task

BLOCK_BYTES = 512  # what a segment descriptor counts in; a copy of a file may begin and end at any byte
CHECK_CONDITION = 0x02


class FileUnit:
    """An access.Copyable, over an open file. name: that a descriptor calls it by, at most 20 bytes."""

    def __init__(self, path: Path, descriptor: int, name: bytes) -> None:
        self.path = path
        self.descriptor = descriptor
        self.name = name

    def designators(self, task: Task) -> Iterable[Designator]:
        return [Designator(2, 0, self.name)]  # ASCII, vendor specific

    def copy_access(self, task: Task) -> Access:
        return FileAccess(self.path, self.descriptor)


class FileAccess(DiskAccess):
    """Whatever the file system says is the file's medium error, and its text is in the copy's record."""

    block_length = BLOCK_BYTES

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def begin(self, changed: Callable[[], None]) -> None:
        """Nobody else has it."""

    def end(self) -> None:
        """Whoever opened the file closes it."""

    def give_up(self) -> None:
        """A read or write of a file ends by itself."""

    @property
    def granted(self) -> bool:
        return True

    @property
    def cleared(self) -> SenseCode | None:
        return None

    def check(self, *, writes: bool) -> None:
        """It was opened for this copy."""

    def test_unit_ready(self) -> None:
        """As check()."""

    def holds(self, address: int) -> bool:
        return True

    def check_range(self, address: int, count: int, *, writes: bool) -> None:
        """What is not there is found when it is read; a destination grows."""

    def read_into(self, buffer: Buffer, offset: int, /) -> None:
        view, at = memoryview(buffer).cast("B"), 0
        while at < len(view):
            count = os.preadv(self._descriptor, [view[at:]], offset + at)
            if not count:
                raise OSError(f"{self._path} ends at byte {offset + at}")
            at += count

    def write(self, buffer: Buffer, offset: int, /) -> None:
        view, at = memoryview(buffer).cast("B"), 0
        while at < len(view):
            at += os.pwrite(self._descriptor, view[at:], offset + at)

    def answer_to(self, error: BaseException, *, writes: bool) -> tuple[int, bytes]:
        if isinstance(error, CheckCondition):
            return CHECK_CONDITION, error.sense.encode()
        return CHECK_CONDITION, Sense(sense.WRITE_ERROR if writes else sense.UNRECOVERED_READ_ERROR).encode()
