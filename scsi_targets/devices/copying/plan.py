"""From a well-formed EXTENDED COPY parameter list to the steps of a copy job: which logical units, which bytes, what
becomes of residue (SPC-5 5.17.7.2, 6.4.6). One step for each segment descriptor, so their numbers are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from datamover.copy_job import Action, Rest, Rests, Segment
from datamover.copy_progress import Side
from datamover.endpoints import DiskExtent, InlineBytes, TapeBlocks
from scsi_targets.devices.copying import limits
from scsi_targets.devices.copying.access import (
    Access,
    BlockUnit,
    CopyUnit,
    DiskAccess,
    StreamUnit,
    TapeAccess,
    find_unit,
)
from scsi_targets.devices.copying.parameters import Parameters, cscd_offset, invalid
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.copy_descriptors import IdentificationDescriptor, SegmentDescriptor
from scsi_targets.t10.fields import Bits
from scsi_targets.t10.sense import CheckCondition, SenseCode

Step: TypeAlias = "Segment | Action"
INLINE_ALIGNMENT = 4


@dataclass(slots=True)
class Cscd:
    """A copy source or destination: a logical unit, and how a CSCD descriptor says to use it.

    offset: of the descriptor in the parameter list, None for the logical unit that processes the command itself.
    block_length: a disk's; a tape's for fixed-block transfers, 0 for variable-block ones."""

    access: Access
    offset: int | None
    pad: bool
    block_length: int
    transfers: dict[int, TapeBlocks] = field(default_factory=dict)

    @property
    def counted_in(self) -> int:
        """Bytes in one unit of a residual count with this destination (SPC-5 5.17.7.4)."""
        return self.block_length or 1


@dataclass(slots=True)
class Ends:
    """The source and destination of one segment, as far as it has them."""

    source: Cscd | None = None
    destination: Cscd | None = None


class Planner:
    """Plans one parameter list for one task.

    units: the logical units that the initiator may copy between; own: the one that processes the command."""

    def __init__(self, parameters: Parameters, task: Task, units: Iterable[CopyUnit], own: CopyUnit) -> None:
        self.parameters = parameters
        self.ends: list[Ends] = []  # of each segment, for reporting failures
        self._task = task
        self._units = list(units)
        self._own = own
        self._cscds: dict[int, Cscd] = {}

    def steps(self) -> list[Step]:
        """The steps of the job. Raises CheckCondition: nothing has been copied."""
        steps: list[Step] = []
        for number, (offset, segment) in enumerate(self.parameters.segments):
            place = _Place(self, number, offset, segment)
            self.ends.append(place.ends)
            steps.append(_PLANS[type(segment)](place, segment))
        return steps

    @property
    def tapes(self) -> list[TapeAccess]:
        """The tape drives that take part, each once."""
        found = {id(cscd.access.unit): cscd.access for cscd in self._cscds.values()}
        return [access for access in found.values() if isinstance(access, TapeAccess)]

    def cscd(self, place: _Place, identifier: int, field_: Bits) -> Cscd:
        """What a CSCD descriptor ID in a segment descriptor stands for (SPC-5 table 148)."""
        if identifier not in self._cscds:
            self._cscds[identifier] = self._locate(place, identifier, field_)
        return self._cscds[identifier]

    def _locate(self, place: _Place, identifier: int, field_: Bits) -> Cscd:
        if identifier == copy.THIS_LOGICAL_UNIT:
            return self._use(self._own, IdentificationDescriptor(bytes(IdentificationDescriptor.length)), None)
        if identifier >= len(self.parameters.cscds):  # it names nothing that could be reached
            raise place.aborted(sense.UNREACHABLE_COPY_TARGET, (field_.byte, True, field_.msb))
        wanted, at = self.parameters.cscds[identifier], cscd_offset(identifier)
        unit = find_unit(self._units, self._task, wanted)
        if unit is None:
            raise place.aborted(sense.COPY_TARGET_NOT_REACHABLE, (at, False, -1))
        if unit.device_type != wanted.peripheral_device_type:
            raise place.aborted(sense.INCORRECT_COPY_TARGET_DEVICE_TYPE, (at, False, -1))
        return self._use(unit, wanted, at)

    def _use(self, unit: CopyUnit, wanted: IdentificationDescriptor, at: int | None) -> Cscd:
        if unit.device_type == vpd.SEQUENTIAL_ACCESS:
            tape = TapeAccess(cast(StreamUnit, unit), self._task, fixed=bool(wanted.fixed))
            return Cscd(tape, at, bool(wanted.pad), wanted.block_length)
        disk = cast(BlockUnit, unit)
        if wanted.block_length not in (0, disk.block_length):  # 0: as the disk says (SPC-5 6.4.5.3)
            raise invalid(at or 0, IdentificationDescriptor.block_length)
        return Cscd(DiskAccess(disk, self._task), at, bool(wanted.pad), disk.block_length)


class _Place:
    """One segment descriptor being planned: `number` counts from 0, `offset` is where it lies in the parameter list."""

    def __init__(self, planner: Planner, number: int, offset: int, segment: Any) -> None:
        self.planner = planner
        self.number = number
        self.offset = offset
        self.segment = segment
        self.ends = Ends()

    def aborted(self, code: SenseCode, pointer: tuple[int, bool, int]) -> CheckCondition:
        """COPY ABORTED with the segment's number and a segment pointer (SPC-5 5.17.7.4)."""
        code = code._replace(key=sense.COPY_ABORTED)
        return CheckCondition(code, command_specific=self.number, segment_pointer=pointer)

    # ---- ends ------------------------------------------------------------------------------------------------------

    def source(self, kind: type[Access]) -> Cscd:
        """The segment's source, which must be of that kind."""
        self.ends.source = self._end(kind, self.segment.source, type(self.segment).source)
        return self.ends.source

    def destination(self, kind: type[Access]) -> Cscd:
        """The segment's destination, which must be of that kind."""
        self.ends.destination = self._end(kind, self.segment.destination, type(self.segment).destination)
        return self.ends.destination

    def _end(self, kind: type[Access], identifier: int, field_: Bits) -> Cscd:
        cscd = self.planner.cscd(self, identifier, field_)
        if not isinstance(cscd.access, kind):
            code = sense.INVALID_OPERATION_FOR_COPY_SOURCE_OR_DESTINATION
            raise self.aborted(code, (field_.byte, True, field_.msb))
        return cscd

    def tape(self) -> TapeAccess:
        """The tape that the segment does something to."""
        return cast(TapeAccess, self.destination(TapeAccess).access)

    # ---- endpoints -------------------------------------------------------------------------------------------------

    def extent(self, disk: Cscd, address: int, length: int, field_: Bits) -> DiskExtent:
        """A disk from a logical block address on, for `length` bytes, whose whole blocks must be on its medium."""
        access = cast(DiskAccess, disk.access)
        if access.ready() and address + length // disk.block_length > access.unit.capacity:
            raise self.aborted(sense.NOTHING, (field_.byte, True, field_.msb))
        return DiskExtent(cast(DiskAccess, disk.access), address * disk.block_length, disk.block_length)

    def transfers(self, tape: Cscd, length: int, field_: Bits) -> TapeBlocks:
        """A tape in transfers of `length` bytes, or blocks where they are fixed (SPC-5 table 138)."""
        size = length * (tape.block_length or 1)
        if not 0 < size <= limits.MAXIMUM_STREAM_TRANSFER_BYTES:
            raise invalid(self.offset, field_)
        if size not in tape.transfers:
            tape.transfers[size] = TapeBlocks(cast(TapeAccess, tape.access), size, tape.block_length or None)
        return tape.transfers[size]


