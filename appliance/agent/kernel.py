"""The requests to the Linux kernel that Python has no words for: FIFREEZE, FITHAW, FIEMAP, flags of inodes, mlockall,
syncfs, mount.

Raises OSError throughout. Sources: linux/fs.h, linux/fiemap.h, mlockall(2), syncfs(2), unshare(2), mount(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878
FS_IOC_FIEMAP: Final = 0xC020660B
FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_FSGETXATTR: Final = 0x801C581F
FIEMAP_FLAG_SYNC: Final = 0x1
FIEMAP_EXTENT_LAST: Final = 0x1
EXTENTS_AT_A_TIME: Final = 512
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_NOATIME, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 1024, 1 << 14, 1 << 18
_HEAD = struct.Struct("=QQLLLL")  # struct fiemap: start, length, flags, mapped extents, extent count, reserved
_EXTENT = struct.Struct("=QQQQQLLLL")  # struct fiemap_extent: logical, physical, length, 2 reserved, flags, 3 reserved


class MappedExtent(NamedTuple):
    """What FIEMAP says of one extent of a file, in bytes; physical counts from the beginning of the block device."""

    logical: int
    physical: int
    length: int
    flags: int


def freeze(descriptor: int) -> None:
    """Write out a file system and hold it still. Raises OSError: EBUSY where somebody holds it already."""
    fcntl.ioctl(descriptor, FIFREEZE, 0)


def thaw(descriptor: int) -> None:
    """Let it go on. Raises OSError: EINVAL where nobody holds it."""
    fcntl.ioctl(descriptor, FITHAW, 0)


def sync_file_system(descriptor: int) -> None:
    """Write out what waits, so that holding it still takes less long."""
    _call("syncfs", descriptor)


def lock_memory() -> None:
    """No page of this process has to be read again from a file system that may be held still."""
    _call("mlockall", _MCL_CURRENT | _MCL_FUTURE)


def unlock_memory() -> None:
    """Its pages are as any others again."""
    _call("munlockall")


def leave_mounts_to_others() -> None:
    """What this process mounts from now on, nobody else sees, and it is gone with the process."""
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def mount_read_only(device: bytes, directory: bytes, file_system: str, options: str) -> None:
    """Mount a block device; programs, devices and rights on it are as good as plain files."""
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME
    _call("mount", device, directory, file_system.encode(), flags, options.encode())


def mapped_extents(descriptor: int) -> Iterator[MappedExtent]:
    """Where the content of a file lies, in the order of the file; what waits to be written is written first."""
    start, last = 0, False
    while not last:
        head = _HEAD.pack(start, 0xFFFFFFFFFFFFFFFF - start, FIEMAP_FLAG_SYNC, 0, EXTENTS_AT_A_TIME, 0)
        answer = bytearray(head + bytes(_EXTENT.size * EXTENTS_AT_A_TIME))
        fcntl.ioctl(descriptor, FS_IOC_FIEMAP, answer)
        count = _HEAD.unpack_from(answer)[3]
        last = count == 0
        for number in range(count):
            logical, physical, length, _, _, flags, *_ = _EXTENT.unpack_from(answer, _HEAD.size + number * _EXTENT.size)
            yield MappedExtent(logical, physical, length, flags)
            start, last = logical + length, bool(flags & FIEMAP_EXTENT_LAST)


def inode_flags(descriptor: int) -> int:
    """FS_..._FL of linux/fs.h."""
    answer = bytearray(8)
    fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, answer)
    return int.from_bytes(answer[:4], sys.byteorder)


def extended_flags(descriptor: int) -> int:
    """FS_XFLAG_... of linux/fs.h, which struct fsxattr begins with."""
    answer = bytearray(28)
    fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, answer)
    return int.from_bytes(answer[:4], sys.byteorder)


def _call(name: str, *arguments: object) -> None:
    """A function of the C library that answers 0, or -1 with errno."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
