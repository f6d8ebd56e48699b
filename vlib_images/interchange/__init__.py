"""Tapes of other programs: import into a cartridge, export from one. Each says exactly what it cannot keep."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vlib_images.cartridge.cartridge import Cartridge, ReadKind
from vlib_images.cartridge.identity import LIMIT_PARTITIONS
from vlib_images.errors import DamagedBlock, EncryptionProblem
from vlib_images.interchange.awstape import read_awstape, write_awstape
from vlib_images.interchange.common import (
    BLOCK_BYTES_MAX,
    BadRecord,
    EndOfMedium,
    ForeignReader,
    ForeignWriter,
    InterchangeError,
    LeftOut,
    Notes,
    TapeObject,
)
from vlib_images.interchange.directory import read_directory, write_directory
from vlib_images.interchange.marks import Marks
from vlib_images.interchange.mhvtl import partition_files, read_mhvtl
from vlib_images.interchange.simh import read_simh, write_e11, write_simh
from vlib_images.interchange.tgt import read_tgt
from vlib_images.plain_files import is_folder

__all__ = [
    "FORMATS",
    "InterchangeError",
    "InterchangeFormat",
    "InterchangeReport",
    "export_tape",
    "import_tape",
    "partitions_in",
]


@dataclass(frozen=True, slots=True)
class InterchangeFormat:
    """One format. reader or writer None: it is not imported or exported. marks: it says which records were read with
    errors, and where the tape ends."""

    name: str
    description: str
    reader: ForeignReader | None
    writer: ForeignWriter | None
    marks: bool = False


FORMATS: Final[dict[str, InterchangeFormat]] = {
    row.name: row
    for row in (
        InterchangeFormat("simh", "SIMH magnetic tape file (.tap)", read_simh, write_simh, marks=True),
        InterchangeFormat("e11", "E11 magnetic tape file (.tap without padding)", read_simh, write_e11, marks=True),
        InterchangeFormat("awstape", "AWSTAPE file, as of Hercules", read_awstape, write_awstape),
        InterchangeFormat("mhvtl", "directory of an mhVTL cartridge", read_mhvtl, None),
        InterchangeFormat("tgt", "tape image of tgt", read_tgt, None),
        InterchangeFormat("directory", "directory with one file between filemarks", read_directory, write_directory),
    )
}
"""Every format, by name."""


@dataclass(slots=True)
class InterchangeReport:
    """What was copied. left_out: blocks of an export that could not be read, undecrypted: those of them that need a key
    (another key) than was given. incomplete: only what could be read of a source was imported. notes: what could not be
    kept, and which blocks were left out, in words."""

    blocks: int = 0
    filemarks: int = 0
    bytes_copied: int = 0
    left_out: int = 0
    undecrypted: int = 0
    incomplete: bool = False
    notes: list[str] = field(default_factory=list)

    def count(self, item: bytes | memoryview | None) -> None:
        if item is None:
            self.filemarks += 1
        else:
            self.blocks += 1
            self.bytes_copied += len(item)


InterchangeProgress = Callable[[InterchangeReport], None]


def import_tape(
    format_name: str,
    source: Path,
    cartridge: Cartridge,
    progress: InterchangeProgress | None = None,
    *,
    salvage: bool = False,
) -> InterchangeReport:
    """Write a tape of another program into an empty cartridge, durably.

    salvage: where the source cannot be read on, keep what was read before, and say so in the report. Otherwise that
    raises InterchangeError (what was read before it stays on the cartridge). OSError, and what writing raises.
    KeyError: no such format. ValueError: the format cannot be imported, or the cartridge has data.
    """
    reader = FORMATS[format_name].reader
    if reader is None:
        raise ValueError(f"{format_name} cannot be imported")
    if any(cartridge.end_of_data(number) for number in range(cartridge.partition_count)):
        raise ValueError(f"cartridge {cartridge.barcode} has data")
    report, notes = InterchangeReport(), Notes()
    marks = Marks(end_of_medium=not FORMATS[format_name].marks)
    for partition in range(cartridge.partition_count):
        cartridge.locate_block(partition, 0)
        try:
            for item in reader(source, partition, notes):
                _write(cartridge, item, marks, report)
                if progress is not None:
                    progress(report)
        except InterchangeError as error:
            if not salvage:
                raise
            report.incomplete = True
            notes.add(f"{error}; what comes after it in partition {partition} could not be read and is missing")
    if not report.incomplete and next(iter(reader(source, cartridge.partition_count, Notes())), b"") != b"":
        notes.add(f"only {cartridge.partition_count} partitions were imported; the source has more")
    cartridge.synchronize()
    _keep_marks(cartridge, marks, notes)
    report.notes = list(notes)
    return report


def _write(cartridge: Cartridge, item: TapeObject, marks: Marks, report: InterchangeReport) -> None:
    if isinstance(item, EndOfMedium):
        marks.end_of_medium = True
        return
    if isinstance(item, BadRecord):
        (marks.add_bad if item else marks.add_lost)(report.blocks + report.filemarks)
        if not item:
            return
    if item is None:
        cartridge.write_filemarks(1)
    else:
        cartridge.write_block(item)
    report.count(item)


def _keep_marks(cartridge: Cartridge, marks: Marks, notes: Notes) -> None:
    bad, lost = (sum(count for _, count in runs) for runs in (marks.bad, marks.lost))
    if bad:
        notes.add(
            f"blocks marked as read with errors, whose data is imported and whose marks are kept for export: {bad}"
        )
    if lost:
        notes.add(f"records of which no data was recovered; there is no block for them: {lost}")
    if marks.overflow:
        notes.add("more marks than are kept; an export has only the first of them")
    if bad or lost or not marks.end_of_medium:
        marks.write(cartridge)


def partitions_in(format_name: str, source: Path) -> int:
    """How many partitions a tape of another program has, 1 to 4; only mhVTL's has more than one."""
    if format_name != "mhvtl":
        return 1
    return max(1, sum(partition_files(source, number) is not None for number in range(LIMIT_PARTITIONS)))


