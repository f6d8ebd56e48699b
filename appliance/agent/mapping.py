"""Where the content of a file lies, as the file system itself says it (FIEMAP), and when it cannot be said.

Holes and extents that were reserved and never written (UNWRITTEN) read as zeros: they are no part of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from appliance.agent import kernel
from appliance.agent.file_systems import NotMapped
from appliance.agent.kernel import MappedExtent
from appliance.backup.entries import FileExtent

_UNWRITTEN: Final = 0x800
# linux/fiemap.h: what makes an extent's place unknown, or its bytes others than the file's.
_REASONS: Final = {
    0x002: "the place of a part of it is not known yet (UNKNOWN)",
    0x004: "a part of it is not written yet (DELALLOC)",
    0x008: "it is compressed (ENCODED)",
    0x080: "it is encrypted (DATA_ENCRYPTED)",
    0x100: "a part of it lies across blocks (NOT_ALIGNED)",
    0x200: "it lies in the file system's own structures (INLINE)",
    0x400: "its end shares a block with others (TAIL)",
}

Locate = Callable[[int, int], Iterable[tuple[str, int, int]]]


def extents_of(
    descriptor: int,
    size: int,
    locate: Locate,
    disk: str,
    mapped: Callable[[int], Iterator[MappedExtent]] = kernel.mapped_extents,
) -> list[FileExtent]:
    """A file's extents on `disk`, in the order of the file, as far as its size.

    locate(offset, length) gives the runs (disk, offset, length) of the file system's device. mapped: of tests. Raises
    NotMapped where not every byte has a place of its own on that disk; OSError."""
    found: list[FileExtent] = []
    for extent in mapped(descriptor):
        if extent.logical >= size:  # what a file system reserves for a file that grows
            break
        for flag, reason in _REASONS.items():
            if extent.flags & flag:
                raise NotMapped(reason)
        length = min(extent.length, size - extent.logical)
        if extent.flags & _UNWRITTEN or length <= 0:
            continue
        offset = extent.logical
        for where, disk_offset, run in locate(extent.physical, length):
            if where != disk:
                raise NotMapped(f"a part of it lies on {where}, another disk than {disk}")
            found.append(FileExtent(offset, disk_offset, run))
            offset += run
    return found
