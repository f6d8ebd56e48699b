"""What each type of segment descriptor does (SPC-5 6.4.6): one function for each, registered by plans()."""

from __future__ import annotations

from collections.abc import Callable

from datamover.copy_job import Action, CopySegment, Rest, Rests
from datamover.copy_progress import Side
from datamover.endpoints import InlineBytes
from scsi_targets.devices.copying import limits
from scsi_targets.devices.copying.plan import PLANS, SegmentPlan, plans
from scsi_targets.devices.copying.refusals import invalid
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense, vpd

DISK, TAPE = vpd.DIRECT_ACCESS, vpd.SEQUENTIAL_ACCESS
INLINE_ALIGNMENT = 4

# What a segment without CAT does, by the PAD bits of its source and destination (SPC-5 table 116).
_RESTS = {
    (True, True): Rests(Rest.DISCARD, Rest.PAD),
    (False, True): Rests(Rest.KEEP, Rest.PAD),
    (True, False): Rests(Rest.DISCARD, Rest.DISCARD),
    (False, False): Rests(Rest.FAIL, Rest.FAIL),
}
# With CAT, whatever they say; and what came with the command is never left over.
_KEPT = Rests(Rest.KEEP, Rest.KEEP)
_RESTS_OF_DATA = {pad: Rests(Rest.KEEP, _RESTS[False, pad].sink) for pad in (False, True)}


def _rests(cat: int, source_pad: bool, destination_pad: bool) -> Rests:
    return _KEPT if cat else _RESTS[source_pad, destination_pad]


def _rests_of_data(cat: int, destination_pad: bool) -> Rests:
    return _KEPT if cat else _RESTS_OF_DATA[destination_pad]


@plans(copy.BlockToStream)
def block_to_stream(place: SegmentPlan, segment: copy.BlockToStream) -> CopySegment:
    disk, tape = place.source(DISK), place.destination(TAPE)
    length = segment.number_of_blocks * disk.block_length
    return CopySegment(
        place.extent(Side.SOURCE, segment.logical_block_address, length),
        place.transfers(tape, segment.stream_device_transfer_length, copy.BlockToStream.stream_device_transfer_length),
        length,
        _rests(segment.cat, disk.pad, tape.pad),
    )


@plans(copy.StreamToBlock)
def stream_to_block(place: SegmentPlan, segment: copy.StreamToBlock) -> CopySegment:
    tape, disk = place.source(TAPE), place.destination(DISK)
    length = segment.number_of_blocks * disk.block_length
    return CopySegment(
        place.transfers(tape, segment.stream_device_transfer_length, copy.StreamToBlock.stream_device_transfer_length),
        place.extent(Side.DESTINATION, segment.logical_block_address, length),
        length,
        _rests(segment.cat, tape.pad, disk.pad),
        length_of_sink=True,
    )


@plans(copy.BlockToBlock)
def block_to_block(place: SegmentPlan, segment: copy.BlockToBlock) -> CopySegment:
    source, destination = place.source(DISK), place.destination(DISK)
    length = segment.number_of_blocks * (destination if segment.destination_count else source).block_length
    return CopySegment(
        place.extent(Side.SOURCE, segment.source_logical_block_address, length),
        place.extent(Side.DESTINATION, segment.destination_logical_block_address, length),
        length,
        _rests(segment.cat, source.pad, destination.pad),
        length_of_sink=bool(segment.destination_count),
    )


@plans(copy.StreamToStream)
def stream_to_stream(place: SegmentPlan, segment: copy.StreamToStream) -> CopySegment:
    if place.wants_neither(TAPE):
        raise invalid(place.offset, None, sense.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE)
    source, destination = place.source(TAPE), place.destination(TAPE)
    kind = copy.StreamToStream
    return CopySegment(
        place.transfers(
            source, segment.source_stream_device_transfer_length, kind.source_stream_device_transfer_length
        ),
        place.transfers(
            destination,
            segment.destination_stream_device_transfer_length,
            kind.destination_stream_device_transfer_length,
        ),
        segment.byte_count,
        _rests(segment.cat, source.pad, destination.pad),
    )


@plans(copy.InlineToStream)
def inline_to_stream(place: SegmentPlan, segment: copy.InlineToStream) -> CopySegment:
    tape = place.destination(TAPE)
    start, length = segment.inline_data_offset, segment.inline_data_number_of_bytes
    data = place.planner.parameters.inline_data
    if start % INLINE_ALIGNMENT:
        raise invalid(place.offset, copy.InlineToStream.inline_data_offset)
    if start + length > len(data):
        field_ = copy.InlineToStream.inline_data_number_of_bytes
        raise place.aborted(sense.INLINE_DATA_LENGTH_EXCEEDED, (field_.byte, True, field_.msb))
    return CopySegment(
        InlineBytes(data[start : start + length]),
        place.transfers(tape, segment.stream_device_transfer_length, copy.InlineToStream.stream_device_transfer_length),
        length,
        _rests_of_data(segment.cat, tape.pad),
        source_residue_first=False,
    )


