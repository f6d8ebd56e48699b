"""Disks and tape drives as a copy manager uses them: every transfer is checked as a command of its own would be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

import structlog

from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import CONFLICTS, READS, REQUIRED, ReservationRule, Row, handles
from scsi_targets.devices.unit.reservations import Conflict
from scsi_targets.devices.unit.task import Nexus, Task
from scsi_targets.t10 import copy_descriptors, sense, ssc, vpd
from scsi_targets.t10.copy_descriptors import IdentificationDescriptor
from scsi_targets.t10.sense import CheckCondition, SenseCode
from vlib_images.cartridge.cartridge import Cartridge, ReadKind
from vlib_images.errors import DamagedBlock, EncryptionProblem

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from typing_extensions import Buffer

    from scsi_targets.devices.unit.readers_writer_lock import ReadersWriterLock
    from scsi_targets.devices.unit.target import Target
    from vlib_images.disk.raw import DiskImage


log = structlog.get_logger(__name__)


class Busy(Exception):
    """A tape drive did not become free for the copy in time: as if it had answered BUSY."""


class CopyUnit(Protocol):
    """What the copy manager asks of any logical unit."""

    device_type: ClassVar[int]
    targets: list[Target]
    nexuses: set[Nexus]

    @property
    def lock(self) -> AbstractContextManager[object]: ...
    def check_reservation(self, nexus: Nexus, rule: ReservationRule, /) -> None: ...
    def check_medium(self, row: Row, /) -> None: ...
    def check_writable(self, row: Row, /) -> None: ...
    def check_ready(self) -> None: ...
    def storage_failure(self, row: Row, error: Exception, /) -> CheckCondition | None: ...
    def device_identification(self, task: Task, /) -> bytes: ...
    def occupy(self, timeout_seconds: float, /) -> bool: ...
    def vacate(self) -> None: ...


class BlockUnit(CopyUnit, Protocol):
    """A disk."""

    block_length: int
    writeback_cache: bool
    gate: ReadersWriterLock
    accessible: bool

    @property
    def capacity(self) -> int: ...
    @property
    def medium(self) -> DiskImage: ...


class StreamUnit(CopyUnit, Protocol):
    """A tape drive."""

    @property
    def loaded(self) -> Cartridge: ...
    def write_blocks(self, data: Buffer, block_length: int, count: int, /) -> SenseCode | None: ...
    def prepare_transfer(self, nexus: Nexus, /, *, writing: bool) -> None: ...
    def read_failure(
        self, error: DamagedBlock | EncryptionProblem, information: int | None = None, /
    ) -> CheckCondition: ...
    def read_stopped(self, by: ReadKind | None, residual: int, /) -> CheckCondition: ...
    def write_filemarks_6(self, cdb: ssc.WriteFilemarks6, task: Task, /) -> None: ...
    def space_6(self, cdb: ssc.Space6, task: Task, /) -> None: ...
    def locate_10(self, cdb: ssc.Locate10, task: Task, /) -> None: ...


def _row(*, writes: bool) -> Row:
    """The legality of the reads or writes that a copy consists of."""

    @handles(copy_descriptors.ExtendedCopyLid1, medium=REQUIRED, writes=writes, reservation=CONFLICTS)
    def copy() -> None:
        """Never called: only its row is wanted."""

    row: Row = copy.__dict__["_rows"][0]
    return row


READING, WRITING = _row(writes=False), _row(writes=True)


def nexuses_at(unit: CopyUnit, nexus: Nexus) -> list[Nexus]:
    """The I_T nexuses through which the initiator behind `nexus` reaches another logical unit: the same one when the
    unit is in the same target, otherwise those of its sessions with the unit's targets, or what they would be. The
    copy manager may use any of them (SPC-5 5.17.7.4)."""
    if any(target.name == nexus.target_name for target in unit.targets):
        return [nexus]
    own = [other for other in unit.nexuses if other.initiator_name == nexus.initiator_name]
    return own or [Nexus(nexus.initiator_name, nexus.isid, target.name) for target in unit.targets] or [nexus]


class Access:
    """One logical unit on behalf of one initiator."""

    def __init__(self, unit: CopyUnit, task: Task) -> None:
        self.unit = unit
        self.task = task
        self._nexuses = nexuses_at(unit, task.nexus)

    def admit(self, row: Row, rule: ReservationRule) -> None:
        """Raises Conflict or CheckCondition, as the unit itself would answer."""
        with self.unit.lock:
            self._check_reservation(rule)
            self.unit.check_medium(row)
            if row.writes:
                self.unit.check_writable(row)

    def _check_reservation(self, rule: ReservationRule) -> None:
        for nexus in self._nexuses[:-1]:
            try:
                self.unit.check_reservation(nexus, rule)
            except Conflict:
                continue
            return
        self.unit.check_reservation(self._nexuses[-1], rule)

    def test_unit_ready(self) -> None:
        """Raises CheckCondition when the unit is not ready, Conflict when it is another's."""
        with self.unit.lock:
            self._check_reservation(READS)
            self.unit.check_ready()

    def answer_to(self, error: BaseException, row: Row) -> tuple[int, bytes]:
        """The status and sense data that the unit would have ended a command with."""
        if isinstance(error, Busy):
            return status.BUSY, b""
        if isinstance(error, Conflict):
            return status.RESERVATION_CONFLICT, b""
        if not isinstance(error, CheckCondition):
            found = self.unit.storage_failure(row, error) if isinstance(error, Exception) else None
            log.error("a copy failed inside the target", cdb=self.task.cdb.hex(), exc_info=None if found else error,
                      reason=str(error))  # fmt: skip
            error = found or CheckCondition(sense.INTERNAL_TARGET_FAILURE)
        return status.CHECK_CONDITION, error.sense.encode()


