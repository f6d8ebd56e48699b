"""What The Sleuth Kit does not tell of ext2, ext3 and ext4: the state of the file system, and all of an inode.

Clauses are those of the kernel's Documentation/filesystems/ext4. Only what says where inodes are is read here; which
blocks are a file's, and what is in a directory, The Sleuth Kit says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from appliance.backup.filesystems import posix_acl
from appliance.backup.filesystems.reader import NotReadable, Reader
from datamover.engine import crc32c

SUPERBLOCK_AT: Final = 1024
MAGIC: Final = 0xEF53
_COMPRESSION, _RECOVER, _JOURNAL_DEVICE, _META_BG, _64BIT, _DIRDATA = 0x1, 0x4, 0x8, 0x10, 0x80, 0x1000
# Features under which an old reader would misread the file system, and which are understood here.
_KNOWN: Final = 0x2 | _RECOVER | _META_BG | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x30000
_CHECKSUM_SEED: Final = 0x2000  # incompatible
_SPARSE_SUPER, _METADATA_CHECKSUMS = 0x1, 0x400  # read-only compatible
_SPARSE_SUPER2: Final = 0x200  # compatible
_ERROR_STATE: Final = 0x2
_EXTRA_AT: Final = 128  # an inode of 128 bytes ends here
_ATTRIBUTES_MAGIC: Final = 0xEA020000
_PREFIXES: Final = {
    1: b"user.", 2: b"system.posix_acl_access", 3: b"system.posix_acl_default", 4: b"trusted.", 6: b"security.",
    7: b"system.", 8: b"system.richacl",
}  # fmt: skip
INLINE_DATA, ENCRYPTED, COMPRESSED = 0x10000000, 0x800, 0x4
_INLINE_ATTRIBUTE: Final = b"system.data"
_ENTRY: Final = struct.Struct("<IHB")  # of a directory: inode, length, length of its name
_BODY: Final = struct.Struct("<HHIIIIIHHII4x60s4xII4x2xHHH4x")  # to byte 128; see _decode()


@dataclass(slots=True)
class ExtInode:
    """An inode. blocks: the 60 bytes that hold its extents, block numbers, link or inline data.
    values_elsewhere: attributes whose values are inodes of their own, by number."""

    number: int
    mode: int
    user: int
    group: int
    size: int
    modified_ns: int
    links: int
    flags: int
    blocks: bytes
    attributes: dict[bytes, bytes]
    values_elsewhere: dict[bytes, int]

    @property
    def device(self) -> tuple[int, int]:
        """(major, minor) of a device file: 16 bits in the first number, or else 32 in the second."""
        old, new = struct.unpack_from("<II", self.blocks)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00

    def inline_content(self) -> bytes:
        """The content of a file with inline data; removes the attribute that has the end of it."""
        return (self.blocks + self.attributes.pop(_INLINE_ATTRIBUTE, b""))[: self.size]


class ExtInodes:
    """The inodes of one file system. Raises NotReadable when it is not one that may be read now."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        superblock = reader.read(SUPERBLOCK_AT, 1024)
        _check(superblock)
        self.block_length: int = 1024 << int.from_bytes(superblock[0x18:0x1C], "little")
        self._first_data_block = int.from_bytes(superblock[0x14:0x18], "little")
        self._blocks_in_group = int.from_bytes(superblock[0x20:0x24], "little")
        self._inodes_in_group = int.from_bytes(superblock[0x28:0x2C], "little")
        self._compatible, self._incompatible, self._read_only_compatible = struct.unpack_from("<III", superblock, 0x5C)
        revision = struct.unpack_from("<I", superblock, 0x4C)[0]
        self._inode_bytes = struct.unpack_from("<H", superblock, 0x58)[0] if revision else 128
        self._backups = struct.unpack_from("<II", superblock, 0x24C)
        self._first_meta_group = struct.unpack_from("<I", superblock, 0x104)[0]
        wide = struct.unpack_from("<H", superblock, 0xFE)[0]
        self._descriptor_bytes = wide if self._incompatible & _64BIT and wide >= 64 else 32
        if not self._inodes_in_group or not self._blocks_in_group or self._inode_bytes < 128:
            raise NotReadable("its superblock is damaged; mend it: e2fsck")
        self._tables: dict[int, int] = {}
        self._checksum_seed = self._seed_of(superblock)

    def _seed_of(self, superblock: bytes) -> int | None:
        """What checksums of metadata go on from (ext4, "Checksums"); None: there are none."""
        if not self._read_only_compatible & _METADATA_CHECKSUMS:
            return None
        if self._incompatible & _CHECKSUM_SEED:
            return int(struct.unpack_from("<I", superblock, 0x270)[0]) ^ 0xFFFFFFFF
        return crc32c(superblock[0x68:0x78])

    def get(self, number: int) -> ExtInode:
        """An inode by number. Raises NotReadable when its bytes make no sense, OSError."""
        group, index = divmod(number - 1, self._inodes_in_group)
        raw = self._reader.read(self._table(group) + index * self._inode_bytes, self._inode_bytes)
        if len(raw) < self._inode_bytes:
            raise NotReadable(f"inode {number} is not on the disk; mend the file system: e2fsck")
        self._check_sum(number, raw)
        return self._decode(number, raw)

    # ---- where inodes are ------------------------------------------------------------------------------------------

    def _table(self, group: int) -> int:
        if group not in self._tables:
            descriptor = self._reader.read(self._descriptor_at(group), self._descriptor_bytes)
            block = int.from_bytes(descriptor[8:12], "little")
            if self._descriptor_bytes >= 64:
                block |= int.from_bytes(descriptor[0x28:0x2C], "little") << 32
            self._tables[group] = block * self.block_length
        return self._tables[group]

    def _descriptor_at(self, group: int) -> int:
        """Descriptors follow the superblock; with META_BG those of some groups lie in the first of these groups."""
        in_block = self.block_length // self._descriptor_bytes
        block, index = divmod(group, in_block)
        at = self._first_data_block + 1 + block
        if self._incompatible & _META_BG and block >= self._first_meta_group:
            first = block * in_block
            at = self._first_data_block + first * self._blocks_in_group + self._has_superblock(first)
        return at * self.block_length + index * self._descriptor_bytes

    def _has_superblock(self, group: int) -> bool:
        if self._compatible & _SPARSE_SUPER2:
            return group == 0 or group in self._backups
        if group <= 1 or not self._read_only_compatible & _SPARSE_SUPER:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    def _check_sum(self, number: int, raw: bytes) -> None:
        """ext4, "Checksums": of the file system's identifier, the inode's number, its generation and itself."""
        if self._checksum_seed is None:
            return
        wide = self._inode_bytes > _EXTRA_AT and int.from_bytes(raw[_EXTRA_AT : _EXTRA_AT + 2], "little") >= 4
        blank = bytearray(raw)
        stored, blank[0x7C:0x7E] = raw[0x7C:0x7E], b"\0\0"
        if wide:
            stored, blank[0x82:0x84] = stored + raw[0x82:0x84], b"\0\0"
        found = crc32c(number.to_bytes(4, "little") + raw[0x64:0x68], self._checksum_seed)
        found = crc32c(blank, found) ^ 0xFFFFFFFF
        if found.to_bytes(4, "little")[: len(stored)] != stored:
            raise NotReadable(f"the checksum of inode {number} is wrong; mend the file system: e2fsck")

    # ---- an inode --------------------------------------------------------------------------------------------------

    def _decode(self, number: int, raw: bytes) -> ExtInode:
        mode, user, size, _, _, modified, _, group, links, _, flags, blocks, low_acl, high_size, high_acl, high_user, \
            high_group = _BODY.unpack_from(raw)  # fmt: skip
        extra = struct.unpack_from("<H", raw, _EXTRA_AT)[0] if self._inode_bytes > _EXTRA_AT else 0
        found = ExtInode(
            number, mode, user | high_user << 16, group | high_group << 16, size | high_size << 32,
            _time(modified, int.from_bytes(raw[0x88:0x8C], "little") if extra >= 0x0C else 0),
            links, flags, blocks, {}, {},
        )  # fmt: skip
        if self._inode_bytes > _EXTRA_AT + extra + 4:
            self._read_attributes(found, raw, _EXTRA_AT + extra, _EXTRA_AT + extra + 4)
        if acl_block := low_acl | high_acl << 32:
            block = self._reader.read(acl_block * self.block_length, self.block_length)
            if int.from_bytes(block[:4], "little") != _ATTRIBUTES_MAGIC:
                raise NotReadable(f"the attributes of inode {number} are damaged; mend the file system: e2fsck")
            self._read_attributes(found, block, 0, 0, entries_at=32)
        return found

    @staticmethod
    def _read_attributes(
        inode: ExtInode, data: bytes, magic_at: int, values_at: int, entries_at: int | None = None
    ) -> None:
        if int.from_bytes(data[magic_at : magic_at + 4], "little") != _ATTRIBUTES_MAGIC:
            return
        for name, at, elsewhere, size in _attribute_entries(data, entries_at if entries_at is not None else values_at):
            value = data[values_at + at : values_at + at + size]
            if len(value) < size and not elsewhere:
                raise NotReadable(f"the attributes of inode {inode.number} are damaged; mend the file system: e2fsck")
            try:
                if elsewhere:
                    inode.values_elsewhere[name] = elsewhere
                elif name in (_PREFIXES[2], _PREFIXES[3]):
                    inode.attributes[name] = posix_acl.of_ext4(value)
                else:
                    inode.attributes[name] = value
            except ValueError as error:
                raise NotReadable(f"inode {inode.number} has {error}") from None


