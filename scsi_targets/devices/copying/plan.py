"""From a well-formed EXTENDED COPY parameter list to the steps of a copy job: which logical units, which bytes, what
becomes of residue (SPC-5 5.17.7.2, 6.4.6). One step for each segment descriptor, so their numbers are the same; what
each type does is in segments.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

from datamover.copy_job import Action, CopySegment, Rest
from datamover.copy_progress import CopyFailed, Side, Tally
from datamover.endpoints import DiskExtent, NullDevice, TapeBlocks
from scsi_targets.devices.copying import limits
from scsi_targets.devices.copying.access import Access, Copyable, Designator, DiskAccess, TapeAccess
from scsi_targets.devices.copying.refusals import invalid
from scsi_targets.devices.unit.reservations import Conflict
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.copy_descriptors import CscdDescriptor, SegmentDescriptor
from scsi_targets.t10.sense import CheckCondition, SenseCode

if TYPE_CHECKING:
    from scsi_targets.devices.copying.parameters import CopyParameters
    from scsi_targets.devices.unit.task import Task
    from scsi_targets.t10.fields import Bits

PlanStep: TypeAlias = "CopySegment | Action"
NULL_DISK_BLOCK_BYTES = 512  # where a null device's descriptor does not say
PlanFunction = TypeVar("PlanFunction", bound=Callable[[Any, Any], PlanStep])

PLANS: dict[int, Callable[[SegmentPlan, Any], PlanStep]] = {}  # by descriptor type code


def plans(kind: type[SegmentDescriptor]) -> Callable[[PlanFunction], PlanFunction]:
    """Registers the function that makes a segment descriptor of that type a step of the job."""

    def register(plan: PlanFunction) -> PlanFunction:
        PLANS[kind.type_code] = plan
        return plan

    return register


@dataclass(slots=True)
class Cscd:
    """A copy source or destination: a logical unit, and how a CSCD descriptor says to use it.

    access: None is the null device. offset: of the descriptor in the parameter list, None for the logical unit that
    processes the command itself. block_length: a disk's; a tape's for fixed-block transfers, 0 for variable-block
    ones."""

    access: Access | None
    device_type: int
    offset: int | None
    pad: bool
    block_length: int
    transfers: dict[int, TapeBlocks | NullDevice] = field(default_factory=dict)

    @property
    def counted_in(self) -> int:
        """Bytes in one unit of a residual count with this destination (SPC-5 5.17.7.4)."""
        return self.block_length or 1


@dataclass(slots=True)
class Ends:
    """The source and destination of one segment, as far as it has them."""

    source: Cscd | None = None
    destination: Cscd | None = None

    def of(self, side: Side) -> Cscd | None:
        """The one on that side."""
        return self.source if side is Side.SOURCE else self.destination

    @property
    def cleared(self) -> bool:
        """Whether the logical unit of one of them was reset, or its commands aborted."""
        accesses = [end.access for end in (self.source, self.destination) if end is not None]
        return any(access is not None and access.cleared is not None for access in accesses)


class Need(NamedTuple):
    """Something that a copy is certain to do to a unit, first in that segment."""

    segment: int
    side: Side
    access: Access
    writes: bool


class RemoteExtent(NamedTuple):
    """Logical blocks of a disk elsewhere that a segment names."""

    segment: int
    side: Side
    access: DiskAccess
    address: int
    blocks: int

    def check(self) -> None:
        """If it is known by now how many blocks the disk has, raises CopyFailed for others, or when it does not say."""
        try:
            if self.access.measured:
                self.access.check_range(self.address, self.blocks, writes=self.side is Side.DESTINATION)
        except Exception as refusal:
            raise CopyFailed(self.segment, self.side, refusal, Tally()) from refusal


class Planner:
    """Plans one parameter list for one task.

    units: what the initiator may copy between; own: the logical unit that processes the command."""

    def __init__(self, parameters: CopyParameters, task: Task, units: Iterable[Copyable], own: Copyable) -> None:
        self.parameters = parameters
        self.ends: list[Ends] = []  # of each segment, for reporting failures
        self.accesses: dict[int, Access] = {}  # by the unit's id(); one for each unit, so that a job knows it again
        self.carries = False  # a segment so far may have left residue
        self.unmeasured: list[RemoteExtent] = []  # extents of disks elsewhere
        self._needs: dict[tuple[int, bool], Need] = {}
        self._task = task
        self._units = units
        self._own = own
        self._cscds: dict[int, Cscd] = {}
        self._by_name: dict[Designator, Copyable] = {}

    def steps(self) -> list[PlanStep]:
        """The steps of the job. Raises CheckCondition or CopyFailed: nothing has been copied."""
        for unit in self._units:  # those that the session shows come first: nobody elsewhere takes their names
            for name in unit.designators(self._task):
                self._by_name.setdefault(name, unit)
        return [self._step(number, *place) for number, place in enumerate(self.parameters.segments)]

    def _step(self, number: int, offset: int, segment: SegmentDescriptor) -> PlanStep:
        place = SegmentPlan(self, number, offset, segment)
        self.ends.append(place.ends)
        step = PLANS[segment.type_code](place, segment)
        if isinstance(step, CopySegment):
            self._expect_transfers(place, step)
            self.carries = self.carries or step.rests.keeps
        return step

    def _expect_transfers(self, place: SegmentPlan, step: CopySegment) -> None:
        if step.length and step.source is not None and not self.carries:
            self.expect(place, Side.SOURCE, writes=False)
        if (
            step.sink is not None
            and step.length
            and (step.length >= step.sink.granularity or step.rests.sink is Rest.PAD)
        ):
            self.expect(place, Side.DESTINATION, writes=True)

    def expect(self, place: SegmentPlan, side: Side, *, writes: bool) -> None:
        """The segment will read or write that end, whatever comes before."""
        if (cscd := place.ends.of(side)) is not None and cscd.access is not None:
            need = Need(place.number, side, cscd.access, writes)
            self._needs.setdefault((id(cscd.access), writes), need)

    def check(self) -> None:
        """Raises CopyFailed for the first segment that would be refused as things are: before anything is copied. The
        units elsewhere are logged in to by it."""
        for segment, side, access, writes in self._needs.values():
            try:
                access.check(writes=writes)
            except Exception as refusal:
                raise CopyFailed(segment, side, refusal, Tally()) from refusal
        for extent in self.unmeasured:
            extent.check()

    def first_use(self, access: Access) -> tuple[int, Side]:
        """The first segment that uses a unit, and as what."""
        for number, ends in enumerate(self.ends):
            for side in (Side.SOURCE, Side.DESTINATION):
                if (cscd := ends.of(side)) is not None and cscd.access is access:
                    return number, side
        raise AssertionError("a unit that no segment uses")

    def cscd(self, place: SegmentPlan, identifier: int, field_: Bits) -> Cscd:
        """What a CSCD descriptor ID in a segment descriptor stands for (SPC-5 table 148)."""
        if identifier not in self._cscds:
            self._cscds[identifier] = self._locate(place, identifier, field_)
        return self._cscds[identifier]

    def _locate(self, place: SegmentPlan, identifier: int, field_: Bits) -> Cscd:
        if identifier == copy.THIS_LOGICAL_UNIT:
            return self._use(self._access(self._own), CscdDescriptor(bytes(CscdDescriptor.length)), None)
        if identifier >= len(self.parameters.cscds):  # it names nothing that could be reached
            raise place.aborted(sense.UNREACHABLE_COPY_TARGET, (field_.byte, True, field_.msb))
        at, wanted, name = self.parameters.cscds[identifier]
        if name is None:
            return _null_device(wanted, at)
        if (unit := self._by_name.get(name)) is None:
            raise place.aborted(sense.COPY_TARGET_NOT_REACHABLE, (at, False, -1))
        access = self._access(unit)
        if access.device_type != wanted.peripheral_device_type:
            raise place.aborted(sense.INCORRECT_COPY_TARGET_DEVICE_TYPE, (at, False, -1))
        return self._use(access, wanted, at)

    def _access(self, unit: Copyable) -> Access:
        if id(unit) not in self.accesses:
            self.accesses[id(unit)] = unit.copy_access(self._task)
        return self.accesses[id(unit)]

    @staticmethod
    def _use(access: Access, wanted: CscdDescriptor, at: int | None) -> Cscd:
        block_length = wanted.block_length
        if isinstance(access, DiskAccess):
            if block_length not in (0, access.block_length):  # 0: as the disk says (SPC-5 6.4.5.3)
                raise invalid(at or 0, CscdDescriptor.block_length)
            block_length = access.block_length
        return Cscd(access, access.device_type, at, bool(wanted.pad), block_length)


def _null_device(wanted: CscdDescriptor, at: int) -> Cscd:
    length = wanted.block_length
    if wanted.peripheral_device_type == vpd.DIRECT_ACCESS:
        length = length or NULL_DISK_BLOCK_BYTES
    return Cscd(None, wanted.peripheral_device_type, at, bool(wanted.pad), length)


def unreachable(cscd: Cscd, number: int) -> CheckCondition:
    """A command would have to be sent to what cannot be reached; the null device is such a one (SPC-3 6.3.6.1)."""
    pointer = (cscd.offset, False, -1) if cscd.offset is not None else None
    return CheckCondition(sense.COPY_TARGET_NOT_REACHABLE, command_specific=number, segment_pointer=pointer)


class RunsOffDisk(CopyFailed):
    """An extent between disks begins on its disk and does not end there. What initiators' own suites (libiscsi) take
    for the answer to that is COPY ABORTED without an additional sense code; the disk's sense is forwarded all the same.
    """


class SegmentPlan:
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

    def source(self, *device_types: int) -> Cscd:
        """The segment's source, which must be of one of those types."""
        self.ends.source = self._end(device_types, self.segment.source, type(self.segment).source)
        return self.ends.source

    def destination(self, *device_types: int) -> Cscd:
        """The segment's destination, which must be of one of those types."""
        self.ends.destination = self._end(device_types, self.segment.destination, type(self.segment).destination)
        return self.ends.destination

    def _end(self, device_types: tuple[int, ...], identifier: int, field_: Bits) -> Cscd:
        cscd = self.planner.cscd(self, identifier, field_)
        if cscd.device_type not in device_types:
            code = sense.INVALID_OPERATION_FOR_COPY_SOURCE_OR_DESTINATION
            raise self.aborted(code, (field_.byte, True, field_.msb))
        return cscd

    def wants_neither(self, device_type: int) -> bool:
        """Whether both ends are known and neither is of that type: then the segment type is not one for these devices
        at all, which is told apart from one wrong end."""
        kind = type(self.segment)
        ends = (self.segment.source, kind.source), (self.segment.destination, kind.destination)
        return all(
            self.planner.cscd(self, identifier, field_).device_type != device_type for identifier, field_ in ends
        )

    def access(self, cscd: Cscd) -> Access:
        """The logical unit of an end that a command must be sent to. Raises CheckCondition for the null device."""
        if cscd.access is None:
            raise unreachable(cscd, self.number)
        return cscd.access

    def tape(self, *, writes: bool = False) -> TapeAccess:
        """The tape that the segment does something to."""
        access = cast(TapeAccess, self.access(self.destination(vpd.SEQUENTIAL_ACCESS)))
        self.planner.expect(self, Side.DESTINATION, writes=writes)
        return access

    def embedded_data(self) -> memoryview:
        """What the descriptor carries beyond its head."""
        head = self.segment.length
        length = int.from_bytes(self.segment.raw[2:4], "big") + 4
        return self.planner.parameters.data[self.offset + head : self.offset + length]

    # ---- endpoints -------------------------------------------------------------------------------------------------

    def extent(self, side: Side, address: int, length: int) -> DiskExtent | NullDevice:
        """A disk from a logical block address on, for `length` bytes, whose blocks must be on its medium."""
        disk = self._disk(side)
        if disk.access is None:
            return NullDevice(disk.block_length)
        access = cast(DiskAccess, disk.access)
        self._check_range(side, disk, address, length)
        return DiskExtent(access, address * disk.block_length, disk.block_length)

    def bytes_of(self, side: Side, address: int, offset: int, length: int) -> DiskExtent | NullDevice:
        """A disk from a byte of a logical block on."""
        disk = self._disk(side)
        if disk.access is None:
            return NullDevice(1)
        access = cast(DiskAccess, disk.access)
        self._check_range(side, disk, address, offset + length)
        return DiskExtent(access, address * disk.block_length + offset)  # a byte is the least, so nothing is left over

    def _disk(self, side: Side) -> Cscd:
        disk = self.ends.of(side)
        assert disk is not None  # source() or destination() was called
        return disk

    def _check_range(self, side: Side, disk: Cscd, address: int, length: int) -> None:
        """The disk itself refuses what lies behind its end; a copy need not begin when that is certain to happen."""
        writes = side is Side.DESTINATION
        blocks = length // disk.block_length
        if not writes and not self.planner.carries:  # what an earlier segment left over need not be read
            blocks = -(-length // disk.block_length)
        access = cast(DiskAccess, disk.access)
        if not access.measured:
            self.planner.unmeasured.append(RemoteExtent(self.number, side, access, address, blocks))
            return
        try:
            access.check_range(address, blocks, writes=writes)
        except (CheckCondition, Conflict) as refusal:
            failed = CopyFailed
            if isinstance(self.segment, copy.BlockToBlock) and access.holds(address):
                failed = RunsOffDisk
            raise failed(self.number, side, refusal, Tally()) from refusal

    def transfers(self, tape: Cscd, length: int, field_: Bits) -> TapeBlocks | NullDevice:
        """A tape in transfers of `length` bytes, or blocks where they are fixed (SPC-5 table 138)."""
        size = length * (tape.block_length or 1)
        if not 0 < size <= limits.MAXIMUM_STREAM_TRANSFER_BYTES:
            raise invalid(self.offset, field_)
        if size not in tape.transfers:
            access = cast("TapeAccess | None", tape.access)
            tape.transfers[size] = (
                TapeBlocks(access, size, tape.block_length or None) if access is not None else NullDevice(size)
            )
        return tape.transfers[size]
