"""Disk images: raw sparse files, image files that were there before, and block devices.

Nothing but the disk's bytes is in an image, so any tool can read it: no header, no format of ours. What the methods
promise is in `image.Image`.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from datamover.engine import write_in_pieces
from vlib_images.atomic import sync_directory
from vlib_images.disk import fallocate, fiemap
from vlib_images.disk.holders import device_holders, file_holders
from vlib_images.disk.image import (
    FILL_CHUNK_BYTES,
    MAX_ATOMIC_BYTES,
    BeforeChange,
    Extent,
    Provisioning,
    fill_steps,
)
from vlib_images.disk.journal import OverwriteJournal

if TYPE_CHECKING:
    from typing_extensions import Buffer


# What a copy writes at once. A shorter write gains less, and one into space that is there already gains nothing.
CLAIM_BYTES = 1 << 20


class DiskInUse(Exception):
    """Another process, or another disk of this one, has the image open; str() names it."""


class NotADisk(Exception):
    """The path cannot be served as a disk; str() says why and what to do."""


class DiskImage:
    """An open image. Make one with create() or open()."""

    def __init__(self, path: Path, descriptor: int, *, read_only: bool) -> None:
        self.path = path
        self.name = str(path)
        self.read_only = read_only
        self.before_change: BeforeChange | None = None
        self._descriptor = descriptor
        self._lost: OSError | None = None  # why synchronize() failed
        status = os.fstat(descriptor)
        self.is_block_device = stat.S_ISBLK(status.st_mode)
        self.size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        self.allocation_unit = max(512, status.st_blksize)
        # A block device has no place beside it that is sure to be there again at the next start.
        journal = path.parent.resolve() / f".{path.name}.overwrite"
        self._journal = (
            None if self.is_block_device else OverwriteJournal(journal, self._write_durable, MAX_ATOMIC_BYTES)
        )
        # A hole behind the end of a file changes nothing, so it shows what the file system can do. A block device
        # answers the same call by discarding, or by writing zeros where it cannot.
        self.can_deallocate = not read_only and (
            self.is_block_device
            or fallocate.try_fallocate(
                descriptor, fallocate.PUNCH_HOLE | fallocate.KEEP_SIZE, self.size_bytes, self.allocation_unit
            )
        )

    @classmethod
    def create(cls, path: Path, size_bytes: int) -> "DiskImage":
        """A new sparse image of zeros; its name is durable when this returns. Raises OSError (FileExistsError)."""
        if size_bytes <= 0:
            raise ValueError(f"a disk of {size_bytes} bytes")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            _set_length(descriptor, path, size_bytes)
            os.fsync(descriptor)
            sync_directory(path.parent)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> "DiskImage":
        """An image file or block device, locked against every other opener (readers of an image file may share it) and
        against this machine: what it has mounted or uses otherwise is refused.

        Raises DiskInUse, NotADisk, OSError."""
        descriptor = _open(path, os.O_RDONLY if read_only else os.O_RDWR)
        try:
            _lock(descriptor, path, shared=read_only)
            image = cls(path, descriptor, read_only=read_only)
            if image.size_bytes == 0:
                raise NotADisk(f"{path} is empty; give it the disk's size first")
            image._finish_overwrite()
        except BaseException:
            os.close(descriptor)
            raise
        return image

    def _finish_overwrite(self) -> None:
        record = None if self._journal is None else self._journal.pending()
        if record is not None:
            data, offset = record
            if self.read_only:
                raise NotADisk(
                    f"{self.path} has an overwrite that a crash interrupted; open it once for writing to finish it"
                )
            if offset + len(data) > self.size_bytes:
                raise NotADisk(
                    f"{self.path} has {self.size_bytes} bytes, and the overwrite that a crash interrupted ends at "
                    f"{offset + len(data)}: the image was cut, or .{self.path.name}.overwrite belongs to another"
                )
        if self._journal is not None and not self.read_only:
            self._journal.recover()

    def close(self) -> None:
        """Gives the image up. What was not synchronised is left to the operating system."""
        if self._descriptor >= 0:
            if self._journal is not None:
                self._journal.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """The file descriptor: byte N of the disk is byte N of the file, or of the device."""
        return self._descriptor

    # ---- data ------------------------------------------------------------------------------------------------------

    def read_into(self, buffer: "Buffer", offset: int) -> None:
        """Fills the whole buffer from `offset`. Raises OSError; EIO when the image ends before the buffer is full."""
        done = os.preadv(self._descriptor, [buffer], offset)
        view = memoryview(buffer)
        if done == view.nbytes:
            return
        view = view.cast("B")
        while done < view.nbytes:
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "the image is shorter than the disk", str(self.path))
            done += count

    def write(self, buffer: "Buffer", offset: int, *, durable: bool = False) -> None:
        """Writes the whole buffer at `offset`; `durable`: it is on stable storage when this returns. Raises OSError."""
        if self.before_change is not None:
            self.before_change(offset, memoryview(buffer).nbytes)
        if not durable:
            self._claim(offset, memoryview(buffer).nbytes)
            write_in_pieces(self._descriptor, buffer, offset)
            return
        done = os.pwritev(self._descriptor, [buffer], offset, os.RWF_DSYNC)
        view = memoryview(buffer)
        if done == view.nbytes:
            return
        view = view.cast("B")
        while done < view.nbytes:
            done += os.pwritev(self._descriptor, [view[done:]], offset + done, os.RWF_DSYNC)

    def _claim(self, offset: int, length: int) -> None:
        """Space for all of a large write at once, which costs the file system less than looking for each block."""
        if length >= CLAIM_BYTES and not self.is_block_device:
            fallocate.try_fallocate(self._descriptor, fallocate.KEEP_SIZE, offset, length)

    def _write_durable(self, buffer: "Buffer", offset: int) -> None:
        self.write(buffer, offset, durable=True)

    @property
    def max_atomic_bytes(self) -> int:
        """The most that write_atomic() takes; 0: this storage cannot."""
        return 0 if self._journal is None or self.read_only else MAX_ATOMIC_BYTES

    def write_atomic(self, buffer: "Buffer", offset: int) -> None:
        """Writes the whole buffer at `offset`, durable when it returns: a power cut before leaves all of it or nothing.
        Nothing else may touch the range meanwhile. At most max_atomic_bytes. Raises OSError."""
        if self._journal is None:
            raise OSError(errno.EOPNOTSUPP, "atomic writes need an image file", str(self.path))
        if self.before_change is not None:
            self.before_change(offset, memoryview(buffer).nbytes)
        self._journal.overwrite(buffer, offset)

    def synchronize(self) -> None:
        """Everything written before is on stable storage when this returns. Raises OSError, and from then on always:
        Linux forgets what it could not write, so no later success would mean that nothing is missing."""
        if self._lost is None:
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._lost = error
        if self._lost is not None:
            raise OSError(self._lost.errno, "what was written is lost", str(self.path)) from self._lost

    def prefetch(self, offset: int, length: int) -> None:
        """Starts reading a range into memory and does not wait. Raises OSError."""
        os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def pass_over(self, offset: int, length: int) -> None:
        """Nobody waits for a reader here."""

    # ---- ranges without payload ------------------------------------------------------------------------------------

    def deallocate(self, offset: int, length: int) -> None:
        """Makes a range read as zeros and gives back what space it can. Raises OSError."""
        if length and self.before_change is not None:
            self.before_change(offset, length)
        mode = fallocate.PUNCH_HOLE | fallocate.KEEP_SIZE
        if length and not fallocate.try_fallocate(self._descriptor, mode, offset, length):
            self.fill(bytes(512), offset, length)

    def anchor(self, offset: int, length: int) -> None:
        """Makes a range read as zeros with its space reserved for it. Raises OSError (ENOSPC)."""
        # Not ZERO_RANGE: ext4 writes zeros for short ranges instead of marking them unwritten. And what is still in the
        # page cache would be told from the reserved space by nobody (SEEK_DATA), so it is written first.
        self.synchronize()
        self.deallocate(offset, length)
        if length and not fallocate.try_fallocate(self._descriptor, fallocate.KEEP_SIZE, offset, length):
            self.fill(bytes(512), offset, length)

    def fill(self, pattern: bytes, offset: int, length: int) -> None:
        """Writes `pattern` over and over; `length` is a multiple of its length. Raises OSError."""
        chunk = memoryview(pattern * max(1, min(length, FILL_CHUNK_BYTES) // len(pattern)))
        for at, count in fill_steps(offset, length, len(pattern)):
            self.write(chunk[:count], at)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What is behind a range, in order and without gaps. Raises OSError."""
        end = min(offset + length, self.size_bytes)
        while offset < end:
            data = self._seek(offset, os.SEEK_DATA, end)
            if data > offset:
                yield from self._holes(offset, data)
            hole = self._seek(data, os.SEEK_HOLE, end)
            if hole > data:
                yield Extent(data, hole - data, Provisioning.MAPPED)
            offset = hole

    def _seek(self, offset: int, whence: int, end: int) -> int:
        if offset >= end:
            return end
        try:
            return min(os.lseek(self._descriptor, offset, whence), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind `offset`
                return end
            if error.errno == errno.EINVAL:  # this storage cannot tell: all of it is data
                return offset if whence == os.SEEK_DATA else end
            raise

    def _holes(self, start: int, end: int) -> Iterator[Extent]:
        """A range without data, divided into what has its space (unwritten extents) and what has none."""
        for offset, length in fiemap.unwritten(self._descriptor, start, end):
            if offset > start:
                yield Extent(start, offset - start, Provisioning.DEALLOCATED)
            yield Extent(offset, length, Provisioning.ANCHORED)
            start = offset + length
        if start < end:
            yield Extent(start, end - start, Provisioning.DEALLOCATED)

    # ---- size ------------------------------------------------------------------------------------------------------

    def grow(self, size_bytes: int) -> None:
        """Lengthens an image file with zeros, durable when this returns. ValueError: it is not longer, or a block
        device, whose size is not ours to change (see refresh_size). Raises OSError."""
        if self.is_block_device or size_bytes < self.size_bytes:
            raise ValueError(f"{self.path} cannot become {size_bytes} bytes: it has {self.size_bytes}")
        _set_length(self._descriptor, self.path, size_bytes)
        os.fsync(self._descriptor)
        self.size_bytes = size_bytes

    def refresh_size(self) -> bool:
        """Takes over the size the file or block device has now; True when it has changed."""
        size_bytes = os.lseek(self._descriptor, 0, os.SEEK_END)
        changed = size_bytes != self.size_bytes
        self.size_bytes = size_bytes
        return changed


def _set_length(descriptor: int, path: Path, size_bytes: int) -> None:
    """ftruncate(2), whose errors name the file."""
    try:
        os.ftruncate(descriptor, size_bytes)
    except OSError as error:
        error.filename = str(path)
        raise


def _open(path: Path, access: int) -> int:
    """O_EXCL keeps a block device that the kernel has in use, or will be asked to use, from being opened twice."""
    status = path.stat()
    exclusive = os.O_EXCL if stat.S_ISBLK(status.st_mode) else 0
    if not exclusive and access == os.O_RDWR:
        _refuse(path, file_holders(path))
    try:
        descriptor = os.open(path, access | exclusive | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _refuse(path, device_holders(status.st_rdev) or ["opened by another program, or mounted in another container"])
        raise
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISBLK(mode) if exclusive else stat.S_ISREG(mode)):
        os.close(descriptor)
        raise NotADisk(f"{path} is neither a file nor a block device")
    return descriptor


def _refuse(path: Path, holders: list[str]) -> None:
    if holders:
        raise DiskInUse(
            f"{path} is in use by this machine: {'; '.join(holders)}. Serving it too would destroy its data"
        )


def _lock(descriptor: int, path: Path, *, shared: bool) -> None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DiskInUse(f"{path} is in use by another process or another disk of this library") from None
