"""Spacing and locating within a partition: pure arithmetic on object numbers and filemark numbers.

Every function returns where the medium would come to rest and why, as SSC-5's SPACE and LOCATE tell it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


class Stop(Enum):
    """What ended a movement before its count was used up."""

    NONE = auto()
    FILEMARK = auto()
    END_OF_DATA = auto()
    BEGINNING_OF_PARTITION = auto()


@dataclass(frozen=True, slots=True)
class SpaceResult:
    """moved: blocks or filemarks spaced over, as asked (never negative). stopped_by: NONE when all were."""

    moved: int
    stopped_by: Stop = Stop.NONE


@dataclass(frozen=True, slots=True)
class Track:
    """What there is to move over. filemark(n): the object that is filemark n; before(p): filemarks before object p;
    run(n, wanted, backwards): the last of so many filemarks in a row from filemark n on, None when there are none."""

    end: int
    filemarks: int
    filemark: Callable[[int], int]
    before: Callable[[int], int]
    run: Callable[[int, int, bool], int | None]


def space_blocks(track: Track, position: int, count: int) -> tuple[int, SpaceResult]:
    """Over |count| blocks, backwards if negative. A filemark is crossed and ends it (SSC-5 SPACE, code 0)."""
    passed = track.before(position)
    if count >= 0:
        barrier = track.filemark(passed) if passed < track.filemarks else track.end
        if position + count <= barrier:
            return position + count, SpaceResult(count)
        if passed < track.filemarks:
            return barrier + 1, SpaceResult(barrier - position, Stop.FILEMARK)
        return track.end, SpaceResult(track.end - position, Stop.END_OF_DATA)
    barrier = track.filemark(passed - 1) if passed else -1
    if position + count > barrier:
        return position + count, SpaceResult(-count)
    moved = position - barrier - 1
    return (
        (barrier, SpaceResult(moved, Stop.FILEMARK)) if passed else (0, SpaceResult(moved, Stop.BEGINNING_OF_PARTITION))
    )


def space_filemarks(track: Track, position: int, count: int) -> tuple[int, SpaceResult]:
    """Over |count| filemarks, backwards if negative: to the far side of the last one in the direction of movement."""
    if count == 0:
        return position, SpaceResult(0)
    passed = track.before(position)
    if count > 0:
        if passed + count <= track.filemarks:
            return track.filemark(passed + count - 1) + 1, SpaceResult(count)
        return track.end, SpaceResult(track.filemarks - passed, Stop.END_OF_DATA)
    if passed + count >= 0:
        return track.filemark(passed + count), SpaceResult(-count)
    return 0, SpaceResult(passed, Stop.BEGINNING_OF_PARTITION)


def space_sequential_filemarks(track: Track, position: int, count: int) -> tuple[int, SpaceResult]:
    """To |count| filemarks in a row: behind them forwards, before them backwards (SSC-5 SPACE, code 2).

    moved is |count| when they were found, else 0.
    """
    if count == 0:
        return position, SpaceResult(0)
    backwards, wanted = count < 0, abs(count)
    number = track.before(position) - backwards
    last = track.run(number, wanted, backwards) if 0 <= number < track.filemarks else None
    if last is not None:
        return (last if backwards else last + 1), SpaceResult(wanted)
    if count > 0:
        return track.end, SpaceResult(0, Stop.END_OF_DATA)
    return 0, SpaceResult(0, Stop.BEGINNING_OF_PARTITION)


def locate_file(track: Track, file: int) -> tuple[int, SpaceResult]:
    """To the beginning of a file: file n begins behind filemark n - 1 (SSC-5 LOCATE, logical file identifier)."""
    if file == 0:
        return 0, SpaceResult(0)
    if file <= track.filemarks:
        return track.filemark(file - 1) + 1, SpaceResult(file)
    return track.end, SpaceResult(track.filemarks, Stop.END_OF_DATA)