def check_names(block: bytes) -> None:
    """Whether a block of a directory is full of entries, one after the other to its end, as it has to be (ext4,
    "Directory Entries"; the nodes of its index look so too). Raises NotReadable."""
    at, end = 0, len(block)
    while at < end:
        _, length, name_length = _ENTRY.unpack_from(block, at) if at + 8 <= end else (0, 0, 0)
        if end > 0xFFFF and length in (0, 0xFFFF):
            length = end - at
        if length < 8 + name_length or length % 4 or at + length > end:
            raise NotReadable("a block of it is damaged")
        at += length


def _attribute_entries(data: bytes, at: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(name, offset of the value, inode of the value, its size) of each."""
    while at + 16 <= len(data) and any(data[at : at + 4]):
        length, index, value_at, elsewhere, size = struct.unpack_from("<BBHII", data, at)
        name = data[at + 16 : at + 16 + length]
        if index in _PREFIXES:
            yield _PREFIXES[index] + name, value_at, elsewhere, size
        at += 16 + (length + 3) // 4 * 4


def _time(seconds: int, extra: int) -> int:
    """32 bits of seconds, signed, and two more (for years to 2446) beside 30 of nanoseconds."""
    signed = seconds - (1 << 32) if seconds & 1 << 31 else seconds
    return (signed + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)


def _check(superblock: bytes) -> None:
    (state,) = struct.unpack_from("<H", superblock, 0x3A)
    (incompatible,) = struct.unpack_from("<I", superblock, 0x60)
    if incompatible & _RECOVER:
        raise NotReadable(
            "its journal has to be replayed: the file system is mounted, or was not unmounted cleanly. Unmount it, or "
            "mend it: e2fsck"
        )
    if state & _ERROR_STATE:
        raise NotReadable("its superblock says that it has errors; mend it: e2fsck")
    if incompatible & _JOURNAL_DEVICE:
        raise NotReadable("it is an external journal, and no file system")
    if incompatible & ~_KNOWN:
        raise NotReadable(f"it has features ({incompatible & ~_KNOWN:#x}) that this version does not know")
