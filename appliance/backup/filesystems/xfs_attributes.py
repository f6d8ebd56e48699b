"""XFS: extended attributes, in the inode or in blocks of their own, and those whose values are in further blocks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from appliance.backup.filesystems import posix_acl
from appliance.backup.filesystems.reader import NotReadable, Reader
from appliance.backup.filesystems.xfs_extents import Fork, Geometry

_LOCAL: Final = 1
_ROOT, _SECURE, _LOCAL_VALUE, _INCOMPLETE, _PARENT = 0x02, 0x04, 0x01, 0x80, 0x08
_LEAVES: Final = {b"\xfb\xee": 32, b"\x3b\xee": 80}  # magic (at byte 8), and where their entries begin
_NODES: Final = (b"\xfe\xbe", b"\x3e\xbe")
_REMOTE_MAGIC: Final = b"XARM"
_REMOTE_HEAD_BYTES: Final = 56
_ACLS: Final = {b"SGI_ACL_FILE": b"system.posix_acl_access", b"SGI_ACL_DEFAULT": b"system.posix_acl_default"}


def read(reader: Reader, geometry: Geometry, fork: Fork) -> dict[bytes, bytes]:
    """By full names. Raises NotReadable, OSError."""
    found = {}
    entries = _short(fork.raw) if fork.format == _LOCAL else _in_blocks(reader, geometry, fork)
    for flags, name, value in entries:
        if flags & (_INCOMPLETE | _PARENT):
            continue
        if flags & _ROOT and name in _ACLS:
            found[_ACLS[name]] = posix_acl.of_xfs(value)
        elif not (flags & _ROOT and name.startswith(b"SGI_")):
            prefix = b"security." if flags & _SECURE else b"trusted." if flags & _ROOT else b"user."
            found[prefix + name] = value
    return found


def _short(raw: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    if len(raw) < 4:
        return
    at = 4
    for _ in range(raw[2]):
        name_length, value_length, flags = raw[at : at + 3]
        name_at = at + 3
        at = name_at + name_length + value_length
        yield flags, raw[name_at : name_at + name_length], raw[name_at + name_length : at]


def _in_blocks(reader: Reader, geometry: Geometry, fork: Fork) -> Iterator[tuple[int, bytes, bytes]]:
    blocks: dict[int, int] = {}
    for run in fork.runs(reader, geometry):
        blocks |= {run.file_block + n: run.block + n for n in range(run.blocks)}

    def block(number: int) -> bytes:
        if number not in blocks:
            raise NotReadable("its attributes are damaged; mend it: xfs_repair")
        return reader.read(geometry.block_at(blocks[number]), geometry.block_bytes)

    # Leaves know each other, but blocks of values lie among them: the tree says which are leaves.
    waiting, seen = [0], set[int]()
    while waiting:
        number = waiting.pop()
        if number in seen:
            raise NotReadable("its attributes are damaged; mend it: xfs_repair")
        seen.add(number)
        data = block(number)
        magic = data[8:10]
        if magic in _NODES:
            head = 64 if magic == _NODES[1] else 16
            count = struct.unpack_from(">H", data, 56 if magic == _NODES[1] else 12)[0]
            waiting += [struct.unpack_from(">I", data, head + 8 * n + 4)[0] for n in range(count)]
        elif magic in _LEAVES:
            yield from _leaf(data, _LEAVES[magic], block)
        else:
            raise NotReadable("its attributes are damaged; mend it: xfs_repair")


def _leaf(data: bytes, first: int, block: Callable[[int], bytes]) -> Iterator[tuple[int, bytes, bytes]]:
    count = struct.unpack_from(">H", data, 56 if first == 80 else 12)[0]
    for index in range(count):
        _, at, flags, _ = struct.unpack_from(">IHBB", data, first + 8 * index)
        if flags & _LOCAL_VALUE:
            value_length, name_length = struct.unpack_from(">HB", data, at)
            name = data[at + 3 : at + 3 + name_length]
            yield flags, name, data[at + 3 + name_length :][:value_length]
        else:
            value_block, value_length, name_length = struct.unpack_from(">IIB", data, at)
            name = data[at + 9 : at + 9 + name_length]
            yield flags, name, _remote(value_block, value_length, block)


def _remote(number: int, length: int, block: Callable[[int], bytes]) -> bytes:
    found = b""
    while len(found) < length and length <= 1 << 16:
        data = block(number)
        found += data[_REMOTE_HEAD_BYTES:] if data[:4] == _REMOTE_MAGIC else data
        number += 1
    return found[:length]
