"""What The Sleuth Kit does not tell of an NTFS file: how far it has been written ("initialized size"), as what lies
beyond reads as zeros, whatever is on the disk there; and that a part of a directory makes no sense, which is left
out."""

from __future__ import annotations

import struct
from typing import Any, Final

from appliance.backup.filesystems.reader import NotReadable

_DATA, _ATTRIBUTE_LIST, _END = 0x80, 0x20, 0xFFFFFFFF
_INDEX_ROOT, _INDEX_ALLOCATION, _BITMAP = 0x90, 0xA0, 0xB0
_LIMIT_BITMAP_BYTES: Final = 1 << 20  # of 8 million blocks
_SEQUENCE_BYTES: Final = 512  # the last two bytes of each are kept in the head of the record


class NtfsRecords:
    """The master file table of one file system."""

    def __init__(self, files: Any) -> None:
        self._files = files
        self._table = files.open_meta(0)
        self._record_bytes = self._size_of_records()

    def _size_of_records(self) -> int:
        head = bytes(self._table.read_random(0, 48))
        return int(struct.unpack_from("<I", head, 0x1C)[0])  # allocated size of the record

    def initialized_size(self, number: int) -> int | None:
        """Of the unnamed data of a file, in bytes; None where the record makes no sense."""
        record = self._record(number)
        for kind, attribute in self._attributes(record):
            if kind == _DATA and not attribute[9] and attribute[8]:
                return int(struct.unpack_from("<Q", attribute, 0x38)[0])
        holder = self._holder(number, record)
        return None if holder in (None, number) else self.initialized_size_in(holder or 0)

    def initialized_size_in(self, number: int) -> int | None:
        """The same of an extension record, which has no list of its own."""
        for kind, attribute in self._attributes(self._record(number)):
            if kind == _DATA and not attribute[9] and attribute[8] and not struct.unpack_from("<Q", attribute, 16)[0]:
                return int(struct.unpack_from("<Q", attribute, 0x38)[0])
        return None

    def check_index(self, directory: Any) -> None:
        """Whether the blocks that a directory uses for its index are whole. Raises NotReadable."""
        found = {int(one.info.type): one.info for one in directory if bytes(one.info.name or b"") == b"$I30"}
        if _INDEX_ALLOCATION not in found:
            return
        if _INDEX_ROOT not in found or _BITMAP not in found:
            raise NotReadable("its index is damaged")
        root, blocks, used = (found[kind] for kind in (_INDEX_ROOT, _INDEX_ALLOCATION, _BITMAP))
        (length,) = struct.unpack_from("<I", _part(directory, root, 0, 12), 8)
        if length not in {1 << n for n in range(9, 17)} or int(used.size) > _LIMIT_BITMAP_BYTES:
            raise NotReadable("its index is damaged")
        bitmap = _part(directory, used, 0, int(used.size))
        for number in range(min(int(blocks.size) // length, 8 * len(bitmap))):
            is_used = bitmap[number // 8] >> number % 8 & 1
            if is_used and not _is_whole(_part(directory, blocks, number * length, length), length):
                raise NotReadable("a block of its index is damaged")

    def _holder(self, number: int, record: bytes) -> int | None:
        """The record that has the beginning of the data, by the attribute list."""
        if all(kind != _ATTRIBUTE_LIST for kind, _ in self._attributes(record)):
            return None
        file = self._files.open_meta(number)
        listed = next((a.info for a in file if int(a.info.type) == _ATTRIBUTE_LIST), None)
        if listed is None:
            return None
        entries = bytes(file.read_random(0, int(listed.size), _ATTRIBUTE_LIST, int(listed.id)))
        at = 0
        while at + 26 <= len(entries):
            kind, length, name_length, _, first_cluster, reference = struct.unpack_from("<IHBBQQ", entries, at)
            if kind == _DATA and not name_length and not first_cluster:
                return int(reference) & (1 << 48) - 1
            if length < 26:
                return None
            at += length
        return None

    def _record(self, number: int) -> bytes:
        raw = bytearray(self._table.read_random(number * self._record_bytes, self._record_bytes))
        if raw[:4] != b"FILE":
            return b""
        at, count = struct.unpack_from("<HH", raw, 4)
        for index in range(1, count):
            end = index * _SEQUENCE_BYTES
            raw[end - 2 : end] = raw[at + 2 * index : at + 2 * index + 2]
        return bytes(raw)

    @staticmethod
    def _attributes(record: bytes) -> list[tuple[int, bytes]]:
        if len(record) < 0x18:
            return []
        found, at = [], struct.unpack_from("<H", record, 0x14)[0]
        while at + 16 <= len(record):
            kind, length = struct.unpack_from("<II", record, at)
            if kind == _END or length < 16 or at + length > len(record):
                break
            found.append((kind, record[at : at + length]))
            at += length
        return found


def _part(file: Any, attribute: Any, offset: int, length: int) -> bytes:
    return bytes(file.read_random(offset, length, int(attribute.type), int(attribute.id)))


def _is_whole(block: bytes, length: int) -> bool:
    """Whether each of its sectors ends with the number of the write that wrote them all."""
    if len(block) != length or block[:4] != b"INDX":
        return False
    at, count = struct.unpack_from("<HH", block, 4)
    number = block[at : at + 2]
    ends = range(_SEQUENCE_BYTES, length + 1, _SEQUENCE_BYTES)
    return count == len(ends) + 1 and all(block[end - 2 : end] == number for end in ends)
