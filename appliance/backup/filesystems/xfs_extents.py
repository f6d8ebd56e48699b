"""XFS: where things are. Block and inode numbers, and the forks of inodes, whose extents are a list or a B+tree."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from appliance.backup.filesystems.reader import NotReadable, Reader
from datamover.engine import crc32c

_EXTENTS, _TREE = 2, 3  # formats of a fork
_RECORD_BYTES: Final = 16
_TREE_MAGICS: Final = {b"BMAP": 24, b"BMA3": 72}  # and how long the heads of such blocks are
_CHECKED_TREE, _TREE_CHECKSUM_AT = b"BMA3", 64
_LIMIT_LEVELS: Final = 9
# Incompatible features: file types, sparse inodes, meta UUID, big times, repair wanted, large extent counts.
_KNOWN_INCOMPATIBLE: Final = 0x1 | 0x2 | 0x4 | 0x8 | 0x20
_NEEDS_REPAIR: Final = 0x10


class BlockRun(NamedTuple):
    """Blocks of a file that lie together."""

    file_block: int
    block: int
    blocks: int
    unwritten: bool


@dataclass(frozen=True, slots=True)
class Geometry:
    """Of a superblock. has_file_types: 1 where directory entries say what a file is, else 0."""

    block_bytes: int
    directory_bytes: int
    inode_bytes: int
    root_inode: int
    log_block: int
    log_blocks: int
    group_blocks: int
    group_log: int
    inodes_log: int
    has_file_types: int
    version: int

    @classmethod
    def of(cls, reader: Reader) -> Self:
        """Raises NotReadable."""
        raw = reader.read(0, 512)
        version_bits = struct.unpack_from(">H", raw, 100)[0]
        version = version_bits & 0x0F
        if raw[:4] != b"XFSB" or version not in (4, 5):
            raise NotReadable("its superblock is of no XFS that this version knows")
        incompatible = struct.unpack_from(">I", raw, 216)[0] if version == 5 else 0
        if incompatible & _NEEDS_REPAIR:
            raise NotReadable("it says itself that it wants a repair: xfs_repair")
        if incompatible & ~_KNOWN_INCOMPATIBLE:
            unknown = incompatible & ~_KNOWN_INCOMPATIBLE
            raise NotReadable(f"it has features ({unknown:#x}) that this version does not know")
        features_2 = struct.unpack_from(">I", raw, 200)[0]
        block_bytes = struct.unpack_from(">I", raw, 4)[0]
        if block_bytes not in {1 << n for n in range(9, 17)}:
            raise NotReadable("its superblock is damaged; mend it: xfs_repair")
        log_block, root = struct.unpack_from(">QQ", raw, 48)
        if not log_block:
            raise NotReadable("its log is on another device, so nobody can say from here whether it is clean")
        return cls(
            block_bytes, block_bytes << raw[192], struct.unpack_from(">H", raw, 104)[0], root, log_block,
            struct.unpack_from(">I", raw, 96)[0], struct.unpack_from(">I", raw, 84)[0], raw[124], raw[123],
            int(bool(incompatible & 0x1 or features_2 & 0x200)), version,
        )  # fmt: skip

    def block_at(self, block: int) -> int:
        """Where a block begins, in bytes; its number holds its allocation group's in the upper bits."""
        group, within = block >> self.group_log, block & (1 << self.group_log) - 1
        return (group * self.group_blocks + within) * self.block_bytes

    def inode_at(self, number: int) -> int:
        """Where an inode begins, in bytes."""
        block, index = number >> self.inodes_log, number & (1 << self.inodes_log) - 1
        return self.block_at(block) + index * self.inode_bytes


def is_intact(raw: bytes, checksum_at: int) -> bool:
    """Whether the CRC32C of a structure of version 5 is right: it is that of all of it, with zeros in its own place."""
    blank = bytearray(raw)
    blank[checksum_at : checksum_at + 4] = bytes(4)
    return crc32c(blank) == int.from_bytes(raw[checksum_at : checksum_at + 4], "little")


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork of an inode: the bytes that the inode has of it, and how many extents there are."""

    format: int
    raw: bytes
    extents: int

    def runs(self, reader: Reader, geometry: Geometry) -> Iterator[BlockRun]:
        """Its extents, in order. Raises NotReadable, OSError."""
        if self.format == _EXTENTS:
            yield from _records(self.raw, self.extents)
        elif self.format == _TREE:
            level, count = struct.unpack_from(">HH", self.raw)
            room = (len(self.raw) - 4) // 16
            pointers = struct.unpack_from(f">{count}Q", self.raw, 4 + room * 8)
            for pointer in pointers:
                yield from _tree(reader, geometry, pointer, level - 1)


def _tree(reader: Reader, geometry: Geometry, block: int, level: int) -> Iterator[BlockRun]:
    raw = reader.read(geometry.block_at(block), geometry.block_bytes)
    head = _TREE_MAGICS.get(raw[:4])
    if head is None or not 0 <= level < _LIMIT_LEVELS:
        raise NotReadable("the tree of its extents is damaged; mend it: xfs_repair")
    found_level, count = struct.unpack_from(">HH", raw, 4)
    if found_level != level or (raw[:4] == _CHECKED_TREE and not is_intact(raw, _TREE_CHECKSUM_AT)):
        raise NotReadable("the tree of its extents is damaged; mend it: xfs_repair")
    if level == 0:
        yield from _records(raw[head:], count)
        return
    room = (len(raw) - head) // 16
    for pointer in struct.unpack_from(f">{min(count, room)}Q", raw, head + room * 8):
        yield from _tree(reader, geometry, pointer, level - 1)


def _records(raw: bytes, count: int) -> Iterator[BlockRun]:
    """One bit that says "unwritten", 54 of the block in the file, 52 of the block on the disk, 21 of their count."""
    for at in range(0, min(count, len(raw) // _RECORD_BYTES) * _RECORD_BYTES, _RECORD_BYTES):
        value = int.from_bytes(raw[at : at + _RECORD_BYTES], "big")
        yield BlockRun(
            value >> 73 & (1 << 54) - 1, value >> 21 & (1 << 52) - 1, value & (1 << 21) - 1, bool(value >> 127)
        )
