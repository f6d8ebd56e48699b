"""A disk without a file system that is known: one file, its image, with the holes left out."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.backup.entries import Entry, FileExtent, Kind, Skipped
from vlib_images.disk.image import Image, Provisioning


class RawImage:
    """`size_bytes` of an image from `offset` on."""

    def __init__(self, image: Image, offset: int, size_bytes: int) -> None:
        self._image = image
        self.offset = offset
        self.size_bytes = size_bytes

    def walk(self) -> Iterator[Entry | Skipped]:
        """The one file; its name is b".", as there is nothing else. Raises OSError."""
        extents: list[FileExtent] = []
        for found in self._image.extents(self.offset, self.size_bytes):
            if found.state is not Provisioning.MAPPED or not found.length:
                continue
            at = found.offset - self.offset
            if extents and extents[-1].file_offset + extents[-1].length == at:
                extents[-1] = extents[-1]._replace(length=extents[-1].length + found.length)
            else:
                extents.append(FileExtent(at, found.offset, found.length))
        yield Entry(b".", Kind.FILE, 0o600, size=self.size_bytes, extents=extents)
