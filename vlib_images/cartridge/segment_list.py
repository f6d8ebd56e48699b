"""The segments of a partition seen as one run of logical objects: which segment holds an object or a filemark."""

from bisect import bisect_right
from typing import Final

from datamover.engine import Segment
from vlib_images.cartridge.manifest import ManifestEntry
from vlib_images.cartridge.segments import SegmentStore

NO_ENTRY: Final = ManifestEntry(0, 0, 0, 0)


class SegmentList:
    """Segments in order; the last is the tail, still written, if `tail` is not None. Lookups are logarithmic.

    unsynced: sealed segments, by id, that no sync has covered yet; they are open and not in the manifest.
    """

    def __init__(self, store: SegmentStore) -> None:
        self.store = store
        self.entries: list[ManifestEntry] = []
        self.tail: Segment | None = None
        self.unsynced: dict[int, Segment] = {}
        self._current: Segment | None = None
        self._current_entry = NO_ENTRY

    def refresh(self) -> ManifestEntry:
        """Bring the tail's entry up to date, forget what was looked up; returns the last entry."""
        self._current = None
        if not self.entries:
            return NO_ENTRY
        entry, tail = self.entries[-1], self.tail
        if tail is not None:
            entry.objects, entry.filemarks = tail.objects, tail.filemarks
            entry.data_bytes, entry.used_bytes, entry.epoch = tail.end, tail.used_bytes, tail.epoch
        return entry

    def number_of(self, position: int) -> int:
        """Which segment holds an object; the position must be before the end."""
        return bisect_right(self.entries, position, key=lambda entry: entry.first_object) - 1

    def segment(self, number: int) -> Segment:
        """Raises OSError."""
        if self.tail is not None and number == len(self.entries) - 1:
            return self.tail
        entry = self.entries[number]
        return self.unsynced.get(entry.segment_id) or self.store.open_sealed(entry)

    def at(self, position: int) -> tuple[Segment, int]:
        """The segment that holds an object, and the object's number there. Raises OSError."""
        relative = position - self._current_entry.first_object
        if self._current is not None and 0 <= relative < self._current_entry.objects:
            return self._current, relative
        self.refresh()
        number = self.number_of(position)
        self._current, self._current_entry = self.segment(number), self.entries[number]
        return self._current, position - self._current_entry.first_object

    def filemarks_before(self, position: int) -> int:
        """How many filemarks come before an object or the end. Raises OSError, SegmentDamaged."""
        last = self.refresh()
        if position >= last.end:
            return last.first_filemark + last.filemarks
        number = self.number_of(position)
        entry = self.entries[number]
        if not entry.filemarks:
            return entry.first_filemark
        return entry.first_filemark + self.segment(number).filemarks_before(position - entry.first_object)

    def filemark(self, number: int) -> int:
        """The object that is the partition's n-th filemark, from 0; it must exist. Raises OSError, SegmentDamaged."""
        self.refresh()
        holder = bisect_right(self.entries, number, key=lambda entry: entry.first_filemark) - 1
        while not self.entries[holder].filemarks:  # those without filemarks share their successor's first number
            holder -= 1
        entry = self.entries[holder]
        return entry.first_object + self.segment(holder).filemark(number - entry.first_filemark)

    def filemark_run(self, number: int, wanted: int, *, backwards: bool) -> int | None:
        """From the n-th filemark on, the object that is the last of `wanted` filemarks in a row; None: there is no such
        run. Raises OSError, SegmentDamaged."""
        self.refresh()
        at = bisect_right(self.entries, number, key=lambda entry: entry.first_filemark) - 1
        last, length = 0, 0
        while 0 <= at < len(self.entries):
            entry = self.entries[at]
            if entry.filemarks:
                start = min(max(number - entry.first_filemark, 0), entry.filemarks - 1)
                base = entry.first_object
                last, length = self.segment(at).filemark_run(start, last - base, length, wanted, backwards)
                last += base
                if length == wanted:
                    return last
            at += -1 if backwards else 1
        return None