# What a segment without CAT does, by the PAD bits of its source and destination (SPC-5 table 116).
_RESTS = {
    (True, True): Rests(Rest.DISCARD, Rest.PAD),
    (False, True): Rests(Rest.KEEP, Rest.PAD),
    (True, False): Rests(Rest.DISCARD, Rest.DISCARD),
    (False, False): Rests(Rest.FAIL, Rest.FAIL),
}


def _rests(cat: int, source_pad: bool, destination_pad: bool) -> Rests:
    return Rests(Rest.KEEP, Rest.KEEP) if cat else _RESTS[source_pad, destination_pad]


def _block_to_stream(place: _Place, segment: copy.BlockToStream) -> Step:
    disk, tape = place.source(DiskAccess), place.destination(TapeAccess)
    length = segment.number_of_blocks * disk.block_length
    return Segment(
        place.extent(disk, segment.logical_block_address, length, copy.BlockToStream.logical_block_address),
        place.transfers(tape, segment.stream_device_transfer_length, copy.BlockToStream.stream_device_transfer_length),
        length,
        _rests(segment.cat, disk.pad, tape.pad),
    )


def _stream_to_block(place: _Place, segment: copy.StreamToBlock) -> Step:
    tape, disk = place.source(TapeAccess), place.destination(DiskAccess)
    length = segment.number_of_blocks * disk.block_length
    return Segment(
        place.transfers(tape, segment.stream_device_transfer_length, copy.StreamToBlock.stream_device_transfer_length),
        place.extent(disk, segment.logical_block_address, length, copy.StreamToBlock.logical_block_address),
        length,
        _rests(segment.cat, tape.pad, disk.pad),
        length_of_sink=True,
    )


