"""Checking a cartridge: every record of every partition, as reading would, without a key and without changing anything.

It needs no lock: it may run while the library serves the cartridge. What is written, cut or erased meanwhile is looked
at as it is when its turn comes.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datamover.engine import Segment
from vlib_images.cartridge.files import CartridgeFiles, files_of
from vlib_images.cartridge.identity import CartridgeIdentity
from vlib_images.cartridge.manifest import EntryFlag, ManifestEntry
from vlib_images.cartridge.segments import SegmentLimits, SegmentStore
from vlib_images.errors import storage_failure

STEP_OBJECTS: Final = 4096
"""Objects checked between two calls of progress()."""


@dataclass(frozen=True, slots=True)
class Damage:
    """count logical objects from first_block on cannot be read."""

    partition: int
    first_block: int
    count: int
    reason: str

    def __str__(self) -> str:
        blocks = f"block {self.first_block}" if self.count == 1 else f"blocks {self.first_block} to {self._last}"
        return f"partition {self.partition}, {blocks}: {self.reason}"

    @property
    def _last(self) -> int:
        return self.first_block + self.count - 1


@dataclass(slots=True)
class VerifyReport:
    """What was checked and what is damaged. Adjoining damages of one reason are one entry."""

    barcode: str
    objects: int = 0
    bytes_checked: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def damaged_objects(self) -> int:
        return sum(damage.count for damage in self.damages)

    def add(self, damage: Damage) -> None:
        """Note a damage."""
        last = self.damages[-1] if self.damages else None
        if last and (last.partition, last.first_block + last.count, last.reason) == (
            damage.partition,
            damage.first_block,
            damage.reason,
        ):
            self.damages[-1] = Damage(last.partition, last.first_block, last.count + damage.count, last.reason)
        else:
            self.damages.append(damage)

    def __str__(self) -> str:
        summary = f"{self.barcode}: {self.objects} blocks and filemarks, {self.bytes_checked} bytes checked"
        return f"{summary}, {self.damaged_objects} damaged" if self.damages else f"{summary}, all good"


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far: bytes of records checked, of so many in all (as known now)."""

    bytes_checked: int
    bytes_total: int


def verify(place: Path | CartridgeFiles, progress: Callable[[VerifyProgress], None] | None = None) -> VerifyReport:
    """Check a cartridge. Raises NotACartridge, CartridgeDamaged (what describes it does not verify), StorageError."""
    files = files_of(place)
    identity = CartridgeIdentity.read(files)
    report = VerifyReport(identity.barcode)
    stores = [
        SegmentStore(files.folder(f"p{number}"), identity.uuid_bytes, number, SegmentLimits(), identity.worm)
        for number in range(len(identity.partition_bytes))
    ]
    try:
        total = sum(entry.used_bytes for store in stores for entry in store.read_manifest().entries)
        for store in stores:
            for _ in _verify_partition(store, report):
                if progress is not None:
                    progress(VerifyProgress(report.bytes_checked, max(total, report.bytes_checked)))
        if progress is not None:
            progress(VerifyProgress(report.bytes_checked, report.bytes_checked))
    except OSError as error:
        raise storage_failure(error, f"verifying cartridge {identity.barcode}") from error
    finally:
        for store in stores:
            store.close()
    return report


def _verify_partition(store: SegmentStore, report: VerifyReport) -> Iterator[None]:
    """Segment by segment; the manifest is read again for each, since a drive may be writing."""
    position = 0
    while True:
        manifest = store.read_manifest()
        entry = next((entry for entry in manifest.entries if entry.first_object + entry.objects > position), None)
        head = manifest.entries[-1] if manifest.entries and manifest.entries[-1].flags & EntryFlag.HEAD else None
        entry = entry or (head if head and head.first_object >= position else None)
        if entry is None:
            return
        try:
            segment = store.recover(entry, writable=False) if entry.flags & EntryFlag.HEAD else store.open_sealed(entry)
        except OSError as error:
            if store.read_manifest().generation != manifest.generation:
                continue  # it was cut off a moment ago
            gone = isinstance(error, FileNotFoundError)
            reason = "the segment's file is missing" if gone else f"the segment's file: {error.strerror}"
            report.add(Damage(store.partition, entry.first_object, entry.objects, reason))
            report.objects += entry.objects
            position = entry.end
            if entry.flags & EntryFlag.HEAD:
                return
            continue
        checked = yield from _verify_segment(segment, entry, report, store)
        position = entry.first_object + checked
        store.forget(entry.segment_id)
        if entry.flags & EntryFlag.HEAD and checked == segment.objects:
            return


def _verify_segment(
    segment: Segment, entry: ManifestEntry, report: VerifyReport, store: SegmentStore
) -> Generator[None, None, int]:
    """Returns how many objects were looked at: all, unless the others were cut off meanwhile."""
    at = 0
    while at < segment.objects:
        wanted = min(STEP_OBJECTS, segment.objects - at)
        whole, length = segment.verify(at, wanted)
        at += whole
        report.objects += whole
        report.bytes_checked += length
        if whole < wanted:
            if not _listed(store, entry, at):
                break
            report.add(Damage(store.partition, entry.first_object + at, 1, "its checksum is wrong"))
            report.objects += 1
            at += 1
        yield
    return at


def _listed(store: SegmentStore, entry: ManifestEntry, at: int) -> bool:
    """Whether the tape still has that object of the segment: a cut shows in the manifest before it does in the file."""
    return any(
        now.segment_id == entry.segment_id and (at < now.objects or now.flags & EntryFlag.HEAD)
        for now in store.read_manifest().entries
    )
