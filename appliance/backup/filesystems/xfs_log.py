"""XFS: whether the log has to be replayed. A clean one ends with the record that an unmount leaves."""

from __future__ import annotations

import struct
from typing import Final

from appliance.backup.filesystems.reader import NotReadable, Reader
from appliance.backup.filesystems.xfs_extents import Geometry

_MAGIC: Final = b"\xfe\xed\xba\xbe"
_SECTOR: Final = 512
_STEP_BYTES: Final = 4 << 20
_UNMOUNT: Final = 0x20  # a flag of an operation


def check_clean(reader: Reader, geometry: Geometry) -> None:
    """Raises NotReadable, OSError."""
    start, size = geometry.block_at(geometry.log_block), geometry.log_blocks * geometry.block_bytes
    newest, where = (-1, -1), -1
    for at in range(0, size, _STEP_BYTES):
        data = reader.read(start + at, min(_STEP_BYTES, size - at))
        found = data.find(_MAGIC)
        while found >= 0:
            if found % _SECTOR == 0:
                number = struct.unpack_from(">II", data, found + 16)  # cycle and block of the record itself
                if number > newest:
                    newest, where = number, at + found
            found = data.find(_MAGIC, found + 4)
    if where < 0:
        raise NotReadable("its log has no record at all; mend it: xfs_repair")
    head = reader.read(start + where, 2 * _SECTOR)
    operations = struct.unpack_from(">I", head, 40)[0]
    flags = reader.read(start + (where + _headers(head) * _SECTOR) % size, 12)[9]
    if operations != 1 or not flags & _UNMOUNT:
        raise NotReadable(
            "its log has to be replayed: the file system is mounted, or was not unmounted cleanly. Unmount it, or "
            "mount it once"
        )


def _headers(head: bytes) -> int:
    """Sectors of headers before the operations: one for each 32 KiB of the record's size, in version 2 of the log."""
    version, size = struct.unpack_from(">I", head, 8)[0], struct.unpack_from(">I", head, 320)[0]
    return max(1, -(-size // (32 << 10))) if version & 2 else 1
