"""Segment descriptors for a copy from one end to the other: in order, cut where an end or a command ends.

Both ends are runs of bytes: the extents of a disk or file, or a tape from its position on. Segments have CAT set, so a
tape block may be gathered from several; each command ends on a whole block, so the next begins with nothing left over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from scsi_targets.t10 import copy_descriptors as copy

MOST_SEGMENT_BYTES = 1 << 31  # NUMBER OF BYTES has 32 bits
SOURCE, DESTINATION = 0, 1  # CSCD descriptor IDs


class ByteRun(NamedTuple):
    """Bytes of a disk or file."""

    offset: int
    length: int


def overlap(first: Iterable[ByteRun], second: Iterable[ByteRun]) -> bool:
    """Whether any byte is in both."""
    reach = [0, 0]  # how far either has come
    runs = [(run.offset, run.length, side) for side, found in enumerate((first, second)) for run in found]
    for offset, length, side in sorted(runs):
        if offset < reach[1 - side]:
            return True
        reach[side] = max(reach[side], offset + length)
    return False


def beginning(runs: Iterable[ByteRun], length: int) -> Iterator[ByteRun]:
    """Their first `length` bytes."""
    for run in runs:
        if length > 0:
            yield run._replace(length=min(run.length, length))
        length -= run.length


def after(runs: Iterable[ByteRun], length: int) -> Iterator[ByteRun]:
    """What they have beside their first `length` bytes."""
    for run in runs:
        skipped = min(run.length, length)
        if skipped < run.length:
            yield ByteRun(run.offset + skipped, run.length - skipped)
        length -= skipped


@dataclass(frozen=True, slots=True)
class BlockSide:
    """A disk or file. sector: what its addresses count in, in bytes."""

    runs: tuple[ByteRun, ...]
    sector: int


@dataclass(frozen=True, slots=True)
class StreamSide:
    """A tape from its position on, in blocks of one length, in bytes; the last may be shorter."""

    block_length: int


class Piece(NamedTuple):
    """One segment. start: the first of its bytes in the whole copy."""

    start: int
    length: int
    descriptor: bytes


@dataclass(slots=True)
class CommandList:
    """The segments of one EXTENDED COPY."""

    pieces: list[Piece] = field(default_factory=list)

    @property
    def end(self) -> int:
        """How much of the whole copy is done when it is."""
        return self.pieces[-1].start + self.pieces[-1].length

    @property
    def segments(self) -> list[bytes]:
        """Their descriptors."""
        return [piece.descriptor for piece in self.pieces]


def command_lists(
    source: BlockSide | StreamSide,
    destination: BlockSide | StreamSide,
    total: int,
    *,
    most_segments: int,
    most_bytes: int,
) -> Iterator[CommandList]:
    """For `total` bytes: as many commands as it takes, of about so many segments and bytes each."""
    unit = _unit(source, destination)
    made, began = CommandList(), 0
    cut = _Cutter(source, destination)
    at = 0
    while at < total:
        whole = total - total % unit
        end, transfer = (whole, unit) if at < whole else (total, total - whole)
        full = len(made.pieces) >= most_segments or at - began >= most_bytes
        if full and at % unit == 0:
            yield made
            made, began, full = CommandList(), at, False
        room = unit - at % unit if full else MOST_SEGMENT_BYTES - at % unit
        piece = cut(at, min(end - at, room), transfer)
        made.pieces.append(piece)
        at += piece.length
    if made.pieces:
        yield made


def _unit(*sides: BlockSide | StreamSide) -> int:
    """What a command must not end within: a tape's block. One tape is copied to another block by block."""
    return next((side.block_length for side in sides if isinstance(side, StreamSide)), 1)


class _Cutter:
    """Makes segments, one after another. A piece ends where a run does."""

    def __init__(self, source: BlockSide | StreamSide, destination: BlockSide | StreamSide) -> None:
        self._make = _MAKERS[type(source), type(destination)]
        self._sides = [_Side(side) for side in (source, destination)]

    def __call__(self, at: int, length: int, transfer: int) -> Piece:
        """transfer: the length of the tape's blocks here."""
        length = min(length, *(side.left for side in self._sides))
        descriptor = self._make(length, transfer, *(side.take(length) for side in self._sides))
        return Piece(at, length, descriptor)


class _Side:
    """Where a side is: the address and the byte within its block."""

    def __init__(self, side: BlockSide | StreamSide) -> None:
        self._runs = list(side.runs) if isinstance(side, BlockSide) else []
        self._sector = side.sector if isinstance(side, BlockSide) else 0
        self._done = 0  # of the first run

    @property
    def left(self) -> int:
        """Until its run ends."""
        return self._runs[0].length - self._done if self._runs else MOST_SEGMENT_BYTES

    def take(self, length: int) -> tuple[int, int]:
        if not self._sector:
            return 0, 0
        place = divmod(self._runs[0].offset + self._done, self._sector)
        self._done += length
        if self._done == self._runs[0].length:
            del self._runs[0]
            self._done = 0
        return place


LogicalByte = tuple[int, int]  # a logical block address, and a byte in that block
ENDS = {"cat": 1, "source": SOURCE, "destination": DESTINATION}


def _to_stream(length: int, transfer: int, source: LogicalByte, _destination: LogicalByte) -> bytes:
    return copy.BlockWithOffsetToStream.encode(
        **ENDS, stream_device_transfer_length=transfer, number_of_bytes=length,
        logical_block_address=source[0], byte_offset=source[1],
    )  # fmt: skip


def _from_stream(length: int, transfer: int, _source: LogicalByte, destination: LogicalByte) -> bytes:
    return copy.StreamToBlockWithOffset.encode(
        **ENDS, stream_device_transfer_length=transfer, number_of_bytes=length,
        logical_block_address=destination[0], byte_offset=destination[1],
    )  # fmt: skip


def _between_blocks(length: int, _transfer: int, source: LogicalByte, destination: LogicalByte) -> bytes:
    return copy.BlockWithOffsetToBlockWithOffset.encode(
        **ENDS, number_of_bytes=length, source_logical_block_address=source[0], source_byte_offset=source[1],
        destination_logical_block_address=destination[0], destination_byte_offset=destination[1],
    )  # fmt: skip


def _between_streams(length: int, transfer: int, _source: LogicalByte, _destination: LogicalByte) -> bytes:
    return copy.StreamToStream.encode(
        **ENDS, source_stream_device_transfer_length=transfer, destination_stream_device_transfer_length=transfer,
        byte_count=length,
    )  # fmt: skip


_MAKERS: dict[tuple[type, type], Callable[[int, int, LogicalByte, LogicalByte], bytes]] = {
    (BlockSide, StreamSide): _to_stream,
    (StreamSide, BlockSide): _from_stream,
    (BlockSide, BlockSide): _between_blocks,
    (StreamSide, StreamSide): _between_streams,
}
