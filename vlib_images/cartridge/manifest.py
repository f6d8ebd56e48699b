"""The manifest of a partition: which segments make it up. FORMAT.md, "Manifest", is the specification."""

import struct
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final

from datamover.engine import crc32c
from vlib_images.errors import CartridgeDamaged

MAGIC: Final = b"TBMANIF\x01"
HEADER: Final = struct.Struct("<8sII16sIIQQQ")
ENTRY: Final = struct.Struct("<QQQQQIIIHBBII")
CRC: Final = struct.Struct("<I")


class EntryFlag(IntFlag):
    """HEAD: the segment is still written, its log tells how far. CUT: its file may be longer than the entry says."""

    HEAD = 1
    CUT = 2


NO_FLAGS: Final = EntryFlag(0)
NO_OBJECT: Final = 0xFFFFFFFE
"""More than any segment has objects."""
SEGMENT_OBJECTS_MAX: Final = 1 << 24
SEGMENT_BYTES_MAX: Final = 16 << 30
"""What one segment can have: its tables say places in 31 bits, in units of 8 bytes."""


@dataclass(slots=True)
class ManifestEntry:
    """One segment. first_object and first_filemark count from the partition's beginning.

    data_bytes: where the SEAL record lies; HEAD: how much log was durable when the manifest was written.
    used_bytes: the live part of the log.
    first_encrypted: the segment's first encrypted block; NO_OBJECT: it has none; None: not known.
    encrypted_end: all blocks from that one up to this object are encrypted.
    """

    segment_id: int
    seed: int
    first_object: int
    first_filemark: int
    objects: int = 0
    filemarks: int = 0
    data_bytes: int = 0
    used_bytes: int = 0
    dead_entries: int = 0
    epoch: int = 0
    flags: EntryFlag = NO_FLAGS
    first_encrypted: int | None = None
    encrypted_end: int = 0

    @property
    def has_encrypted(self) -> bool:
        """Whether the segment is known to have an encrypted block."""
        return self.first_encrypted is not None and self.first_encrypted != NO_OBJECT

    def forget_encrypted(self, object_number: int) -> None:
        """The objects from this one on are gone."""
        if self.first_encrypted is not None and self.first_encrypted >= object_number:
            self.first_encrypted, self.encrypted_end = NO_OBJECT, 0
        self.encrypted_end = min(self.encrypted_end, object_number)

    @property
    def end(self) -> int:
        """The number of the first object behind the segment."""
        return self.first_object + self.objects


@dataclass(slots=True)
class Manifest:
    """generation counts the replacements; segments from next_segment_id on continue the list if they chain up."""

    cartridge_uuid: bytes
    partition: int
    generation: int = 0
    next_segment_id: int = 1
    worm: bool = False
    entries: list[ManifestEntry] = field(default_factory=list)

    def encode(self) -> bytes:
        parts = [
            HEADER.pack(
                MAGIC,
                len(self.entries),
                int(self.worm),
                self.cartridge_uuid,
                self.partition,
                0,
                self.generation,
                self.next_segment_id,
                0,
            )
        ]
        parts += [
            ENTRY.pack(
                entry.segment_id,
                entry.first_object,
                entry.first_filemark,
                entry.data_bytes,
                entry.used_bytes,
                entry.objects,
                entry.filemarks,
                entry.seed,
                entry.dead_entries,
                entry.flags,
                entry.epoch,
                0 if entry.first_encrypted is None else entry.first_encrypted + 1,
                entry.encrypted_end,
            )
            for entry in self.entries
        ]
        content = b"".join(parts)
        return content + CRC.pack(crc32c(content))

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Raises CartridgeDamaged when the bytes are no manifest that verifies."""
        if len(data) < HEADER.size + CRC.size or data[: len(MAGIC)] != MAGIC:
            raise CartridgeDamaged("the manifest is no manifest of format version 1")
        content = memoryview(data)[: -CRC.size]
        if crc32c(content) != CRC.unpack_from(data, len(content))[0]:
            raise CartridgeDamaged("the manifest's checksum is wrong")
        _, count, flags, uuid, partition, _, generation, next_segment_id, _ = HEADER.unpack_from(content)
        if len(content) != HEADER.size + count * ENTRY.size:
            raise CartridgeDamaged(f"the manifest has {len(data)} bytes, which do not fit {count} entries")
        entries = [cls._entry(row) for row in ENTRY.iter_unpack(content[HEADER.size :])]
        return cls(uuid, partition, generation, next_segment_id, bool(flags & 1), entries)

    @staticmethod
    def _entry(row: tuple[int, ...]) -> ManifestEntry:
        segment_id, first_object, first_filemark, data_bytes, used_bytes, *rest = row
        objects, filemarks, seed, dead_entries, flags, epoch, first_encrypted, encrypted_end = rest
        if not filemarks <= objects <= SEGMENT_OBJECTS_MAX or max(data_bytes, used_bytes) > SEGMENT_BYTES_MAX:
            raise CartridgeDamaged(f"the manifest gives segment {segment_id} more than a segment can have")
        return ManifestEntry(
            segment_id=segment_id,
            seed=seed,
            first_object=first_object,
            first_filemark=first_filemark,
            objects=objects,
            filemarks=filemarks,
            data_bytes=data_bytes,
            used_bytes=used_bytes,
            dead_entries=dead_entries,
            epoch=epoch,
            flags=EntryFlag(flags),
            first_encrypted=first_encrypted - 1 if first_encrypted else None,
            encrypted_end=encrypted_end,
        )
