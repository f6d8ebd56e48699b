"""A tape drive of another iSCSI target as a copy uses it: block by block, since what stops one must stop the next."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from scsi_targets.client.tape import Tape
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.copying.access import TapeAccess, WrongLength
from scsi_targets.devices.copying.remote_access import RemoteAccess
from scsi_targets.t10 import ssc

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A drive may have to rewind and to load first.
COMMAND_SECONDS = 1800.0


class RemoteTapeAccess(RemoteAccess, TapeAccess):
    """READ(6) and WRITE(6) of variable blocks, WRITE FILEMARKS(6), SPACE(6), LOCATE(10). A unit attention in mid-copy
    is a failure like any other: the position may have been lost."""

    alone = True

    @cached_property
    def _tape(self) -> Tape:
        return Tape(self.session(), self._address.lun, timeout_seconds=COMMAND_SECONDS)

    def read_blocks(self, into: Buffer, block_length: int, fixed: bool, /) -> None:
        def read(block: memoryview) -> int:
            return self._tape.once(ssc.Read6.encode(transfer_length=block_length), data_in=block).residual

        self._each(memoryview(into).cast("B"), block_length, read)

    def write_blocks(self, data: Buffer, block_length: int, fixed: bool, checksums: Buffer, /) -> None:
        def write(block: memoryview) -> int:
            return self._tape.once(ssc.Write6.encode(transfer_length=block_length), block).residual

        self._each(memoryview(data).cast("B"), block_length, write)

    def _each(self, view: memoryview, block_length: int, transfer: Callable[[memoryview], int]) -> None:
        """transfer: answers with the residual of a block."""
        with self.reaching():
            for at in range(0, len(view), block_length):
                try:
                    if residual := transfer(view[at : at + block_length]):
                        raise WrongLength(residual, at)
                except CommandFailed as failed:
                    failed.transferred = at + block_length * _is_early_warning(failed)
                    raise

    def write_filemarks(self, count: int, *, immediate: bool) -> None:
        self._do(ssc.WriteFilemarks6.encode(immediate=immediate, filemark_count=count))

    def space(self, code: int, count: int) -> None:
        self._do(ssc.Space6.encode(code=code, count=count & 0xFFFFFF))

    def locate(self, logical_object_identifier: int) -> None:
        self._do(ssc.Locate10.encode(logical_object_identifier=logical_object_identifier))

    def _do(self, cdb: bytes) -> None:
        with self.reaching():
            self._tape.once(cdb)


def _is_early_warning(failed: CommandFailed) -> bool:
    """A WRITE that has written its block, and says that the end is near."""
    found = failed.sense
    return found is not None and found.end_of_medium and found.code.key == 0 and not found.information
