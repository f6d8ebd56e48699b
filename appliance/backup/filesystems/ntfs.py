"""What The Sleuth Kit does not tell of an NTFS file: how far it has been written ("initialized size"). What lies beyond
reads as zeros, whatever is on the disk there."""

from __future__ import annotations

import struct
from typing import Any, Final

_DATA, _ATTRIBUTE_LIST, _END = 0x80, 0x20, 0xFFFFFFFF
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
