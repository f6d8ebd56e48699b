"""A part of a disk's image to read structures from: small reads, kept in pages, as they come again and again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

PAGE_BYTES: Final = 64 << 10
KEPT_PAGES: Final = 256  # 16 MiB
LIMIT_LINK_BYTES: Final = 4096  # what Linux takes
_SECTOR: Final = 512


class NotReadable(Exception):
    """A disk or file system that cannot be backed up from outside as it is; str() says why, and what helps."""


class ContentNotKept(OSError):
    """These bytes were content of files, are on tape, and are not kept any more."""


def bad_directory(path: bytes, reason: object) -> NotReadable:
    """Of one whose names cannot be read; all files below it would be missing. path: from the root; ends with "/" or
    not."""
    shown = path.rstrip(b"/").decode(errors="backslashreplace") or "of the root"
    return NotReadable(f"directory {shown}: {reason}; mend the file system: e2fsck, xfs_repair, fsck.fat, chkdsk")


def check_walked_once(walked: set[int], number: int, path: bytes) -> None:
    """A directory is in one other, and never in itself: else a disk could be made whose files have no end. Raises
    NotReadable."""
    if number in walked:
        shown = path.decode(errors="backslashreplace")
        raise NotReadable(
            f"directory {shown} has two names, or contains itself; mend the file system: e2fsck, xfs_repair"
        )
    walked.add(number)


class ReadsBytes(Protocol):
    """What is asked of an image, of a disk or of one of its snapshots."""

    size_bytes: int

    def read_into(self, buffer: Buffer, offset: int) -> None: ...


class Reader:
    """`size_bytes` of an image from `offset` on; offsets of read() count from there. One thread at a time."""

    def __init__(self, image: ReadsBytes, offset: int = 0, size_bytes: int | None = None) -> None:
        self.offset = offset
        self.size_bytes = image.size_bytes - offset if size_bytes is None else size_bytes
        self._image = image
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def part(self, offset: int, size_bytes: int) -> Reader:
        """A part of this one."""
        return Reader(self._image, self.offset + offset, size_bytes)

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes at the end. Raises OSError."""
        length = max(0, min(length, self.size_bytes - offset))
        try:
            return self._of_pages(offset, length)
        except OSError:  # of the page perhaps, and not of what is wanted: the rest of it may have been given back
            return self._uncached(offset, length)

    def read_ahead(self, offset: int, length: int) -> bytes:
        """As read(), for what reads more than the sector that it needs. After that may come what a snapshot does not
        keep any more, content of files that is on tape already: it is read as zeros. Raises OSError."""
        try:
            return self.read(offset, length)
        except OSError:
            end = min(offset + length, self.size_bytes)
            found = self._uncached(offset, min(end - offset, _SECTOR))
            for at in range(offset + _SECTOR, end, _SECTOR):
                found += self._kept(at, min(_SECTOR, end - at))
            return found

    def _kept(self, offset: int, length: int) -> bytes:
        try:
            return self._uncached(offset, length)
        except ContentNotKept:
            return bytes(length)

    def _of_pages(self, offset: int, length: int) -> bytes:
        first, last = offset // PAGE_BYTES, (offset + max(length, 1) - 1) // PAGE_BYTES
        start = offset - first * PAGE_BYTES
        if first == last:
            return self._page(first)[start : start + length]
        if last - first >= KEPT_PAGES:
            return self._uncached(offset, length)
        return b"".join(self._page(number) for number in range(first, last + 1))[start : start + length]

    def _page(self, number: int) -> bytes:
        found = self._pages.get(number)
        if found is None:
            at = number * PAGE_BYTES
            found = self._pages[number] = self._uncached(at, min(PAGE_BYTES, self.size_bytes - at))
            if len(self._pages) > KEPT_PAGES:
                self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(number)
        return found

    def _uncached(self, offset: int, length: int) -> bytes:
        buffer = bytearray(max(0, length))
        if length > 0:
            self._image.read_into(buffer, self.offset + offset)
        return bytes(buffer)