class DiskAccess(Access):
    """A disk as datamover.endpoints.Disk."""

    unit: BlockUnit

    def ready(self) -> bool:
        """Whether the medium can be accessed; why not is the copy's to find out when it needs it."""
        return self.unit.accessible

    def read_into(self, buffer: Buffer, offset: int, /) -> None:
        self.admit(READING, READS)
        self._check_range(buffer, offset)
        with self.unit.gate.shared:
            self.unit.medium.read_into(buffer, offset)

    def write(self, buffer: Buffer, offset: int, /) -> None:
        self.admit(WRITING, CONFLICTS)
        self._check_range(buffer, offset)
        with self.unit.gate.shared:
            self.unit.medium.write(buffer, offset, durable=not self.unit.writeback_cache)

    def _check_range(self, buffer: Buffer, offset: int) -> None:
        if offset + memoryview(buffer).nbytes > self.unit.capacity * self.unit.block_length:
            raise CheckCondition(sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)


class TapeAccess(Access):
    """A tape drive as datamover.endpoints.Tape. `fixed`: whether its transfers are fixed-block ones, whose residuals
    count blocks."""

    unit: StreamUnit

    def __init__(self, unit: StreamUnit, task: Task, *, fixed: bool) -> None:
        super().__init__(unit, task)
        self._fixed = fixed

    def read_blocks(self, into: Buffer, block_length: int, /) -> int:
        self.admit(READING, READS)
        self.unit.prepare_transfer(self._nexuses[0], writing=False)
        count = memoryview(into).nbytes // block_length
        try:
            result = self.unit.loaded.read_blocks(into, block_length, count)
        except (DamagedBlock, EncryptionProblem) as error:
            left = count - error.blocks_read if self._fixed else block_length
            failure = self.unit.read_failure(error, left)
            failure.transferred = error.blocks_read * block_length
            raise failure from error
        if result.blocks == count:
            return count * block_length
        left = count - result.blocks if self._fixed else block_length - result.length
        failure = self.unit.read_stopped(result.stopped_by, left)
        failure.transferred = result.blocks * block_length
        raise failure

    def write_blocks(self, data: Buffer, block_length: int, /) -> None:
        self.admit(WRITING, CONFLICTS)
        self.unit.prepare_transfer(self._nexuses[0], writing=True)
        count = memoryview(data).nbytes // block_length
        try:
            warning = self.unit.write_blocks(data, block_length, count)
        except CheckCondition as failure:
            raise self._write_failure(failure, count, block_length) from failure
        if warning is not None:  # everything was written, and the initiator must be told: the copy ends here
            raise CheckCondition(warning, information=0, end_of_medium=True, transferred=count * block_length)

    def _write_failure(self, failure: CheckCondition, count: int, block_length: int) -> CheckCondition:
        left = failure.sense.information
        if left is None:
            return failure
        failure.transferred = (count - left) * block_length
        if not self._fixed:
            failure.sense = failure.sense._replace(information=block_length)
        return failure

    def write_filemarks(self, count: int, *, immediate: bool) -> None:
        """WRITE FILEMARKS(6)."""
        self.admit(WRITING, CONFLICTS)
        raw = ssc.WriteFilemarks6.encode(immediate=immediate, filemark_count=count)
        self.unit.write_filemarks_6(ssc.WriteFilemarks6(raw), self.task)

    def space(self, code: int, count: int) -> None:
        """SPACE(6); `count` as its field has it."""
        self.admit(READING, READS)
        self.unit.space_6(ssc.Space6(ssc.Space6.encode(code=code, count=count)), self.task)

    def locate(self, identifier: int) -> None:
        """LOCATE(10) in the current partition."""
        self.admit(READING, READS)
        self.unit.locate_10(ssc.Locate10(ssc.Locate10.encode(logical_object_identifier=identifier)), self.task)


def find_unit(units: list[CopyUnit], task: Task, wanted: IdentificationDescriptor) -> CopyUnit | None:
    """The disk or tape drive whose Device Identification VPD page has the wanted designator of the logical unit."""
    name = wanted.code_set, wanted.designator_type, wanted.designator[: wanted.designator_length]
    kinds = vpd.DIRECT_ACCESS, vpd.SEQUENTIAL_ACCESS
    return next(
        (u for u in units if u.device_type in kinds and name in _designators(u.device_identification(task))), None
    )


def _designators(page: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(code set, type, designator) of each designation descriptor of the logical unit (SPC-5 7.8.6.1)."""
    at = 0
    while at + 4 <= len(page):
        end = at + 4 + page[at + 3]
        if not page[at + 1] >> 4 & 3:
            yield page[at] & 0x0F, page[at + 1] & 0x0F, page[at + 4 : end]
        at = end
