"""Which sectors of which chunks: what a list asks of a snapshot, and what of a chunk is still to be made safe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vlib_images.disk.snapshot_store import CHUNK_BYTES

SECTOR_BYTES: Final = 512
SECTORS: Final = CHUNK_BYTES // SECTOR_BYTES  # of a chunk
WHOLE: Final = (1 << SECTORS) - 1  # a bit for each sector of a chunk
NONE, ALL, SOME = range(3)


class WantedSectors:
    """Sectors of a disk of size_bytes. chunks: NONE, ALL or SOME of each chunk; parts: which of SOME, as bits.

    However many ranges are added, it takes no more memory than the disk's size allows."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.chunks = bytearray(-(-size_bytes // CHUNK_BYTES))
        self.parts: dict[int, int] = {}

    def add(self, offset: int, length: int) -> None:
        """A range in bytes; a sector of which any byte is in it is wanted."""
        first, end = offset // SECTOR_BYTES, -(-(offset + length) // SECTOR_BYTES)
        for chunk, stop, bits in pieces(first, end, self.size_bytes):
            if bits == WHOLE:
                self.chunks[chunk:stop] = bytes([ALL]) * (stop - chunk)
            elif self.chunks[chunk] != ALL:
                self._add_part(chunk, bits)

    def _add_part(self, chunk: int, bits: int) -> None:
        bits |= self.parts.get(chunk, 0)
        self.chunks[chunk] = ALL if bits == WHOLE else SOME
        self.parts[chunk] = bits


def pieces(first: int, end: int, size_bytes: int) -> Iterator[tuple[int, int, int]]:
    """The sectors from `first` to before `end` of a disk, as (chunk, end chunk, bits): a run of whole chunks, or a part
    of one. Where a range reaches the end of the disk, the last chunk counts as if it were whole."""
    total = -(-size_bytes // SECTOR_BYTES)
    if end >= total:
        end = -(-total // SECTORS) * SECTORS
    while first < end:
        chunk, at = divmod(first, SECTORS)
        if at == 0 and end - first >= SECTORS:
            stop = end // SECTORS
            yield chunk, stop, WHOLE
            first = stop * SECTORS
        else:
            stop_at = min(SECTORS, at + end - first)
            yield chunk, chunk + 1, ((1 << (stop_at - at)) - 1) << at
            first += stop_at - at
