"""The files of one partition on disk: segments, their checkpoints, the manifest. The seam for other kinds of storage:
sealed segments never change, and everything else is a small file that is replaced whole."""

import contextlib
import errno
import os
import re
import struct
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from datamover.engine import Segment, crc32c
from vlib_images.cartridge.files import CartridgeFiles
from vlib_images.cartridge.manifest import NO_OBJECT, SEGMENT_OBJECTS_MAX, EntryFlag, Manifest, ManifestEntry
from vlib_images.errors import CartridgeDamaged

MAGIC: Final = b"TAPEBAYS"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sII16sIIQQQQ16sQ28sI")
MANIFEST: Final = "manifest"
NAME: Final = re.compile(r"(?P<id>\d{8,})\.(seg|idx)", re.ASCII)
OPEN_SEGMENTS: Final = 16
MANIFEST_BYTES_MAX: Final = 256 << 20
CHECKPOINT_BYTES_MAX: Final = 16 * SEGMENT_OBJECTS_MAX
"""Longer than the lists of any cartridge are: millions of segments, each object and filemark of a segment."""
SPACE_LOOKUP_BYTES: Final = 16 << 20
"""How much is written between two looks at the free space of the disk."""


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """Where a segment is full: bytes of log, or objects (which bound the memory of its index).

    disk_low_bytes: free space of the disk under which every partition is at early warning.
    """

    segment_bytes: int = 256 << 20
    segment_objects: int = 1 << 20
    disk_low_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first 128 bytes of a segment. FORMAT.md, "Segment header". `seed` is its CRC32C, which seeds every other."""

    cartridge_uuid: bytes
    partition: int
    segment_id: int
    previous_id: int
    first_object: int
    first_filemark: int
    worm: bool
    life: bytes
    created_ns: int

    def encode(self) -> bytes:
        content = HEADER.pack(
            MAGIC,
            VERSION,
            HEADER.size,
            self.cartridge_uuid,
            self.partition,
            int(self.worm),
            self.segment_id,
            self.previous_id,
            self.first_object,
            self.first_filemark,
            self.life,
            self.created_ns,
            b"",
            0,
        )[:-4]
        return content + crc32c(content).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> "SegmentHeader | None":
        """None when the bytes are no segment header that verifies."""
        if len(data) < HEADER.size or data[:8] != MAGIC:
            return None
        (_, version, _, uuid, partition, flags, segment_id, previous, objects, marks, life, created, _, seed) = (
            HEADER.unpack_from(data)
        )
        if version != VERSION or crc32c(data[: HEADER.size - 4]) != seed:
            return None
        return cls(uuid, partition, segment_id, previous, objects, marks, bool(flags & 1), life, created)

    @property
    def seed(self) -> int:
        return int.from_bytes(self.encode()[-4:], "little")


class SegmentStore:
    """The folder of one partition. Methods raise OSError; nothing here decides what the partition contains."""

    def __init__(
        self, files: CartridgeFiles, cartridge_uuid: bytes, partition: int, limits: SegmentLimits, worm: bool
    ) -> None:
        self.files = files
        self.cartridge_uuid = cartridge_uuid
        self.partition = partition
        self.limits = limits
        self.worm = worm
        self._open: OrderedDict[int, Segment] = OrderedDict()
        self._looked_up_at = -SPACE_LOOKUP_BYTES
        self._low = False

    @staticmethod
    def segment_name(segment_id: int) -> str:
        return f"{segment_id:08d}.seg"

    @staticmethod
    def checkpoint_name(segment_id: int) -> str:
        return f"{segment_id:08d}.idx"

    def read_manifest(self) -> Manifest:
        """Raises CartridgeDamaged, OSError."""
        return Manifest.decode(self.files.read(MANIFEST, MANIFEST_BYTES_MAX))

    def write_manifest(self, manifest: Manifest) -> None:
        """Durable when it returns, and so is every name in the directory."""
        self.files.synchronize()
        self.files.replace(MANIFEST, manifest.encode(), spare=True)

    def create(
        self, segment_id: int, previous_id: int, first_object: int, first_filemark: int
    ) -> tuple[ManifestEntry, Segment]:
        """A new, empty segment and its entry."""
        header = SegmentHeader(
            self.cartridge_uuid,
            self.partition,
            segment_id,
            previous_id,
            first_object,
            first_filemark,
            self.worm,
            os.urandom(16),
            time.time_ns(),
        )
        name, limits = self.segment_name(segment_id), self.limits
        try:
            place = self.files.segment(name, new=True)
            segment = Segment.create(place, header.encode(), limits.segment_bytes, limits.segment_objects)
        except OSError:
            self._unlink(name)  # so that another try finds the name free
            raise
        return ManifestEntry(segment_id, header.seed, first_object, first_filemark, first_encrypted=NO_OBJECT), segment

    def read_header(self, segment_id: int) -> SegmentHeader | None:
        """None when there is no such segment or its header does not verify."""
        try:
            return SegmentHeader.decode(self.files.read_beginning(self.segment_name(segment_id), HEADER.size))
        except FileNotFoundError:
            return None

    def recover(self, entry: ManifestEntry, writable: bool) -> Segment:
        """A segment that may be unsealed, from its checkpoint and its log."""
        try:
            index = self.files.read(self.checkpoint_name(entry.segment_id), CHECKPOINT_BYTES_MAX)
        except (FileNotFoundError, CartridgeDamaged):  # the log says the same
            index = b""
        return Segment.recover(
            self.files.segment(self.segment_name(entry.segment_id)),
            entry.seed,
            self.limits.segment_bytes,
            self.limits.segment_objects,
            writable,
            index,
            entry.data_bytes,
            entry.objects,
            entry.filemarks,
            entry.epoch,
        )

    def open_sealed(self, entry: ManifestEntry) -> Segment:
        """A sealed segment for reading; the few used last stay open."""
        segment = self._open.get(entry.segment_id)
        if segment is None:
            segment = self._open_sealed(entry, writable=False)
            self._open[entry.segment_id] = segment
            if len(self._open) > OPEN_SEGMENTS:
                self._open.popitem(last=False)  # closed when its last user lets it go
        self._open.move_to_end(entry.segment_id)
        return segment

    def _open_sealed(self, entry: ManifestEntry, writable: bool) -> Segment:
        return Segment.open_sealed(
            self.files.segment(self.segment_name(entry.segment_id)),
            entry.seed,
            entry.data_bytes,
            entry.objects,
            entry.filemarks,
            entry.dead_entries,
            writable,
        )

    def shorten(self, entry: ManifestEntry, before: ManifestEntry) -> None:
        """Cut the file of a sealed segment to what its entry says, durably; `before` is the entry before the cut."""
        self.forget(entry.segment_id)
        segment = self._open_sealed(before, writable=True)
        try:
            finish_cut(entry, segment)
        finally:
            segment.close()

    def write_checkpoint(self, segment_id: int, content: bytes) -> None:
        self.files.replace(self.checkpoint_name(segment_id), content)

    def drop_checkpoint(self, segment_id: int) -> None:
        self._unlink(self.checkpoint_name(segment_id))

    def forget(self, segment_id: int) -> None:
        """Close the segment if it is open for reading."""
        segment = self._open.pop(segment_id, None)
        if segment is not None:
            segment.close()

    def delete(self, segment_ids: list[int]) -> None:
        """Delete segments and their checkpoints, durably."""
        for segment_id in segment_ids:
            self.forget(segment_id)
            self._unlink(self.segment_name(segment_id))
            self._unlink(self.checkpoint_name(segment_id))
        if segment_ids:
            self.files.synchronize()

    def remove(self) -> None:
        """Delete the manifest and the directory, which stays when somebody else has a file there."""
        for name in (MANIFEST, f".{MANIFEST}.new"):
            self._unlink(name)
        self.files.remove()

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.files.unlink(name)

    def require(self, segment_id: int) -> None:
        """Raises FileNotFoundError unless the segment has a name in the directory, OSError."""
        name = self.segment_name(segment_id)
        if not self.files.has(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.files.name}/{name}")

    def is_low(self, room_bytes: int) -> bool:
        """Whether the disk under the library is nearly full; looked up anew each time that some more was written, which
        the partition's room tells."""
        if abs(room_bytes - self._looked_up_at) >= SPACE_LOOKUP_BYTES:
            self._looked_up_at = room_bytes
            try:
                self._low = self.files.free_bytes() < self.limits.disk_low_bytes
            except OSError:  # a disk that does not even say how full it is deserves a warning
                self._low = True
        return self._low

    def stored_ids(self) -> list[int]:
        """The ids of all segment files and checkpoints in the directory, whoever they belong to. Other files are none
        of ours."""
        names = (NAME.fullmatch(name) for name in self.files.names())
        return sorted({int(name["id"]) for name in names if name})

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def finish_cut(entry: ManifestEntry, segment: Segment) -> None:
    """Cut a segment's file to what its entry says, durably. The entry's dead_entries and flags follow."""
    segment.shorten(entry.objects)
    segment.sync()
    entry.dead_entries = segment.dead_entries
    entry.flags &= ~EntryFlag.CUT
