"""Opening a partition: what the manifest lists, what a crash left behind it, and making the two one again.

FORMAT.md, "Recovery", is the specification.
"""

import copy
from dataclasses import dataclass

from datamover.engine import Segment
from vlib_images.cartridge.identity import FILE
from vlib_images.cartridge.manifest import EntryFlag, Manifest, ManifestEntry
from vlib_images.cartridge.partition import TapePartition
from vlib_images.cartridge.segment_list import SegmentList
from vlib_images.cartridge.segments import SegmentStore, finish_cut
from vlib_images.errors import CartridgeDamaged


@dataclass(slots=True)
class RecoveryReport:
    """What opening a partition found. clean: it was closed properly and nothing had to be done.

    torn_bytes: bytes of unfinished writes, behind everything promised, that were cut off. damaged_blocks: objects that
    were promised and that damage makes unreadable. dropped_segments: files that belonged to no state of the partition.
    """

    partition: int
    clean: bool = True
    torn_bytes: int = 0
    damaged_blocks: int = 0
    dropped_segments: int = 0

    def __str__(self) -> str:
        if self.clean:
            return f"partition {self.partition}: clean"
        found = [
            f"{self.torn_bytes} bytes of unfinished writes cut off" if self.torn_bytes else "",
            f"{self.damaged_blocks} blocks damaged" if self.damaged_blocks else "",
            f"{self.dropped_segments} stray segments removed" if self.dropped_segments else "",
        ]
        told = ", ".join(filter(None, found)) or "nothing was unfinished"
        return f"partition {self.partition}: not closed properly; {told}"


def open_partition(store: SegmentStore, capacity_bytes: int, *, writable: bool) -> tuple[TapePartition, RecoveryReport]:
    """Raises CartridgeDamaged, OSError. Nothing on disk is changed unless writable."""
    return _Recovery(store, writable).run(capacity_bytes)


def partition_from(store: SegmentStore, manifest: Manifest, capacity_bytes: int) -> TapePartition:
    """A partition for reading only, by a manifest whose entries are all taken as sealed."""
    segments = SegmentList(store)
    segments.entries = manifest.entries
    return TapePartition(segments, manifest, manifest.next_segment_id, capacity_bytes, listed=True)


class _Recovery:
    def __init__(self, store: SegmentStore, writable: bool) -> None:
        self.store = store
        self.writable = writable
        self.manifest: Manifest = store.read_manifest()
        self.report = RecoveryReport(store.partition)
        self.segments = SegmentList(store)
        self.next_id = self.manifest.next_segment_id
        self.changed = False

    def run(self, capacity_bytes: int) -> tuple[TapePartition, RecoveryReport]:
        self._check_manifest()
        for entry in self.manifest.entries:
            self._add_listed(copy.copy(entry))
        while self._add_chained():
            pass
        if self.writable:
            self._clean_up()
        partition = TapePartition(self.segments, self.manifest, self.next_id, capacity_bytes, listed=not self.changed)
        if self.writable and (self.changed or not self.report.clean):
            partition.synchronize()
        return partition, self.report

    def _check_manifest(self) -> None:
        if self.manifest.cartridge_uuid != self.store.cartridge_uuid or self.manifest.partition != self.store.partition:
            raise CartridgeDamaged(f"the manifest of partition {self.store.partition} is another partition's")
        if self.manifest.worm != self.store.worm:
            raise CartridgeDamaged(f"partition {self.store.partition}: {FILE} does not agree whether this is WORM")

    def _add_listed(self, entry: ManifestEntry) -> None:
        self.segments.entries.append(entry)
        if entry.flags & EntryFlag.HEAD:
            entry.flags &= ~EntryFlag.HEAD
            promised, segment = entry.data_bytes, self._recover_listed(entry)
            if (segment.objects, segment.epoch) != (entry.objects, entry.epoch):
                entry.first_encrypted = None  # the manifest does not know of what was written or cut off since
            self._take(entry, segment)
            self.report.clean &= self.segments.tail is not None and self.segments.tail.end == promised
        elif entry.flags & EntryFlag.CUT and self.writable:
            self.store.shorten(entry, entry)
            self.changed = True

    def _recover_listed(self, entry: ManifestEntry) -> Segment:
        try:
            return self.store.recover(entry, self.writable)
        except FileNotFoundError as error:
            raise CartridgeDamaged(f"{error.filename} is missing; it holds {entry.objects} blocks or more") from error

    def _take(self, entry: ManifestEntry, segment: Segment) -> None:
        """A segment that was not known to be sealed."""
        self.report.torn_bytes += segment.cut_bytes
        self.report.damaged_blocks += segment.damaged
        if segment.damaged or segment.cut_bytes:
            self.report.clean = False
        self.segments.tail = segment
        self.segments.refresh()
        if not segment.complete:
            return
        # Sealed when the crash came: the tables behind the SEAL record may be torn, the log is not.
        entry.data_bytes -= 32
        entry.used_bytes -= 32
        entry.epoch = 0
        self.report.clean = False
        self.changed = True
        self.segments.unsynced[entry.segment_id] = segment
        self.segments.tail = None
        if self.writable:
            finish_cut(entry, segment)

    def _add_chained(self) -> bool:
        """The segment behind the last one, if it was begun before the crash and what comes before it is whole."""
        header = self.store.read_header(self.next_id) if self.segments.tail is None else None
        last = self.segments.refresh()
        previous = self.segments.entries[-1].segment_id if self.segments.entries else 0
        if (
            header is None
            or header.cartridge_uuid != self.store.cartridge_uuid
            or (header.partition, header.segment_id, header.previous_id)
            != (self.store.partition, self.next_id, previous)
            or (header.first_object, header.first_filemark) != (last.end, last.first_filemark + last.filemarks)
        ):
            return False
        entry = ManifestEntry(self.next_id, header.seed, header.first_object, header.first_filemark)
        self.segments.entries.append(entry)
        self.next_id += 1
        self.report.clean = False
        self.changed = True
        self._take(entry, self.store.recover(entry, self.writable))
        return True

    def _clean_up(self) -> None:
        """Files of interrupted cuts and of segments behind a torn one. Their ids are not used again."""
        known = {entry.segment_id for entry in self.segments.entries}
        strays = [segment_id for segment_id in self.store.stored_ids() if segment_id not in known]
        if strays:
            self.store.delete(strays)
            self.next_id = max(self.next_id, strays[-1] + 1)
            self.report.clean = False
            self.report.dropped_segments = len(strays)
            self.changed = True


def create_partition(store: SegmentStore) -> None:
    """The files of an empty partition, durable. What an interrupted FORMAT MEDIUM left there goes."""
    store.files.make()
    store.delete(store.stored_ids())
    store.write_manifest(Manifest(store.cartridge_uuid, store.partition, worm=store.worm))


def remove_partition(store: SegmentStore) -> bool:
    """The files of a partition that its cartridge has no more; False, and nothing is done, when it has blocks all the
    same: then cartridge.json may be what is wrong. Raises OSError."""
    try:
        if any(entry.objects for entry in store.read_manifest().entries):
            return False
    except FileNotFoundError:
        if store.stored_ids():
            return False
    except CartridgeDamaged:
        return False
    store.delete(store.stored_ids())
    store.remove()
    return True
