"""How far a copy job is, and how its steps fared."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Side(Enum):
    """Which end of a segment failed."""

    SOURCE = "source"
    DESTINATION = "destination"
    NEITHER = "neither"


class InexactSegment(Exception):
    """A segment left residue that its rules do not allow."""


class CopyCancelled(Exception):
    """The job was told to stop; it stopped between two writes."""


class CopyFailed(Exception):
    """The job stopped in step `segment` (counted from 0). cause: the device's own error, or InexactSegment.

    written_bytes: what the destination has got of that segment; residual_bytes: what it should have got beside.
    """

    def __init__(self, segment: int, side: Side, cause: BaseException, tally: Tally) -> None:
        super().__init__(f"segment {segment}, {side.value}: {cause}")
        self.segment = segment
        self.side = side
        self.cause = cause
        self.written_bytes = tally.written_bytes
        self.residual_bytes = tally.planned_bytes - tally.written_bytes


@dataclass(slots=True)
class CopyProgress:
    """How far a job is; may be read while it runs.

    segments: begun so far. operations: writes and actions that are done. crc32c: of all that the
    segments so far took, in order."""

    segments: int = 0
    operations: int = 0
    bytes_written: int = 0
    crc32c: int = 0


@dataclass(slots=True)
class Tally:
    """One segment's account: the bytes its destination should get, and has got; the bytes it took from its source or
    from residue, and their CRC32C. Those of several segments that make a file combine to the file's (crc32c_combine).
    """

    planned_bytes: int = 0
    written_bytes: int = 0
    taken_bytes: int = 0
    crc32c: int = 0