def _block_to_block(place: _Place, segment: copy.BlockToBlock) -> Step:
    source, destination = place.source(DiskAccess), place.destination(DiskAccess)
    length = segment.number_of_blocks * (destination if segment.destination_count else source).block_length
    kind = copy.BlockToBlock
    return Segment(
        place.extent(source, segment.source_logical_block_address, length, kind.source_logical_block_address),
        place.extent(
            destination, segment.destination_logical_block_address, length, kind.destination_logical_block_address
        ),
        length,
        _rests(segment.cat, source.pad, destination.pad),
        length_of_sink=bool(segment.destination_count),
    )


def _stream_to_stream(place: _Place, segment: copy.StreamToStream) -> Step:
    source, destination = place.source(TapeAccess), place.destination(TapeAccess)
    kind = copy.StreamToStream
    return Segment(
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


def _inline_to_stream(place: _Place, segment: copy.InlineToStream) -> Step:
    tape = place.destination(TapeAccess)
    start, length = segment.inline_data_offset, segment.inline_data_number_of_bytes
    data = place.planner.parameters.inline_data
    if start % INLINE_ALIGNMENT:
        raise invalid(place.offset, copy.InlineToStream.inline_data_offset)
    if start + length > len(data):
        field_ = copy.InlineToStream.inline_data_number_of_bytes
        raise place.aborted(sense.INLINE_DATA_LENGTH_EXCEEDED, (field_.byte, True, field_.msb))
    return Segment(
        InlineBytes(data[start : start + length]),
        place.transfers(tape, segment.stream_device_transfer_length, copy.InlineToStream.stream_device_transfer_length),
        length,
        _rests(segment.cat, False, tape.pad)._replace(source=Rest.KEEP),
        source_residue_first=False,
    )


def _stream_to_discard(place: _Place, segment: copy.StreamToDiscard) -> Step:
    tape = place.source(TapeAccess)
    field_ = copy.StreamToDiscard.stream_device_transfer_length
    rests = _rests(segment.cat, tape.pad, False)
    return Segment(
        place.transfers(tape, segment.stream_device_transfer_length, field_), None, segment.number_of_bytes, rests
    )


def _verify(place: _Place, segment: copy.VerifyCscd) -> Step:
    access = place.source(Access).access
    run: Callable[[], None] = access.test_unit_ready if segment.test_unit_ready else (lambda: None)
    return Action(access, run, Side.SOURCE)


def _write_filemarks(place: _Place, segment: copy.WriteFilemarks) -> Step:
    tape = place.tape()
    return Action(tape, lambda: tape.write_filemarks(segment.filemark_count, immediate=bool(segment.immediate)))


def _space(place: _Place, segment: copy.SpaceTape) -> Step:
    tape = place.tape()
    return Action(tape, lambda: tape.space(segment.code, segment.count))


def _locate(place: _Place, segment: copy.LocateTape) -> Step:
    tape = place.tape()
    return Action(tape, lambda: tape.locate(segment.logical_object_identifier))


_PLANS: dict[type[SegmentDescriptor], Callable[[_Place, Any], Step]] = {
    copy.BlockToStream: _block_to_stream,
    copy.StreamToBlock: _stream_to_block,
    copy.BlockToBlock: _block_to_block,
    copy.StreamToStream: _stream_to_stream,
    copy.InlineToStream: _inline_to_stream,
    copy.StreamToDiscard: _stream_to_discard,
    copy.VerifyCscd: _verify,
    copy.WriteFilemarks: _write_filemarks,
    copy.SpaceTape: _space,
    copy.LocateTape: _locate,
}
