"""Back from tape to disk without a server: the content of a file, to where a target says that its bytes belong.

The tape is read from the block in which the content begins; what is before it there goes nowhere, and so does what
follows. Every byte's checksum is taken on the way and compared with the catalogue, so that a restore that is done is
known to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from appliance.backup.archive import COMMAND_BYTES, TAPE_BLOCK
from appliance.backup.catalogue import ArchivePart, Catalogue, File
from appliance.backup.entries import FileExtent, Kind
from appliance.backup.volume import MountedDrive
from appliance.failures import Failure, OperatorError
from datamover.engine import crc32c_combine
from scsi_targets.client.disk import Disk
from scsi_targets.t10 import copy_descriptors as copy

_MOST_SEGMENTS: Final = 4096
_MOST_BYTES: Final = 64 << 20  # of one segment
LIMIT_MAP_BYTES: Final = 64 << 20


class RestoreFailed(Exception):
    """What is on the disk now is not the file; str() says why."""


@dataclass(frozen=True, slots=True)
class RestoreTarget:
    """Where a file's bytes go. extents: in the order of the file; together they hold all of it that is stored.
    disk: its number among the units of the drive's view. block_length: of the disk, in bytes. clears: what of the
    extents is a hole of the file is made zeros first; else they are zeros already."""

    extents: Sequence[FileExtent]
    block_length: int
    disk: int = 0
    clears: bool = False


class _Piece(NamedTuple):
    """A run of stored content and where it goes, all in bytes."""

    stored_offset: int
    length: int
    disk_offset: int


def restore_file(
    catalogue: Catalogue, drive: MountedDrive, file: File, target: RestoreTarget, progress: Callable[[int, int], None]
) -> None:
    """Raises OperatorError (not a file, not all of it is on tape, the target does not hold it), RestoreFailed,
    CommandFailed, and what `progress` raises."""
    if file.kind is not Kind.FILE:
        raise OperatorError(Failure.REFUSED, f"{_shown(file)} is no plain file; take it from the tape with tar")
    parts = sorted(catalogue.parts_of(file.number), key=lambda part: part.part)
    _refuse_lost(catalogue, file, parts)
    regions = _regions_of(catalogue, drive, file, parts)
    pieces = list(_placed(file, regions, target.extents))
    if target.clears:
        _clear_holes(drive.writer().disks[target.disk], file, regions, target)
    found, stored = 0, 0
    for part in parts:
        length = part.content_bytes - part.map_bytes
        drive.mount(_barcode_of(catalogue, part.volume))
        drive.tape.locate((part.content_start + part.map_bytes) // TAPE_BLOCK)  # commands go on from there
        for segments, content in _commands(part, stored, length, pieces, target):
            writer = drive.writer()
            writer.manager.extended_copy([drive.tape.cscd(), writer.disks[target.disk].cscd()], segments)
            for (taken, checksum), is_content in zip(drive.checksums(), content, strict=True):
                if is_content:
                    found = crc32c_combine(found, checksum, taken)
                    stored += taken
            progress(stored, file.stored_bytes)
    if stored != file.stored_bytes:
        raise RestoreFailed(f"{stored} of the {file.stored_bytes} bytes of {_shown(file)} came from tape")
    if found != file.crc32c:
        raise RestoreFailed(f"{_shown(file)}: the CRC32C from tape is {found:08x}, not {file.crc32c:08x}")


def _clear_holes(disk: Disk, file: File, regions: Sequence[tuple[int, int]], target: RestoreTarget) -> None:
    """What is not stored of a file becomes zeros, up to the end of the block that the file ends in."""
    at = 0
    for start, length in [*regions, (file.size, 0)]:
        for extent in target.extents:
            first = max(at, extent.file_offset)
            last = min(start, extent.file_offset + extent.length)
            if first < last:
                _write_zeros(disk, extent.disk_offset + first - extent.file_offset, last - first, target.block_length)
        at = start + length


def _write_zeros(disk: Disk, offset: int, length: int, block_length: int) -> None:
    if offset % block_length:
        raise OperatorError(Failure.REFUSED, f"a hole begins at byte {offset}, within a block of {block_length}")
    disk.write_zeros(offset // block_length, -(-length // block_length))


def _refuse_lost(catalogue: Catalogue, file: File, parts: Sequence[ArchivePart]) -> None:
    lost = {volume.number: volume.barcode for volume in catalogue.volumes() if volume.lost}
    for part in parts:
        if part.volume in lost:
            message = f"{_shown(file)} was on cartridge {lost[part.volume]}, which another backup was written over"
            raise OperatorError(Failure.REFUSED, message)


def _barcode_of(catalogue: Catalogue, number: int) -> str:
    return next(volume.barcode for volume in catalogue.volumes() if volume.number == number)


def _regions_of(
    catalogue: Catalogue, drive: MountedDrive, file: File, parts: Sequence[ArchivePart]
) -> list[tuple[int, int]]:
    """(offset in the file, length) of what is stored of it: all, or what the map before its data says (GNU sparse 1.0).
    The map is no content, so it is read here."""
    map_bytes = sum(part.map_bytes for part in parts)
    if not map_bytes:
        return [(0, file.size)] if file.size else []
    if map_bytes > LIMIT_MAP_BYTES or parts[0].map_bytes != map_bytes:
        raise OperatorError(Failure.REFUSED, f"the map of {_shown(file)} is too large; take it from the tape with tar")
    drive.mount(_barcode_of(catalogue, parts[0].volume))
    first = parts[0].content_start
    drive.tape.locate(first // TAPE_BLOCK)
    text = bytearray()
    block = bytearray(TAPE_BLOCK)
    while len(text) < first % TAPE_BLOCK + map_bytes:
        text += block[: drive.tape.read_block(block)]
    numbers = [int(word) for word in bytes(text[first % TAPE_BLOCK :][:map_bytes]).rstrip(b"\0").split()]
    return [(offset, length) for offset, length in zip(numbers[1::2], numbers[2::2], strict=True) if length]


def _placed(file: File, regions: Sequence[tuple[int, int]], extents: Sequence[FileExtent]) -> Iterator[_Piece]:
    """What is stored, cut at the target's extents. Raises OperatorError when a part of it has no place there."""
    stored, at = 0, 0
    for offset, length in regions:
        end = offset + length
        while offset < end:
            while at < len(extents) and extents[at].file_offset + extents[at].length <= offset:
                at += 1
            if at == len(extents) or extents[at].file_offset > offset:
                raise OperatorError(Failure.REFUSED, f"byte {offset} of {_shown(file)} has no place on the disk")
            extent = extents[at]
            run = min(end, extent.file_offset + extent.length) - offset
            yield _Piece(stored, run, extent.disk_offset + offset - extent.file_offset)
            stored, offset = stored + run, offset + run


