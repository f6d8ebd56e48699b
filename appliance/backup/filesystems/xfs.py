"""XFS, read from outside. xfs_db(8) would say the same, but it wants a file that begins with the file system: neither
a snapshot nor a partition is one. The tests hold the two beside each other.

Structures are those of "XFS Algorithms & Data Structures", 3rd edition; versions 4 and 5 are read.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from appliance.backup.entries import Entry, FileExtent, Kind, Skipped, clipped
from appliance.backup.filesystems import xfs_attributes
from appliance.backup.filesystems.reader import LIMIT_LINK_BYTES, NotReadable, Reader, bad_directory, check_walked_once
from appliance.backup.filesystems.xfs_extents import BlockRun, Fork, Geometry, is_intact
from appliance.backup.filesystems.xfs_log import check_clean

_INODE_MAGIC: Final = b"IN"
_DEVICE, _LOCAL = 0, 1  # formats of a fork
_REALTIME_FLAG: Final = 0x0001
_BIG_TIME_FLAG: Final = 0x08
_LARGE_EXTENT_COUNTS_FLAG: Final = 0x10
_BIG_TIME_EPOCH: Final = 1 << 31  # seconds before 1970 that big times count from
_DATA_BLOCKS_BYTES: Final = 32 << 30  # of a directory; then come its leaves
_BLOCK_HEADERS: Final = {b"XD2B": 16, b"XD2D": 16, b"XDB3": 64, b"XDD3": 64}
_CHECKED_BLOCKS: Final = (b"XDB3", b"XDD3")
_INODE_CHECKSUM_AT, _BLOCK_CHECKSUM_AT = 100, 4
_WITH_TAIL: Final = (b"XD2B", b"XDB3")  # a directory of one block ends with its leaves
_FREE: Final = 0xFFFF
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.SYMBOLIC_LINK, stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE, stat.S_IFIFO: Kind.FIFO, stat.S_IFDIR: Kind.DIRECTORY,
}  # fmt: skip


@dataclass(slots=True)
class XfsInode:
    """An inode: what a tar member needs of it, and its two forks."""

    number: int
    mode: int
    user: int
    group: int
    links: int
    size: int
    modified_ns: int
    flags: int
    data: Fork
    attributes: Fork | None


class XfsFileSystem:
    """walk() it once or more often, in the same order each time. Raises NotReadable, OSError."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._geometry = Geometry.of(reader)
        check_clean(reader, self._geometry)
        self._first: dict[int, bytes] = {}  # the first name of a file with several

    def walk(self) -> Iterator[Entry | Skipped]:
        """Every file, directories before what is in them; extents count from the beginning of the disk."""
        self._first.clear()
        root = self._geometry.root_inode
        yield from self._described(b".", root)
        waiting, walked = [(b"", iter(self._names(root)))], {root}
        while waiting:
            path, names = waiting[-1]
            try:
                following = next(names, None)
            except (NotReadable, IndexError, struct.error) as reason:
                raise bad_directory(path, reason) from None
            if following is None:
                waiting.pop()
                continue
            name, number = following
            if not name or b"/" in name or b"\0" in name:
                yield Skipped(path + b"?", "its name is none that a file can have; mend the file system: xfs_repair")
                continue
            for found in self._described(path + name, number):
                is_directory = isinstance(found, Entry) and found.kind is Kind.DIRECTORY
                yield found  # whoever takes it may give it another name
                if is_directory:
                    check_walked_once(walked, number, path + name)
                    waiting.append((path + name + b"/", iter(self._names(number))))

    # ---- inodes ----------------------------------------------------------------------------------------------------

    def _inode(self, number: int) -> XfsInode:
        geometry = self._geometry
        raw = self._reader.read(geometry.inode_at(number), geometry.inode_bytes)
        if raw[:2] != _INODE_MAGIC or len(raw) < geometry.inode_bytes:
            raise NotReadable(f"inode {number} is damaged; mend it: xfs_repair")
        if raw[4] >= 3 and not is_intact(raw, _INODE_CHECKSUM_AT):
            raise NotReadable(f"the checksum of inode {number} is wrong; mend it: xfs_repair")
        version, data_format = raw[4], raw[5]
        mode, old_links = struct.unpack_from(">H", raw, 2)[0], struct.unpack_from(">H", raw, 6)[0]
        user, group, links = struct.unpack_from(">III", raw, 8)
        size, _blocks, _hint, data_extents, attribute_extents, fork_at, attribute_format = struct.unpack_from(
            ">QQIIHBb", raw, 56
        )
        flags, core_bytes, more_flags = struct.unpack_from(">H", raw, 90)[0], 100, 0
        if version >= 3:
            core_bytes, more_flags = 176, struct.unpack_from(">Q", raw, 120)[0]
        if more_flags & _LARGE_EXTENT_COUNTS_FLAG:
            data_extents, attribute_extents = struct.unpack_from(">Q", raw, 24)[0], struct.unpack_from(">I", raw, 76)[0]
        split = core_bytes + fork_at * 8 if fork_at else len(raw)
        attributes = None
        if fork_at:
            attributes = Fork(attribute_format, raw[split:], attribute_extents)
        return XfsInode(
            number, mode, user, group, links if version >= 2 else old_links, size,
            _time(raw[40:48], big=bool(more_flags & _BIG_TIME_FLAG)), flags,
            Fork(data_format, raw[core_bytes:split], data_extents), attributes,
        )  # fmt: skip

    def _described(self, name: bytes, number: int) -> Iterator[Entry | Skipped]:
        try:
            inode = self._inode(number)
            kind = _KINDS.get(stat.S_IFMT(inode.mode))
            if kind is None:
                yield Skipped(name, "a socket" if stat.S_ISSOCK(inode.mode) else "no kind of file that is known")
            elif inode.flags & _REALTIME_FLAG and kind is Kind.FILE:
                yield Skipped(name, "on the realtime device")
            elif kind is not Kind.DIRECTORY and number in self._first:
                yield Entry(name, Kind.HARD_LINK, inode.mode & 0o7777, link=self._first[number])
            else:
                yield self._entry(name, kind, inode)
                if inode.links > 1 and kind is not Kind.DIRECTORY:
                    self._first[number] = name
        except NotReadable as reason:
            yield Skipped(name, str(reason))
        except (IndexError, struct.error):  # of version 4, which has no checksums
            yield Skipped(name, f"inode {number} is damaged; mend it: xfs_repair")

    def _entry(self, name: bytes, kind: Kind, inode: XfsInode) -> Entry:
        entry = Entry(name, kind, inode.mode & 0o7777, inode.user, inode.group, inode.modified_ns)
        if kind is Kind.FILE:
            entry.size = inode.size
            entry.extents = clipped([self._extent(run) for run in self._runs(inode.data)], inode.size)
        elif kind is Kind.SYMBOLIC_LINK:
            entry.link = self._link(inode)
        elif kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            value = int.from_bytes(inode.data.raw[:4], "big")
            entry.device = value >> 18 & 0x3FFF, value & 0x3FFFF
        if inode.attributes is not None:
            entry.attributes = xfs_attributes.read(self._reader, self._geometry, inode.attributes)
        return entry

    def _runs(self, fork: Fork) -> list[BlockRun]:
        return [run for run in fork.runs(self._reader, self._geometry) if not run.unwritten]

    def _extent(self, run: BlockRun) -> FileExtent:
        length = self._geometry.block_bytes
        disk_offset = self._reader.offset + self._geometry.block_at(run.block)
        return FileExtent(run.file_block * length, disk_offset, run.blocks * length)

    def _link(self, inode: XfsInode) -> bytes:
        if inode.data.format == _LOCAL:
            return inode.data.raw[: inode.size]
        geometry, found = self._geometry, b""
        if inode.size > LIMIT_LINK_BYTES:
            raise NotReadable(f"a link of {inode.size} bytes; mend it: xfs_repair")
        for run in self._runs(inode.data):
            for block in range(min(run.blocks, LIMIT_LINK_BYTES // geometry.block_bytes + 1)):
                data = self._reader.read(geometry.block_at(run.block + block), geometry.block_bytes)
                found += data[56:] if data[:4] == b"XSLM" else data
        if len(found) < inode.size:
            raise NotReadable("a link that is not whole; mend it: xfs_repair")
        return found[: inode.size]

    # ---- directories -----------------------------------------------------------------------------------------------

    def _names(self, number: int) -> Iterator[tuple[bytes, int]]:
        inode = self._inode(number)
        if inode.data.format == _LOCAL:
            yield from self._short_names(inode.data.raw)
            return
        blocks: dict[int, int] = {}
        for run in inode.data.runs(self._reader, self._geometry):
            blocks |= {run.file_block + n: run.block + n for n in range(run.blocks)}
        step = self._geometry.directory_bytes // self._geometry.block_bytes
        last = _DATA_BLOCKS_BYTES // self._geometry.block_bytes
        for first in sorted(block for block in blocks if block < last and block % step == 0):
            data = b"".join(
                self._reader.read(self._geometry.block_at(blocks[first + n]), self._geometry.block_bytes)
                for n in range(step)
                if first + n in blocks
            )
            yield from self._names_in(data, number)

    def _short_names(self, raw: bytes) -> Iterator[tuple[bytes, int]]:
        count, wide = raw[0], raw[1]
        width, at = 8 if wide else 4, 10 if wide else 6
        for _ in range(wide or count):
            length = raw[at]
            name = raw[at + 3 : at + 3 + length]
            at += 3 + length + self._geometry.has_file_types
            yield name, int.from_bytes(raw[at : at + width], "big")
            at += width

    def _names_in(self, data: bytes, number: int) -> Iterator[tuple[bytes, int]]:
        magic = data[:4]
        is_checked = magic in _CHECKED_BLOCKS
        if magic not in _BLOCK_HEADERS or (is_checked and not is_intact(data, _BLOCK_CHECKSUM_AT)):
            raise NotReadable(f"directory inode {number} is damaged; mend it: xfs_repair")
        at, end = _BLOCK_HEADERS[magic], len(data)
        if magic in _WITH_TAIL:
            end -= 8 + 8 * int.from_bytes(data[-8:-4], "big")
        while at + 12 <= end:
            if int.from_bytes(data[at : at + 2], "big") == _FREE:
                length = int.from_bytes(data[at + 2 : at + 4], "big")
                if length < 8:
                    raise NotReadable(f"directory inode {number} is damaged; mend it: xfs_repair")
                at += length
                continue
            child, length = int.from_bytes(data[at : at + 8], "big"), data[at + 8]
            name = data[at + 9 : at + 9 + length]
            at += -(-(9 + length + self._geometry.has_file_types + 2) // 8) * 8
            if name not in (b".", b".."):
                yield name, child


def _time(raw: bytes, *, big: bool) -> int:
    """Seconds and nanoseconds of 32 bits each, or nanoseconds in 64 bits since 1901."""
    if big:
        return int.from_bytes(raw, "big") - _BIG_TIME_EPOCH * 1_000_000_000
    return int.from_bytes(raw[:4], "big", signed=True) * 1_000_000_000 + int.from_bytes(raw[4:], "big")
