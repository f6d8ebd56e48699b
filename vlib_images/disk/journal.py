"""Overwriting a range of a file so that a crash leaves all of the new bytes or none of them.

The new data is durable in a journal of one record before the first byte changes in place; opening the journal after a
crash finishes what was begun. Record: a header of 512 bytes (magic, offset, length, CRC32C of the data, CRC32C of the
header before it, all little endian), then the data. A header of zeros is no record.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from datamover.engine import crc32c
from vlib_images.atomic import sync_directory
from vlib_images.plain_files import read_plain

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = b"TBOVWR1\n"
HEADER_BYTES = 512
_FIELDS = struct.Struct("<8sQQI")
_CHECK = struct.Struct("<I")

WriteInPlace = Callable[["Buffer", int], None]  # durable when it returns


class OverwriteJournal:
    """The journal of one file. One overwrite at a time: the caller sees to it."""

    def __init__(self, path: Path, write: WriteInPlace, length_max: int) -> None:
        """Nothing is opened yet. write(data, offset): writes to the file itself, durable when it returns. length_max:
        the longest overwrite, in bytes."""
        self._path = path
        self._length_max = length_max
        self._write = write
        self._descriptor = -1

    def pending(self) -> tuple[memoryview, int] | None:
        """(data, offset) of an overwrite that a crash interrupted, None when there is none. Raises OSError,
        also where the journal is no plain file or longer than any of ours."""
        try:
            return _decode(read_plain(self._path, HEADER_BYTES + self._length_max))
        except FileNotFoundError:
            return None

    def recover(self) -> bool:
        """Finishes an overwrite that a crash interrupted; True when there was one. Raises OSError."""
        record = self.pending()
        if record is not None:
            self._write(*record)
        self._path.unlink(missing_ok=True)
        sync_directory(self._path.parent)
        return record is not None

    def overwrite(self, data: "Buffer", offset: int) -> None:
        """Raises OSError; the range is then as it was, or as it will be when the journal is recovered."""
        if self._descriptor < 0:
            self._path.unlink(missing_ok=True)  # whatever came there since recover(): nothing of ours
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            sync_directory(self._path.parent)
        header = _encode(data, offset)
        written = os.pwritev(self._descriptor, [header, data], 0, os.RWF_DSYNC)
        if written != len(header) + memoryview(data).nbytes:
            raise OSError(f"{self._path}: the journal took only {written} bytes")
        self._write(data, offset)
        # Durable too: a record that came back after later writes to the same range would undo them.
        os.pwritev(self._descriptor, [bytes(HEADER_BYTES)], 0, os.RWF_DSYNC)

    def close(self) -> None:
        """Removes the journal: between overwrites it holds nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._path.unlink(missing_ok=True)


def _encode(data: "Buffer", offset: int) -> bytes:
    fields = _FIELDS.pack(MAGIC, offset, memoryview(data).nbytes, crc32c(data))
    return (fields + _CHECK.pack(crc32c(fields))).ljust(HEADER_BYTES, b"\0")


def _decode(content: bytes) -> tuple[memoryview, int] | None:
    """(data, offset), or None when there is no whole record."""
    fields = content[: _FIELDS.size]
    if len(content) < HEADER_BYTES or content[_FIELDS.size :][: _CHECK.size] != _CHECK.pack(crc32c(fields)):
        return None
    magic, offset, length, check = _FIELDS.unpack(fields)
    data = memoryview(content)[HEADER_BYTES : HEADER_BYTES + length]
    return (data, offset) if magic == MAGIC and len(data) == length and crc32c(data) == check else None