def export_tape(
    format_name: str,
    cartridge: Cartridge,
    destination: Path,
    partition: int = 0,
    progress: InterchangeProgress | None = None,
) -> InterchangeReport:
    """Make a tape of another program from one partition; `destination` must not exist. Blocks come out as a drive would
    read them, so encrypted ones need the key to be set. What cannot be read is left out, and the notes say so.

    Raises OSError; there never is half a tape in `destination`. KeyError: no such format. ValueError: it cannot be
    exported. InvalidPartition.
    """
    writer = FORMATS[format_name].writer
    if writer is None:
        raise ValueError(f"{format_name} cannot be exported")
    report, notes = InterchangeReport(), Notes()
    cartridge.locate_block(partition, 0)
    notes.add("attributes in the medium auxiliary memory, capacity and barcode are not kept")
    if cartridge.partition_count > 1:
        notes.add(f"only partition {partition} of {cartridge.partition_count} is exported")
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination} exists already")
    left_out = LeftOut()
    marks = Marks.read(cartridge) if partition == 0 else Marks()
    unfinished = destination.with_name(f".{destination.name}.unfinished")
    _discard(unfinished)  # what a killed run left
    try:
        writer(unfinished, _objects(cartridge, report, left_out, marks, progress), notes)
        unfinished.rename(destination)
    finally:
        _discard(unfinished)
    report.left_out = sum(run.count for run in left_out.runs)
    report.notes = [*notes, *map(str, left_out.runs)]
    return report


def _discard(unfinished: Path) -> None:
    if is_folder(unfinished):
        shutil.rmtree(unfinished, ignore_errors=True)
    else:
        unfinished.unlink(missing_ok=True)


def _objects(
    cartridge: Cartridge,
    report: InterchangeReport,
    left_out: LeftOut,
    marks: Marks,
    progress: InterchangeProgress | None,
) -> Iterator[TapeObject]:
    into = memoryview(bytearray(BLOCK_BYTES_MAX + 1))
    while not cartridge.at_eod:
        number = cartridge.position[1]
        yield from (BadRecord() for _ in range(marks.lost_before(number)))
        try:
            result = cartridge.read_block(into)
        except DamagedBlock as error:
            left_out.add(error.partition, error.block, error.reason)
            continue
        except EncryptionProblem as error:
            left_out.add(error.partition, error.block, error.reason)
            report.undecrypted += 1
            cartridge.locate_block(error.partition, error.block + 1)
            continue
        item = into[: result.length] if result.kind is ReadKind.BLOCK else None
        report.count(item)
        if item is not None:
            left_out.end_run()
        yield BadRecord(item) if item is not None and marks.is_bad(number) else item
        if progress is not None:
            progress(report)
    yield from (BadRecord() for _ in range(marks.lost_before(cartridge.position[1])))
    if marks.end_of_medium:
        yield EndOfMedium()