def _commands(
    part: ArchivePart, stored: int, length: int, pieces: Sequence[_Piece], target: RestoreTarget
) -> Iterator[tuple[list[bytes], list[bool]]]:
    """Segment descriptors of commands that each begin and end on a whole block of tape, and whether each is content."""
    segments: list[bytes] = []
    content: list[bool] = []
    gathered = 0
    for run, disk_offset in _runs(part, stored, length, pieces):
        left, at = run, disk_offset
        while left:
            full = gathered >= COMMAND_BYTES or len(segments) >= _MOST_SEGMENTS
            room = TAPE_BLOCK - gathered % TAPE_BLOCK if full else COMMAND_BYTES - gathered
            taken = min(left, room, _MOST_BYTES)
            segments.append(_segment(taken, at, target))
            content.append(at is not None)
            gathered, left, at = gathered + taken, left - taken, None if at is None else at + taken
            if gathered % TAPE_BLOCK == 0 and (gathered >= COMMAND_BYTES or len(segments) >= _MOST_SEGMENTS):
                yield segments, content
                segments, content, gathered = [], [], 0
    if segments:
        yield segments, content


def _runs(part: ArchivePart, stored: int, length: int, pieces: Sequence[_Piece]) -> Iterator[tuple[int, int | None]]:
    """(bytes, where on the disk they go) from the beginning of a tape block to the end of one; None: nowhere."""
    start = part.content_start + part.map_bytes
    if before := start % TAPE_BLOCK:
        yield before, None
    for piece in pieces:
        first, last = max(piece.stored_offset, stored), min(piece.stored_offset + piece.length, stored + length)
        if first < last:
            yield last - first, piece.disk_offset + first - piece.stored_offset
    if after := -(start + length) % TAPE_BLOCK:
        yield after, None


def _segment(length: int, disk_offset: int | None, target: RestoreTarget) -> bytes:
    if disk_offset is None:
        return copy.StreamToDiscard.encode(
            cat=1, source=0, stream_device_transfer_length=TAPE_BLOCK, number_of_bytes=length
        )
    return copy.StreamToBlockWithOffset.encode(
        cat=1, source=0, destination=1, stream_device_transfer_length=TAPE_BLOCK, number_of_bytes=length,
        logical_block_address=disk_offset // target.block_length, byte_offset=disk_offset % target.block_length,
    )  # fmt: skip


def _shown(file: File) -> str:
    return file.name.decode(errors="backslashreplace")
