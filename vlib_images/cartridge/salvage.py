"""Saving what can be read of a damaged cartridge into a new one, and saying exactly what was lost.

Blocks are copied as they are stored, so encrypted ones need no key. A lost block is left out, and what follows moves
up; a filemark that is known to have been there is written again. The damaged cartridge is not changed.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Scratch
from vlib_images.cartridge.files import CartridgeFiles, files_of
from vlib_images.cartridge.identity import LIMIT_PARTITIONS, CartridgeIdentity
from vlib_images.cartridge.mam import MamStore
from vlib_images.cartridge.medium import MediumType
from vlib_images.cartridge.partition import TapePartition
from vlib_images.cartridge.rebuild import NO_SEGMENT, rebuild_manifest
from vlib_images.cartridge.recovery import open_partition, partition_from
from vlib_images.cartridge.segments import SegmentLimits, SegmentStore
from vlib_images.cartridge.storage import LOCK
from vlib_images.cartridge.verify import Damage, VerifyProgress
from vlib_images.errors import CartridgeDamaged, CartridgeInUse, DamagedBlock, NotACartridge, StorageError


@dataclass(slots=True)
class SalvageReport:
    """What was copied, what was lost (block numbers of the damaged cartridge), and what else was found, in words."""

    barcode: str
    blocks: int = 0
    filemarks: int = 0
    bytes_copied: int = 0
    lost: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lose(self, partition: int, block: int, reason: str, count: int = 1) -> None:
        """Note lost blocks."""
        last = self.lost[-1] if self.lost else None
        if last and (last.partition, last.first_block + last.count, last.reason) == (partition, block, reason):
            self.lost[-1] = Damage(partition, last.first_block, last.count + count, reason)
        else:
            self.lost.append(Damage(partition, block, count, reason))

    def __str__(self) -> str:
        lost = sum(damage.count for damage in self.lost)
        return f"{self.barcode}: {self.blocks} blocks and {self.filemarks} filemarks saved, {lost} lost"


def salvage(
    source: Path | CartridgeFiles,
    destination: Path | CartridgeFiles,
    *,
    barcode: str | None = None,
    medium: MediumType | None = None,
    progress: Callable[[VerifyProgress], None] | None = None,
) -> SalvageReport:
    """Copy what reads of the cartridge in `source` to a new one in `destination`, which must not exist or be empty.

    barcode and medium are needed only where cartridge.json is damaged. Raises NotACartridge, CartridgeInUse, NoSpace,
    StorageError, FileExistsError.
    """
    files = files_of(source)
    with _locked(files):
        identity, notes = _identity(files, barcode, medium)
        report = SalvageReport(identity.barcode, notes=notes)
        partitions = [_open(files, identity, number, report) for number in range(len(identity.partition_bytes))]
        target = Cartridge.create(
            destination,
            barcode=barcode or identity.barcode,
            medium=identity.medium_type,
            capacity_bytes=identity.capacity_bytes,
            worm=identity.worm,
            partitions=identity.partition_bytes,
            early_warning_bytes=identity.early_warning_bytes,
        )
        with target:
            _copy_attributes(files, target, report)
            total = sum(partition.used_bytes for partition in partitions)
            for partition in partitions:
                target.locate_block(partition.number, 0)
                for _ in _copy(partition, target, report):
                    if progress is not None:
                        progress(VerifyProgress(report.bytes_copied, max(total, report.bytes_copied)))
            if progress is not None:
                progress(VerifyProgress(report.bytes_copied, report.bytes_copied))
    return report


@contextmanager
def _locked(source: CartridgeFiles) -> Iterator[None]:
    """Nobody writes to the cartridge meanwhile. A cartridge without its lock file can be in nobody's use."""
    try:
        lock = source.lock(LOCK, shared=True)
    except FileNotFoundError:
        yield
        return
    except BlockingIOError as error:
        raise CartridgeInUse(f"{source.name} is in use: it is in a drive, or open in another program") from error
    with contextlib.closing(lock):
        yield


