"""Blocks that go from a file to a medium in one call of the engine, without a buffer that Python sees."""

from __future__ import annotations

from typing import NamedTuple

from datamover.engine import DataBuffer

CHECKSUM_BYTES = 4


class FileSpan(NamedTuple):
    """Where bytes are: `length` of them in an open file, from byte `offset` on."""

    descriptor: int
    offset: int
    length: int


class FileRun(NamedTuple):
    """`blocks` blocks of `block_length` bytes from byte `offset` of an open file on.

    checksums: gets the blocks' CRC32C as native 32-bit numbers. one, other: the engine's working memory, a block each
    at least. Whoever moves a run says how many blocks it did; what stopped it is found, and told, when the next block
    is moved by itself."""

    descriptor: int
    offset: int
    block_length: int
    blocks: int
    checksums: memoryview
    one: DataBuffer
    other: DataBuffer

    def behind(self, done: int) -> FileRun:
        """What is left when so many blocks are done."""
        return self._replace(
            offset=self.offset + done * self.block_length,
            blocks=self.blocks - done,
            checksums=self.checksums[done * CHECKSUM_BYTES :],
        )
