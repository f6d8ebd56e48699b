"""A file that is there, and the content of a backup into its own blocks, past this server's file system.

That is right only while the file system has no other thoughts about these blocks. So the file is held by a write lease:
nobody has it open or mapped, and whoever opens it waits. All of its blocks were written before, since what is reserved
only (UNWRITTEN, as fallocate leaves it) reads as zeros whatever lies there. Where it lies is asked before and after. No
page of it is in the cache when it is read again: once past the cache, once through it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from appliance.agent import kernel
from appliance.agent.file_systems import MountedFileSystem, NotMapped
from appliance.agent.kernel import MappedExtent
from appliance.agent.mapping import Locate, extents_of
from appliance.backup.entries import FileExtent
from datamover.engine import crc32c

_UNWRITTEN, _SHARED = 0x800, 0x2000  # linux/fiemap.h
# linux/fs.h: what makes the bytes of a file others than those of its blocks, or forbids to change them.
_INODE_FLAGS: Final = {
    0x00000004: "it is compressed", 0x00000010: "it is immutable", 0x00000020: "it can only be appended to",
    0x00000800: "it is encrypted", 0x00004000: "its data goes through the journal (data=journal)",
    0x00100000: "it is protected by fs-verity", 0x02000000: "it is used without a page cache (DAX)",
}  # fmt: skip
_EXTENDED_FLAGS: Final = {0x0001: "it lies on a realtime device", 0x8000: "it is used without a page cache (DAX)"}
_READ_BYTES: Final = 1 << 20
SWAPS: Final = Path("/proc/swaps")

Mapped = Callable[[int], Iterator[MappedExtent]]


class NotInPlace(Exception):
    """The content of a file cannot be restored in place, and why; it goes another way."""


def check_mount(mount: MountedFileSystem) -> None:
    """Raises NotInPlace for a file system whose files never can be."""
    for option in mount.options:
        if option == "data=journal":
            raise NotInPlace(f"the data of {mount.point} goes through the journal (data=journal)")
        if option in ("dax", "dax=always"):
            raise NotInPlace(f"{mount.point} is used without a page cache ({option})")


def check_place(descriptor: int, path: Path, mount: MountedFileSystem) -> None:
    """Raises NotInPlace for a file that is of another file system, or not where its name says; OSError."""
    device = os.fstat(descriptor).st_dev
    if (os.major(device), os.minor(device)) != mount.device:  # whose blocks are elsewhere
        raise NotInPlace(f"another file system than that of {mount.point} is mounted there now")
    if Path(f"/proc/self/fd/{descriptor}").readlink() != path:
        raise NotInPlace("a symbolic link on the way to it leads elsewhere now")


def check_flags(inode: int, extended: int) -> None:
    """What a file system says of a file. Raises NotInPlace."""
    for flags, reasons in ((inode, _INODE_FLAGS), (extended, _EXTENDED_FLAGS)):
        for flag, reason in reasons.items():
            if flags & flag:
                raise NotInPlace(reason)


def check_swap(path: Path, table: Path = SWAPS) -> None:
    """Raises NotInPlace for a file that memory is swapped to; OSError."""
    if any(line.split()[:1] == [str(path)] for line in table.read_text().splitlines()[1:]):
        raise NotInPlace("memory is swapped to it")


def blocks_of(
    descriptor: int, size: int, locate: Locate, disk: str, mapped: Mapped = kernel.mapped_extents
) -> list[FileExtent]:
    """Where every byte of a file lies, each in a place of its own that was written. Raises NotInPlace, OSError."""
    extents = [extent for extent in mapped(descriptor) if extent.logical < size]  # XFS reserves more beyond the end
    for extent in extents:
        if extent.flags & _UNWRITTEN:
            raise NotInPlace("a part of it is reserved and was never written (UNWRITTEN)")
        if extent.flags & _SHARED:
            raise NotInPlace("a part of it is shared with another file (SHARED)")
    try:
        found = extents_of(descriptor, size, locate, disk, lambda _descriptor: iter(extents))
    except NotMapped as reason:
        raise NotInPlace(str(reason)) from None
    if sum(extent.length for extent in found) != size:
        raise NotInPlace("a part of it is a hole")
    return found


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a file that is there. Raises NotInPlace, OSError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotInPlace("it is not there") from None
        if error.errno in (errno.ETXTBSY, errno.EWOULDBLOCK, errno.ELOOP, errno.EISDIR, errno.EROFS, errno.EPERM):
            raise NotInPlace(os.strerror(error.errno)) from None
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def leased(descriptor: int) -> Iterator[Callable[[], bool]]:
    """Nobody else has the file open or mapped, and whoever opens it waits (fcntl(2), F_SETLEASE). What is given asks
    whether that is so still. SIGIO has to be ignored. Raises NotInPlace."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise NotInPlace("somebody has it open or mapped") from None
        raise NotInPlace(f"nobody can be kept from it: {error.strerror}") from None
    try:
        yield lambda: fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def forget_pages(descriptor: int) -> None:
    """What the page cache has of a file is written and dropped. Raises OSError."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def checksums_of(descriptor: int) -> Sequence[int]:
    """The CRC32C of a file's content, read past the page cache, and read through it. Raises OSError."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    try:
        direct = _checksum(descriptor)
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return direct, _checksum(descriptor)


def _checksum(descriptor: int) -> int:
    found, at = 0, 0
    with mmap.mmap(-1, _READ_BYTES) as buffer:  # whose address suits O_DIRECT
        while length := os.preadv(descriptor, [buffer], at):
            with memoryview(buffer) as whole, whole[:length] as part:
                found = crc32c(part, found)
            at += length
    return found
