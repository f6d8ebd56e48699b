"""A list of the blocks that are wanted of a snapshot set, as it comes in: begin, parts, end.

Only which sectors of which chunk are wanted is kept, so that a list takes no more memory than its disks allow, however
long it is. The end says how many extents there were and their digest, which begins with the snapshot's name: a list
that was torn, doubled in part, or made for another snapshot is refused whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from vlib_images.disk.wanted import WantedSectors

MOST_EXTENTS: Final = 10_000  # in one part


class BadList(Exception):
    """The list cannot be used; str() says why and what to do."""


class BlockList:
    """sizes: of the snapshot's disks, in bytes."""

    def __init__(self, snapshot: str, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._wanted = {disk: WantedSectors(size) for disk, size in sizes.items()}
        self._count = 0
        self._digest = hashlib.sha256(f"{snapshot}\n".encode())

    def add(self, disk: str, extents: Iterable[tuple[int, int]]) -> None:
        """One part: (offset, length) in bytes. Raises BadList."""
        rows = checked(self._sizes, disk, extents)
        if len(rows) > MOST_EXTENTS:
            raise BadList(f"a part has {len(rows)} extents; send at most {MOST_EXTENTS} at a time")
        for offset, length in rows:
            self._wanted[disk].add(offset, length)
            self._digest.update(f"{disk} {offset} {length}\n".encode())
        self._count += len(rows)

    def end(self, count: int, digest: str) -> dict[str, WantedSectors]:
        """What is wanted of each disk. Raises BadList."""
        if count != self._count:
            raise BadList(f"the list is torn: {self._count} of its {count} extents came; begin it again")
        if digest != self._digest.hexdigest():
            raise BadList("the list's digest does not agree: it is torn, or of another snapshot; begin it again")
        return self._wanted


def checked(sizes: Mapping[str, int], disk: str, extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The extents, all of which are on that disk of those of `sizes`. Raises BadList."""
    size = sizes.get(disk)
    if size is None:
        raise BadList(f"the snapshot has no disk {disk}; it has {', '.join(sizes)}")
    rows = list(extents)
    for offset, length in rows:
        if offset < 0 or length <= 0 or offset + length > size:
            raise BadList(f"extent {offset}+{length} is not on disk {disk}, which has {size} bytes")
    return rows


def digest_of(snapshot: str, extents: Iterable[tuple[str, int, int]]) -> str:
    """The digest that the end of a list of (disk, offset, length) carries: SHA-256 in hexadecimal of the snapshot's
    name and the extents, a line each."""
    digest = hashlib.sha256(f"{snapshot}\n".encode())
    for disk, offset, length in extents:
        digest.update(f"{disk} {offset} {length}\n".encode())
    return digest.hexdigest()
