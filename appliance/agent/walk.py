"""All files below a directory of a mounted snapshot: what each is, and where its content lies. No content is read, but
of files whose bytes have no blocks of their own and are few.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from appliance.agent.file_systems import NotMapped
from appliance.agent.mapping import Locate, extents_of
from appliance.backup.entries import Entry, FileExtent, Kind, Skipped
from appliance.backup.filesystems.posix_acl import of_attribute

READ_THROUGH_BYTES: Final = 64 << 10  # of a file without blocks of its own: its bytes are a part of the list
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMBOLIC_LINK, stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE, stat.S_IFBLK: Kind.BLOCK_DEVICE,
}  # fmt: skip
_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")

ExtentMapper = Callable[[int, int], list[FileExtent]]


def mapper(locate: Locate, disk: str) -> ExtentMapper:
    """What Walk asks of an open file: its extents on that disk, for its size. Raises NotMapped, OSError."""
    return lambda descriptor, size: extents_of(descriptor, size, locate, disk)


@dataclass(slots=True)
class Walk:
    """One file system. top: where it is mounted. prefix: of the names, without a slash at its end. only: paths below
    top, of which these alone are wanted; exclude: shell patterns of names, or of paths where they have a slash."""

    top: bytes
    extents: ExtentMapper
    prefix: bytes = b""
    only: Sequence[bytes] = ()
    exclude: Sequence[bytes] = ()
    _links: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def entries(self) -> Iterator[Entry | Skipped]:
        """Directories before what is in them, names in order: the same each time. Raises OSError for the top only."""
        device = os.lstat(self.top).st_dev
        yield from self._one(b"", os.lstat(self.top), device)

    def _one(self, name: bytes, status: os.stat_result, device: int) -> Iterator[Entry | Skipped]:
        if name and self._left_out(name):
            return
        if self._wanted(name):
            yield self._described(name, status)
        if stat.S_ISDIR(status.st_mode) and status.st_dev == device and self._wanted(name):
            yield from self._below(name, device)

    def _below(self, name: bytes, device: int) -> Iterator[Entry | Skipped]:
        directory = self.top + b"/" + name if name else self.top
        try:
            with os.scandir(directory) as rows:
                found = sorted((row.name, row.stat(follow_symlinks=False)) for row in rows)
        except OSError as error:
            yield Skipped(self._named(name), f"it cannot be read: {error.strerror}")
            return
        for base, status in found:
            yield from self._one(name + b"/" + base if name else base, status, device)

    def _wanted(self, name: bytes) -> bool:
        """What was asked for, what is below it, and the directories that lead to it."""
        return not self.only or any(_is_below(name, path) or _is_below(path, name) for path in self.only)

    def _left_out(self, name: bytes) -> bool:
        return any(
            fnmatchcase(name if b"/" in pattern else name.rsplit(b"/", 1)[-1], pattern.strip(b"/"))
            for pattern in self.exclude
        )

    def _named(self, name: bytes) -> bytes:
        return b"/".join(part for part in (self.prefix, name) if part) or b"."

    def _described(self, name: bytes, status: os.stat_result) -> Entry | Skipped:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return Skipped(self._named(name), "sockets are not saved")
        entry = Entry(
            self._named(name), kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns
        )
        path = self.top + b"/" + name if name else self.top
        try:
            if kind is not Kind.DIRECTORY and status.st_nlink > 1 and self._is_link(entry, status):
                return entry
            self._fill(entry, path, status)
        except (OSError, NotMapped) as error:
            return Skipped(entry.name, error.strerror or str(error) if isinstance(error, OSError) else str(error))
        return entry

    def _is_link(self, entry: Entry, status: os.stat_result) -> bool:
        first = self._links.setdefault((status.st_dev, status.st_ino), entry.name)
        if first == entry.name:
            return False
        entry.kind, entry.link = Kind.HARD_LINK, first
        return True

    def _fill(self, entry: Entry, path: bytes, status: os.stat_result) -> None:
        entry.attributes = dict(_attributes(path))
        if entry.kind is Kind.SYMBOLIC_LINK:
            entry.link = os.readlink(path)  # noqa: PTH115 - of any bytes
        elif entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        elif entry.kind is Kind.FILE:
            entry.size = status.st_size
            if status.st_size:
                self._map(entry, path)

    def _map(self, entry: Entry, path: bytes) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC)
        try:
            entry.extents = self.extents(descriptor, entry.size)
        except NotMapped:
            if entry.size > READ_THROUGH_BYTES:
                raise
            entry.content = os.pread(descriptor, entry.size, 0)
        finally:
            os.close(descriptor)


def _is_below(name: bytes, path: bytes) -> bool:
    return not path or name == path or name.startswith(path + b"/")


def _attributes(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system without them
        return
    for name in sorted(names):
        value = os.getxattr(path, name, follow_symlinks=False)
        yield os.fsencode(name), of_attribute(value) if name in _ACLS else value
