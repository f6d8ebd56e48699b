"""Partition tables: GPT (UEFI 2.10, 5.3) and MBR with logical partitions."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from appliance.backup.filesystems.reader import NotReadable, Reader

_SECTOR: Final = 512
_MBR_SIGNATURE: Final = b"\x55\xaa"
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_PROTECTIVE: Final = 0xEE
_MOST: Final = 1024  # entries of a table, logical partitions of a chain


class DiskPartition(NamedTuple):
    """number: as Linux counts. offset, size_bytes: on the disk."""

    number: int
    offset: int
    size_bytes: int


def partitions(disk: Reader, block_length: int) -> list[DiskPartition]:
    """The partitions of a disk with blocks of so many bytes; none where it has no table. Raises NotReadable for a table
    that is damaged."""
    sector = disk.read(0, _SECTOR)
    if sector[510:512] != _MBR_SIGNATURE or _is_boot_sector(sector):
        return []
    primary = list(_entries(sector))
    if any(kind == _PROTECTIVE for _, kind, _, _ in primary):
        return list(_gpt(disk, block_length))
    found = []
    for number, kind, first, count in primary:
        if kind in _EXTENDED:
            found += list(_logical(disk, block_length, first))
        else:
            found.append(DiskPartition(number, first * block_length, count * block_length))
    return [part for part in found if part.offset > 0 and part.offset + part.size_bytes <= disk.size_bytes]


def _is_boot_sector(sector: bytes) -> bool:
    """Of a FAT or NTFS file system without partitions, which ends as an MBR does."""
    jumps = sector[0] in (0xEB, 0xE9)
    fat = sector[54:57] == b"FAT" or sector[82:85] == b"FAT"
    return jumps and (fat or sector[3:7] == b"NTFS" or sector[3:8] == b"EXFAT")


def _entries(sector: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(number, type, first block, blocks) of those that there are."""
    for index in range(4):
        status, kind, first, count = struct.unpack_from("<B3xB3xII", sector, 446 + 16 * index)
        if kind and count and status in (0x00, 0x80):
            yield index + 1, kind, first, count


def _logical(disk: Reader, block_length: int, extended: int) -> Iterator[DiskPartition]:
    at, number = extended, 5
    while number < 5 + _MOST:
        sector = disk.read(at * block_length, _SECTOR)
        if sector[510:512] != _MBR_SIGNATURE:
            raise NotReadable(f"the table of logical partitions at block {at} is damaged")
        following = 0
        for _, kind, first, count in _entries(sector):
            if kind in _EXTENDED:
                following = extended + first
            else:
                yield DiskPartition(number, (at + first) * block_length, count * block_length)
                number += 1
        if not following:
            return
        at = following


def _gpt(disk: Reader, block_length: int) -> Iterator[DiskPartition]:
    last = disk.size_bytes // block_length - 1
    for header_at in (1, last):  # the backup at the end, where the first is damaged
        header = disk.read(header_at * block_length, 92)
        if header[:8] == b"EFI PART" and _is_whole(header):
            entries_at, count, size = struct.unpack_from("<QII", header, 72)
            if 128 <= size <= 4096 and count <= _MOST:
                table = disk.read(entries_at * block_length, count * size)
                if zlib.crc32(table) == struct.unpack_from("<I", header, 88)[0]:
                    yield from _gpt_entries(table, size, block_length)
                    return
    raise NotReadable("its GUID partition table is damaged, and so is the copy at the end; mend it: gdisk")


def _is_whole(header: bytes) -> bool:
    return zlib.crc32(header[:16] + bytes(4) + header[20:92]) == int.from_bytes(header[16:20], "little")


def _gpt_entries(table: bytes, size: int, block_length: int) -> Iterator[DiskPartition]:
    for index in range(len(table) // size):
        entry = table[index * size : (index + 1) * size]
        first, last = struct.unpack_from("<QQ", entry, 32)
        if any(entry[:16]) and last >= first:
            yield DiskPartition(index + 1, first * block_length, (last - first + 1) * block_length)