@plans(copy.EmbeddedToStream)
def embedded_to_stream(place: SegmentPlan, segment: copy.EmbeddedToStream) -> CopySegment:
    tape, length = place.destination(TAPE), segment.embedded_data_number_of_bytes
    data = place.embedded_data()
    if length > len(data):
        raise invalid(place.offset, copy.EmbeddedToStream.embedded_data_number_of_bytes)
    return CopySegment(
        InlineBytes(data[:length]),
        place.transfers(
            tape, segment.stream_device_transfer_length, copy.EmbeddedToStream.stream_device_transfer_length
        ),
        length,
        _rests_of_data(segment.cat, tape.pad),
        source_residue_first=False,
    )


@plans(copy.StreamToDiscard)
def stream_to_discard(place: SegmentPlan, segment: copy.StreamToDiscard) -> CopySegment:
    tape = place.source(TAPE)
    field_ = copy.StreamToDiscard.stream_device_transfer_length
    rests = _rests(segment.cat, tape.pad, False)
    return CopySegment(
        place.transfers(tape, segment.stream_device_transfer_length, field_), None, segment.number_of_bytes, rests
    )


@plans(copy.VerifyCscd)
def verify(place: SegmentPlan, segment: copy.VerifyCscd) -> Action:
    access = place.access(place.source(DISK, TAPE))
    run: Callable[[], None] = access.test_unit_ready if segment.test_unit_ready else (lambda: None)
    return Action(access, run, Side.SOURCE)


@plans(copy.BlockWithOffsetToStream)
def block_with_offset_to_stream(place: SegmentPlan, segment: copy.BlockWithOffsetToStream) -> CopySegment:
    disk, tape = place.source(DISK), place.destination(TAPE)
    kind, length = copy.BlockWithOffsetToStream, segment.number_of_bytes
    return CopySegment(
        place.bytes_of(Side.SOURCE, segment.logical_block_address, segment.byte_offset, length),
        place.transfers(tape, segment.stream_device_transfer_length, kind.stream_device_transfer_length),
        length,
        _rests(segment.cat, disk.pad, tape.pad),
    )


@plans(copy.StreamToBlockWithOffset)
def stream_to_block_with_offset(place: SegmentPlan, segment: copy.StreamToBlockWithOffset) -> CopySegment:
    tape, disk = place.source(TAPE), place.destination(DISK)
    kind, length = copy.StreamToBlockWithOffset, segment.number_of_bytes
    return CopySegment(
        place.transfers(tape, segment.stream_device_transfer_length, kind.stream_device_transfer_length),
        place.bytes_of(Side.DESTINATION, segment.logical_block_address, segment.byte_offset, length),
        length,
        _rests(segment.cat, tape.pad, disk.pad),
        length_of_sink=True,
    )


@plans(copy.BlockWithOffsetToBlockWithOffset)
def block_with_offset_to_block_with_offset(
    place: SegmentPlan, segment: copy.BlockWithOffsetToBlockWithOffset
) -> CopySegment:
    source, destination, length = place.source(DISK), place.destination(DISK), segment.number_of_bytes
    return CopySegment(
        place.bytes_of(Side.SOURCE, segment.source_logical_block_address, segment.source_byte_offset, length),
        place.bytes_of(
            Side.DESTINATION, segment.destination_logical_block_address, segment.destination_byte_offset, length
        ),
        length,
        _rests(segment.cat, source.pad, destination.pad),
    )


@plans(copy.WriteFilemarks)
def write_filemarks(place: SegmentPlan, segment: copy.WriteFilemarks) -> Action:
    tape = place.tape(writes=bool(segment.filemark_count))
    return Action(tape, lambda: tape.write_filemarks(segment.filemark_count, immediate=bool(segment.immediate)))


@plans(copy.SpaceTape)
def space(place: SegmentPlan, segment: copy.SpaceTape) -> Action:
    tape = place.tape()
    count = segment.count - (segment.count >> 23 << 24)  # two's complement, as in SPACE(6)
    return Action(tape, lambda: tape.space(segment.code, count))


@plans(copy.LocateTape)
def locate(place: SegmentPlan, segment: copy.LocateTape) -> Action:
    tape = place.tape()
    return Action(tape, lambda: tape.locate(segment.logical_object_identifier))


def implemented() -> limits.SegmentTypes:
    """The segment descriptors that are registered."""
    return {code: copy.SegmentDescriptor.types[code] for code in sorted(PLANS)}
