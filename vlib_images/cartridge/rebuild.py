"""The manifest of a partition, put together again from the segments: every one says what it is in its header.

Segments are taken in the order of their ids, which is the order in which they were begun. One that begins before the
end of what was found so far had overwritten the rest: it cuts it off.
"""

from typing import Final

from datamover.engine import Segment
from vlib_images.cartridge.manifest import EntryFlag, Manifest, ManifestEntry
from vlib_images.cartridge.segments import SegmentHeader, SegmentStore

NO_SEGMENT: Final = 0
"""No file has this id."""


def rebuild_manifest(store: SegmentStore) -> tuple[Manifest, list[str]]:
    """What the manifest must have been, and what could not be used, in words. Changes nothing. Raises OSError."""
    entries: list[ManifestEntry] = []
    problems: list[str] = []
    last_id = 0
    if not store.files.exists():
        return Manifest(store.cartridge_uuid, store.partition, worm=store.worm), [f"{store.files.name} is missing"]
    for segment_id in filter(lambda number: store.files.has(store.segment_name(number)), store.stored_ids()):
        last_id = segment_id
        header = store.read_header(segment_id)
        if header is None or (header.cartridge_uuid, header.partition) != (store.cartridge_uuid, store.partition):
            problems.append(f"{store.files.name}/{store.segment_name(segment_id)}: no segment of this partition")
            continue
        _make_room(store, entries, header)
        entry = _entry(store, header)
        if entries and entries[-1].end < entry.first_object:
            problems.append(f"blocks {entries[-1].end} to {entry.first_object - 1} are in no segment")
            entries.append(_missing(entries[-1], entry))
        entries.append(entry)
    return Manifest(store.cartridge_uuid, store.partition, 0, last_id + 1, store.worm, entries), problems


def _entry(store: SegmentStore, header: SegmentHeader) -> ManifestEntry:
    """Every segment is taken as if it were sealed: where its tables are missing, reading rebuilds them from the log."""
    entry = ManifestEntry(header.segment_id, header.seed, header.first_object, header.first_filemark)
    segment = store.recover(entry, writable=False)
    entry.objects, entry.filemarks, entry.dead_entries = segment.objects, segment.filemarks, segment.dead_entries
    entry.data_bytes, entry.used_bytes = segment.end - 32 * segment.complete, segment.used_bytes
    segment.close()
    return entry


def _make_room(store: SegmentStore, entries: list[ManifestEntry], header: SegmentHeader) -> None:
    while entries and entries[-1].first_object >= header.first_object:
        entries.pop()
    if not entries or entries[-1].end <= header.first_object:
        return
    entry = entries[-1]
    segment: Segment = store.open_sealed(entry)
    relative = header.first_object - entry.first_object
    entry.data_bytes, entry.filemarks, entry.used_bytes = segment.cut_point(relative)
    entry.objects, entry.flags = relative, EntryFlag.CUT
    store.forget(entry.segment_id)


def _missing(before: ManifestEntry, after: ManifestEntry) -> ManifestEntry:
    """Stands for a segment that is gone, so that what follows keeps its numbers."""
    first_filemark = before.first_filemark + before.filemarks
    return ManifestEntry(
        NO_SEGMENT,
        0,
        before.end,
        first_filemark,
        objects=after.first_object - before.end,
        filemarks=after.first_filemark - first_filemark,
    )
