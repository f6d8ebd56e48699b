"""Where a partition is encrypted: its first encrypted block, and the first clear one behind that (SSC-5, Volume
Statistics log page).

Each segment's entry in the manifest knows its own first run of encrypted blocks; filemarks, which nobody encrypts, do
not end a run. Only encrypting keeps it up to date, so writing in clear costs nothing. What was recovered after a crash,
or written by a version that did not keep it, is looked up in the log when somebody asks.
"""

from bisect import bisect_left
from typing import Final, NamedTuple

from datamover.engine import Segment, SegmentDamaged
from vlib_images.cartridge.codec import Form
from vlib_images.cartridge.manifest import NO_OBJECT, ManifestEntry
from vlib_images.cartridge.segment_list import SegmentList

LOOKUP_OBJECTS: Final = 1 << 17
"""How many headers are looked at for one question, but always whole segments: about 0.2 s."""

KIND_BLOCK: Final = 1


class EncryptedBlocks(NamedTuple):
    """Object numbers in the partition. None: there is no such block."""

    first: int | None
    clear_behind: int | None


def note_encrypted(entry: ManifestEntry, tail: Segment, block: int) -> None:
    """Block `block` of the tail, its newest object, was written encrypted."""
    first, end = entry.first_encrypted, entry.encrypted_end
    if first is None:
        return
    if first == NO_OBJECT:
        entry.first_encrypted = block
    elif end != block and _filemarks_between(tail, end, block) != block - end:
        return
    entry.encrypted_end = block + 1


def _filemarks_between(segment: Segment, begin: int, end: int) -> int:
    return segment.filemarks_before(end) - segment.filemarks_before(begin)


def find_encrypted(segments: SegmentList) -> EncryptedBlocks | None:
    """None: it is not known, since part of the log cannot be read or is long and was not looked at yet; asking again
    goes on looking."""
    segments.refresh()
    try:
        return _find(segments)
    except OSError:  # reading that part will report it
        return None


def _find(segments: SegmentList) -> EncryptedBlocks | None:
    first, looked_at = None, 0
    for number, entry in enumerate(segments.entries):
        if entry.first_encrypted is None:
            if looked_at >= LOOKUP_OBJECTS:
                return None
            looked_at += entry.objects
            _look_up(entry, segments.segment(number))
        if first is None:
            if not entry.has_encrypted:
                continue
            assert entry.first_encrypted is not None
            first, clear = entry.first_object + entry.first_encrypted, None
        else:
            clear = _first_block(segments, number, 0, min(entry.first_encrypted or 0, entry.objects))
        if clear is None:
            clear = _first_block(segments, number, entry.encrypted_end, entry.objects)
        if clear is not None:
            return EncryptedBlocks(first, entry.first_object + clear)
    return EncryptedBlocks(first, None)


def _first_block(segments: SegmentList, number: int, begin: int, end: int) -> int | None:
    """The first object from `begin` on that is no filemark; None when there is none before `end`."""
    if begin < end and segments.entries[number].filemarks:
        segment = segments.segment(number)
        before = segment.filemarks_before(begin)
        following = range(segment.filemarks_before(end) - before)
        begin += bisect_left(following, True, key=lambda count: segment.filemark(before + count) != begin + count)
    return begin if begin < end else None


def _look_up(entry: ManifestEntry, segment: Segment) -> None:
    """From the log itself. What damage made unreadable is passed over as filemarks are."""
    entry.first_encrypted, entry.encrypted_end = NO_OBJECT, 0
    for number in range(entry.objects):
        try:
            kind, form, *_ = segment.describe(number)
        except SegmentDamaged:
            continue
        if kind != KIND_BLOCK:
            continue
        if form & Form.ENCRYPTED:
            if entry.first_encrypted == NO_OBJECT:
                entry.first_encrypted = number
            entry.encrypted_end = number + 1
        elif entry.first_encrypted != NO_OBJECT:
            return
