"""FS_IOC_FIEMAP: which parts of a file have their space but no data yet (Linux, Documentation/filesystems/fiemap)."""

import fcntl
import struct
from collections.abc import Iterator

FS_IOC_FIEMAP = 0xC020660B
EXTENT_LAST = 0x0001
EXTENT_UNWRITTEN = 0x0800

_HEADER = struct.Struct("=QQLLLL")  # start, length, flags, mapped extents, room for extents, reserved
_EXTENT = struct.Struct("=QQQQQLLLL")  # logical, physical, length, 2 reserved, flags, 3 reserved
_EXTENTS_PER_CALL = 128


def unwritten(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the unwritten extents in start..end, in order, cut to that range. Nothing where the storage
    does not say."""
    while start < end:
        request = bytearray(_HEADER.size + _EXTENTS_PER_CALL * _EXTENT.size)
        _HEADER.pack_into(request, 0, start, end - start, 0, 0, _EXTENTS_PER_CALL, 0)
        try:
            fcntl.ioctl(descriptor, FS_IOC_FIEMAP, request)
        except OSError:  # a block device, or a file system without FIEMAP
            return
        count = _HEADER.unpack_from(request)[3]
        last = count < _EXTENTS_PER_CALL
        for index in range(count):
            extent = _EXTENT.unpack_from(request, _HEADER.size + index * _EXTENT.size)
            logical, length, flags = extent[0], extent[2], extent[5]
            first, stop = max(logical, start), min(logical + length, end)
            if flags & EXTENT_UNWRITTEN and first < stop:
                yield first, stop - first
            last = last or bool(flags & EXTENT_LAST)
            start = max(start, stop)
        if last:
            return
