"""The buffer of a copy job that is being filled, and the checksums of what is in it.

Every byte is looked at once, when it comes from its source: that gives the CRC32C of the segment that took it and of
the blocks that the sink will write. The sink gets the blocks' with them, so what changes on the way is found on the
medium.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datamover.endpoints import Sink, TransferFailed
from datamover.engine import DataBuffer, crc32c, crc32c_blocks, crc32c_join
from datamover.file_run import CHECKSUM_BYTES


@dataclass(slots=True)
class Assembly:
    """Whole writes for `sink`, then sink residue. view: as much of the buffer as the sink's writes fill evenly.

    shares: (segment, offset): the whole writes up to that offset belong to that segment. checksums: of the blocks that
    are complete. open_crc: of the bytes of the one that is not."""

    sink: Sink | None
    buffer: DataBuffer
    view: memoryview
    filled: int = 0
    shares: list[tuple[int, int]] = field(default_factory=list)
    checksums: bytearray = field(default_factory=bytearray)
    open_crc: int = 0

    @property
    def room(self) -> int:
        """Bytes that may still come."""
        return len(self.view) - self.filled

    @property
    def residue(self) -> int:
        """Bytes that make no whole write."""
        return self.filled % self.sink.granularity if self.sink is not None else 0

    @property
    def _checked_length(self) -> int:
        return self.sink.checked_length if self.sink is not None else 0

    def add(self, data: memoryview, crc: int = 0) -> int:
        """Bytes that are, or are being put, after those that are there. Returns their CRC32C, continued from `crc`."""
        length = self._checked_length
        begun = self.filled % length if length else 0
        self.filled += len(data)
        if not length:
            return crc32c(data, crc)
        crc, self.open_crc, complete = crc32c_blocks(data, crc, length, begun, self.open_crc)
        self.checksums += complete
        return crc

    def add_verified(self, data: memoryview, checksums: memoryview, piece: int, crc: int) -> int:
        """As add(), of data that a device has verified, and the CRC32C of each `piece` bytes of it: they are not looked
        at again, unless the sink's blocks are other ones. Raises TransferFailed when they are not the same any more."""
        length = self._checked_length
        expected = crc32c_join(crc, checksums, piece)
        if length and (length != piece or self.filled % length):
            before = self.filled, len(self.checksums), self.open_crc
            if self.add(data, crc) != expected:
                self.filled, complete, self.open_crc = before
                del self.checksums[complete:]
                raise TransferFailed("what was read has changed in memory")
            return expected
        self.filled += len(data)
        if length:
            self.checksums += checksums
        return expected

    def cut(self) -> None:
        """Drops the residue."""
        self.filled -= self.residue
        self.open_crc = 0
        if length := self._checked_length:
            del self.checksums[self.filled // length * CHECKSUM_BYTES :]

    def split(self) -> tuple[int, bytes, bytearray]:
        """How long the whole writes are, their checksums, and those of complete blocks in the residue."""
        whole = self.filled - self.residue
        at = whole // self._checked_length * CHECKSUM_BYTES if self._checked_length else 0
        return whole, bytes(self.checksums[:at]), self.checksums[at:]
