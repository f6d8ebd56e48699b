"""The copy manager of a disk or tape drive: EXTENDED COPY and RECEIVE COPY RESULTS (SPC-5 5.17, 6.3, 6.5, 6.21-6.25).

A copy runs on a thread that is not the connection's. The tape drives that take part are held for its whole length, as
one long command would hold them; disks go on serving others, and what the copy reads there is what is there then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import structlog

from datamover.copy_job import CopyJob
from datamover.copy_progress import CopyCancelled, CopyFailed, InexactSegment, Side, Tally
from scsi_targets.devices.copying import limits as copy_limits
from scsi_targets.devices.copying.access import READING, WRITING, Busy, CopyUnit
from scsi_targets.devices.copying.parameters import Parameters, parse
from scsi_targets.devices.copying.plan import Cscd, Planner
from scsi_targets.devices.copying.records import CopyRecord, CopyRecords
from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import CONFLICTS, PERSISTENT_ALLOWED, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.primary import PrimaryCommands, vpd_page
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition, ForwardedSense

log = structlog.get_logger(__name__)

# How long a copy waits for a tape drive that is busy before it fails. Two copies that hold each other's drive end so.
TAPE_PATIENCE_SECONDS = 30.0
# A copy of terabytes takes hours; this is what initiators are told to wait.
COPY_TIMEOUT_SECONDS = 24 * 3600

# The logical units that an initiator may copy between, by its nexus with the copy manager.
CopyUnits = Callable[[Nexus], Iterable[CopyUnit]]


class CopyManager(PrimaryCommands):
    """What disks and tape drives have in common as copy managers. `copy_units` is set by whoever makes the devices;
    until then a logical unit only knows itself."""

    third_party_copy: ClassVar[bool] = True
    segment_types: ClassVar[copy_limits.SegmentTypes] = copy.SegmentDescriptor.types
    tape_patience_seconds: ClassVar[float] = TAPE_PATIENCE_SECONDS
    # Whether a copy runs on the worker, which no other command gets past, and so holds this logical unit as it should.
    holds_itself: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.copy_units: CopyUnits = lambda nexus: [self]
        self._copies = CopyRecords()
        super().__init__(*args, **kwargs)

    def on_reset(self) -> None:
        super().on_reset()
        self._copies.clear()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        super().on_nexus_lost(nexus)
        self._copies.forget(nexus)

    # ---- EXTENDED COPY ---------------------------------------------------------------------------------------------

    def run_copy(self, cdb: copy.ExtendedCopyLid1, task: Task) -> Response:
        """The whole of EXTENDED COPY(LID1), to its end. Raises CheckCondition."""
        length = cdb.parameter_list_length
        if not length:
            return Response()
        field = copy.ExtendedCopyLid1.parameter_list_length
        parameter_list(task, min(length, copy.ParameterListHeader.length), field)
        parameters = parse(task.data()[:length], self.segment_types)
        if not parameters.remembered:
            return self._copy(parameters, task, CopyRecord())
        record = self._copies.begin(task.nexus, parameters.header.list_identifier)
        response = Response(status.TASK_ABORTED)
        try:
            response = self._copy(parameters, task, record)
        except CheckCondition as refusal:
            response = self._respond(task, refusal)
        finally:
            record.sense_data = response.sense
            record.status = response.status
        return response

    def _copy(self, parameters: Parameters, task: Task, record: CopyRecord) -> Response:
        planner = Planner(parameters, task, self.copy_units(task.nexus), self)
        steps = planner.steps()
        job = CopyJob(steps, progress=record.progress, cancelled=lambda: task.aborted or record.cancelled)
        try:
            with self._hold(planner):
                job.run()
        except CopyFailed as failed:
            raise self._report(failed, planner) from failed
        except CopyCancelled:
            log.info("copy stopped", written_bytes=record.progress.bytes_written)
            raise CheckCondition(sense.COPY_CLEARED_BY_DEVICE_SERVER) from None
        log.info("copy done", segments=len(steps), written_bytes=record.progress.bytes_written,
                 crc32c=f"{record.progress.crc32c:08x}")  # fmt: skip
        return Response(data_length=len(task.data()))

    @contextmanager
    def _hold(self, planner: Planner) -> Iterator[None]:
        """Holds the tape drives that take part, but for this one when it runs the copy on its worker."""
        own: CopyUnit = self
        with ExitStack() as held:
            for tape in sorted(planner.tapes, key=lambda tape: id(tape.unit)):
                if self.holds_itself and tape.unit is own:
                    continue
                if not tape.unit.occupy(self.tape_patience_seconds):
                    raise self._busy(planner, tape.unit)
                held.callback(tape.unit.vacate)
            yield

    @staticmethod
    def _busy(planner: Planner, unit: CopyUnit) -> CopyFailed:
        """The first segment that needs a drive that is busy is the one that failed."""
        for number, ends in enumerate(planner.ends):
            for side, cscd in ((Side.SOURCE, ends.source), (Side.DESTINATION, ends.destination)):
                if cscd is not None and cscd.access.unit is unit:
                    return CopyFailed(number, side, Busy("the tape drive is busy"), Tally())
        raise AssertionError("a tape that no segment uses")

    # ---- failures --------------------------------------------------------------------------------------------------

    def _report(self, failed: CopyFailed, planner: Planner) -> CheckCondition:
        """COPY ABORTED with what SPC-5 5.17.7.4 wants to be known."""
        ends = planner.ends[failed.segment]
        log.warning("copy failed", segment=failed.segment, side=failed.side.value, reason=str(failed.cause))
        information = None
        if failed.written_bytes and ends.destination is not None:
            information = failed.residual_bytes // ends.destination.counted_in
        if isinstance(failed.cause, InexactSegment):
            return CheckCondition(
                sense.UNEXPECTED_INEXACT_SEGMENT, information=information, command_specific=failed.segment
            )
        cscd = ends.source if failed.side is Side.SOURCE else ends.destination
        return self._third_party_failure(failed, cscd, information)

    @staticmethod
    def _third_party_failure(failed: CopyFailed, cscd: Cscd | None, information: int | None) -> CheckCondition:
        code = sense.THIRD_PARTY_DEVICE_FAILURE
        if cscd is None:  # inline data cannot fail, so this is a fault of ours
            return CheckCondition(sense.COPY_SEGMENT_FAILED, command_specific=failed.segment)
        by_destination = failed.side is Side.DESTINATION
        answer, data = cscd.access.answer_to(failed.cause, WRITING if by_destination else READING)
        return CheckCondition(
            code,
            information=information,
            command_specific=failed.segment,
            segment_pointer=(cscd.offset, False, -1) if cscd.offset is not None else None,
            forwarded=ForwardedSense(by_destination, answer, data),
        )

    # ---- COPY OPERATION ABORT and RECEIVE COPY RESULTS -------------------------------------------------------------

    @handles(copy.CopyOperationAbort, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def copy_operation_abort(self, cdb: copy.CopyOperationAbort, task: Task) -> None:
        field = copy.CopyOperationAbort.list_identifier
        record = self._copies.find(task.nexus, cdb.list_identifier, field)
        if record.status is not None:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        record.cancelled = True

    @handles(copy.ReceiveCopyStatusLid1, reservation=CONFLICTS, while_busy=True)
    def receive_copy_status_lid1(self, cdb: copy.ReceiveCopyStatusLid1, task: Task) -> Response:
        field = copy.ReceiveCopyStatusLid1.list_identifier
        record = self._copies.find(task.nexus, cdb.list_identifier, field)
        if record.status_reported:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        finished = record.status is not None
        response = reply(record.copy_status(), cdb.allocation_length)
        record.status_reported = finished  # a status that says "in progress" may be asked for again
        self._drop_if_told(task.nexus, cdb.list_identifier, record)
        return response

    @handles(copy.ReceiveCopyStatusLid4, reservation=CONFLICTS, while_busy=True)
    def receive_copy_status_lid4(self, cdb: copy.ReceiveCopyStatusLid4, task: Task) -> Response:
        record = self._copies.find(task.nexus, cdb.list_identifier, copy.ReceiveCopyStatusLid4.list_identifier)
        return reply(record.copy_status_lid4(), cdb.allocation_length)

    @handles(copy.ReceiveCopyFailureDetailsLid1, reservation=CONFLICTS, while_busy=True)
    def receive_copy_failure_details(self, cdb: copy.ReceiveCopyFailureDetailsLid1, task: Task) -> Response:
        field = copy.ReceiveCopyFailureDetailsLid1.list_identifier
        record = self._copies.find(task.nexus, cdb.list_identifier, field)
        if record.status is None or record.details_reported:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        details = record.failure_details()
        # Discarded when all of it was transferred, or when the initiator says by 0 that it does not want it.
        record.details_reported = cdb.allocation_length == 0 or cdb.allocation_length >= len(details)
        self._drop_if_told(task.nexus, cdb.list_identifier, record)
        return reply(details, cdb.allocation_length)

    @handles(copy.ReceiveCopyOperatingParameters, reservation=CONFLICTS, while_busy=True)
    def receive_copy_operating_parameters(self, cdb: copy.ReceiveCopyOperatingParameters, task: Task) -> Response:
        return reply(copy_limits.operating_parameters(self.segment_types), cdb.allocation_length)

    def _drop_if_told(self, nexus: Nexus, list_identifier: int, record: CopyRecord) -> None:
        if record.status_reported and (record.details_reported or not record.sense_data):
            self._copies.forget(nexus, list_identifier)

    @vpd_page(0x8F)
    def third_party_copy_page(self, task: Task) -> bytes:
        """Third-party Copy (SPC-5 7.8.17)."""
        return copy_limits.third_party_copy_page(self.rows, self.segment_types)


class DiskCopyManager(CopyManager):
    """A disk's: it goes on serving reads and writes while it copies. Copies between tapes are the drives' own work."""

    segment_types: ClassVar[copy_limits.SegmentTypes] = {
        code: kind for code, kind in copy.SegmentDescriptor.types.items() if kind is not copy.StreamToStream
    }

    @handles(copy.ExtendedCopyLid1, reservation=CONFLICTS, concurrent=True, timeout_seconds=COPY_TIMEOUT_SECONDS)
    def extended_copy(self, cdb: copy.ExtendedCopyLid1, task: Task) -> Response:
        return self.defer(task, lambda: self.run_copy(cdb, task))


class TapeCopyManager(CopyManager):
    """A tape drive's: a copy is one long command to it."""

    holds_itself = True

    @handles(copy.ExtendedCopyLid1, reservation=CONFLICTS, slow=True, timeout_seconds=COPY_TIMEOUT_SECONDS)
    def extended_copy(self, cdb: copy.ExtendedCopyLid1, task: Task) -> Response:
        return self.run_copy(cdb, task)