def _identity(
    source: CartridgeFiles, barcode: str | None, medium: MediumType | None
) -> tuple[CartridgeIdentity, list[str]]:
    try:
        return CartridgeIdentity.read(source), []
    except (CartridgeDamaged, NotACartridge) as error:
        if medium is None:
            raise
        return _guess_identity(source, barcode or Path(source.name).name, medium), [
            f"{error}; taken from the segments instead"
        ]


def _guess_identity(source: CartridgeFiles, barcode: str, medium: MediumType) -> CartridgeIdentity:
    """From the headers of the segments, which name their cartridge."""
    count = sum(source.folder(f"p{number}").exists() for number in range(LIMIT_PARTITIONS))
    for number in range(count):
        store = SegmentStore(source.folder(f"p{number}"), bytes(16), number, SegmentLimits(), worm=False)
        for segment_id in store.stored_ids():
            header = store.read_header(segment_id)
            if header is not None:
                capacity = medium.capacity_bytes
                return CartridgeIdentity(
                    uuid=header.cartridge_uuid.hex(),
                    barcode=barcode,
                    medium=medium.name,
                    capacity_bytes=capacity,
                    partition_bytes=(capacity // count,) * count,
                    early_warning_bytes=0,
                    worm=header.worm,
                    append_only=False,
                    write_protected=False,
                    created="",
                )
    raise NotACartridge(f"{source.name} holds no segment of a cartridge")


def _open(source: CartridgeFiles, identity: CartridgeIdentity, number: int, report: SalvageReport) -> TapePartition:
    store = SegmentStore(source.folder(f"p{number}"), identity.uuid_bytes, number, SegmentLimits(), identity.worm)
    capacity = identity.partition_bytes[number]
    try:
        return open_partition(store, capacity, writable=False)[0]
    except (CartridgeDamaged, FileNotFoundError) as error:
        report.notes.append(f"{error}; the list of segments was put together from the segments")
    except OSError as error:
        # The end of the log cannot be found: what the manifest is sure of is what there is.
        report.notes.append(f"partition {number}: {error.strerror}; blocks written last may be lost")
        return partition_from(store, store.read_manifest(), capacity)
    manifest, problems = rebuild_manifest(store)
    report.notes += problems
    return partition_from(store, manifest, capacity)


def _copy_attributes(source: CartridgeFiles, target: Cartridge, report: SalvageReport) -> None:
    attributes = MamStore.read_or_begin(source, target.partition_count)
    if attributes.damaged:
        report.notes.append("the attributes in the medium auxiliary memory are lost")
    for number in range(target.partition_count):
        target.mam.set(list(attributes.attributes(number)), number)


def _copy(partition: TapePartition, target: Cartridge, report: SalvageReport) -> Iterator[None]:
    scratch = Scratch()
    for entry in partition.segments.entries:
        if entry.segment_id == NO_SEGMENT:  # however many blocks the next one says were in it, there is nothing to try
            reason = f"{partition.store.files.name}/{partition.store.segment_name(NO_SEGMENT)} is missing"
            report.lose(partition.number, entry.first_object, reason, entry.objects)
            continue
        for position in range(entry.first_object, entry.end):
            yield from _copy_object(partition, position, scratch, target, report)


def _copy_object(
    partition: TapePartition, position: int, scratch: Scratch, target: Cartridge, report: SalvageReport
) -> Iterator[None]:
    try:
        if partition.header(position) is None:
            _write_filemark(target, report)
            return
        block = partition.read_stored(position, scratch)
    except (DamagedBlock, StorageError) as error:
        if _was_filemark(partition, position):
            _write_filemark(target, report)
        else:
            reason = error.reason if isinstance(error, DamagedBlock) else str(error)
            report.lose(partition.number, position, reason)
        return
    target.write_stored(block)
    report.blocks += 1
    report.bytes_copied += len(block.payload)
    yield


def _write_filemark(target: Cartridge, report: SalvageReport) -> None:
    target.write_filemarks(1)
    report.filemarks += 1


def _was_filemark(partition: TapePartition, position: int) -> bool:
    """Whether the index still knows that a damaged object is a filemark."""
    try:
        return partition.filemarks_before(position + 1) > partition.filemarks_before(position)
    except StorageError:
        return False
