"""A disk of another iSCSI target as a copy uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from scsi_targets.client.disk import Disk
from scsi_targets.client.unit import GOOD, LIMIT_UNIT_ATTENTIONS, CommandFailed, is_unit_attention
from scsi_targets.devices.copying.access import DiskAccess, WrongLength
from scsi_targets.devices.copying.remote_access import COMMAND_SECONDS, RemoteAccess
from scsi_targets.t10 import sbc, sense
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from datamover.initiator import PendingCommand
    from scsi_targets.devices.copying.remote_access import Description, Line, RemoteAddress

WritePiece: TypeAlias = tuple[memoryview, int]  # and where on the disk it is
Submitted: TypeAlias = "tuple[bytes, PendingCommand]"

# One command; several are under way at once.
COMMAND_BYTES = 256 << 10


class RemoteDiskAccess(RemoteAccess, DiskAccess):
    """READ(16) and WRITE(16) of whole blocks; parts of blocks go through a block of our own."""

    alone = False

    def __init__(self, address: RemoteAddress, description: Description, line: Line) -> None:
        super().__init__(address, description, line)
        self.block_length = description.block_length

    @cached_property
    def _disk(self) -> Disk:
        return Disk(self.session(), self._address.lun, timeout_seconds=COMMAND_SECONDS)

    @property
    def measured(self) -> bool:
        return self._session is not None

    def holds(self, address: int) -> bool:
        return address < self._disk.capacity.blocks

    def check_range(self, address: int, count: int, *, writes: bool) -> None:
        with self.reaching():
            blocks = self._disk.capacity.blocks
        if count and address + count > blocks:
            command = sbc.Write16 if writes else sbc.Read16
            raise CheckCondition(sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, command.logical_block_address)

    def read_into(self, buffer: Buffer, offset: int, /) -> None:
        with self.reaching():
            for piece, at in self._pieces(memoryview(buffer).cast("B"), offset):
                if len(piece) % self.block_length:
                    start = at % self.block_length
                    piece[:] = self._block(at - start)[start : start + len(piece)]
                else:
                    self._transfer(piece, at, self._submit_read)

    def write(self, buffer: Buffer, offset: int, /) -> None:
        with self.reaching():
            for piece, at in self._pieces(memoryview(buffer).cast("B"), offset):
                if len(piece) % self.block_length:
                    start = at % self.block_length
                    block = self._block(at - start)
                    block[start : start + len(piece)] = piece
                    self._transfer(memoryview(block), at - start, self._submit_write)
                else:
                    self._transfer(piece, at, self._submit_write)

    def _pieces(self, view: memoryview, offset: int) -> Iterator[tuple[memoryview, int]]:
        """The part of a first block, whole blocks, the part of a last one: as far as there are any, and where."""
        head = min(-offset % self.block_length, len(view))
        tail = (len(view) - head) % self.block_length
        for begin, end in ((0, head), (head, len(view) - tail), (len(view) - tail, len(view))):
            if begin < end:
                yield view[begin:end], offset + begin

    def _block(self, offset: int) -> bytearray:
        block = bytearray(self.block_length)
        self._transfer(memoryview(block), offset, self._submit_read)
        return block

    def _transfer(self, view: memoryview, offset: int, submit: Callable[[memoryview, int], Submitted]) -> None:
        """Whole blocks, by several commands at once; one that was told of what happened before is sent again. For the
        first that failed it raises CommandFailed or WrongLength, when all have ended: the buffer is the caller's again.
        """
        step = COMMAND_BYTES - COMMAND_BYTES % self.block_length
        pieces = [(view[at : at + step], offset + at) for at in range(0, len(view), step)]
        for _ in range(LIMIT_UNIT_ATTENTIONS):
            failures = self._done(pieces, submit)
            pieces = [piece for piece, failed in failures if is_unit_attention(failed)]
            if not failures:
                return
            if len(pieces) < len(failures):
                break
        failed = next((failed for _, failed in failures if not is_unit_attention(failed)), failures[0][1])
        raise WrongLength(failed.residual) if failed.status == GOOD else failed

    def _done(
        self, pieces: list[WritePiece], submit: Callable[[memoryview, int], Submitted]
    ) -> list[tuple[WritePiece, CommandFailed]]:
        """What of it failed, and how."""
        commands = [submit(*piece) for piece in pieces]
        results = [self._disk.session.wait(command, COMMAND_SECONDS) for _, command in commands]
        return [
            (piece, CommandFailed(self._address.lun, cdb, result))
            for piece, (cdb, _), result in zip(pieces, commands, results, strict=True)
            if result.status != GOOD or result.residual
        ]

    def _submit_read(self, piece: memoryview, offset: int) -> Submitted:
        cdb = sbc.Read16.encode(**self._blocks(piece, offset))
        return cdb, self._disk.session.submit(self._address.lun, cdb, data_in=piece)

    def _submit_write(self, piece: memoryview, offset: int) -> Submitted:
        cdb = sbc.Write16.encode(**self._blocks(piece, offset))
        return cdb, self._disk.session.submit(self._address.lun, cdb, piece)

    def _blocks(self, piece: memoryview, offset: int) -> dict[str, int]:
        length = self.block_length
        return {"logical_block_address": offset // length, "transfer_length": len(piece) // length}
