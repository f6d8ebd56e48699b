"""The copy manager of a disk or tape drive: EXTENDED COPY and RECEIVE COPY RESULTS (SPC-5 5.17, 6.3, 6.5, 6.21-6.25).

A copy runs on a thread of its own. To the logical units that take part it is one more initiator: a tape drive is the
copy's own from its turn to its end, and answers what needs no medium meanwhile; disks go on serving others, and what
the copy reads there is what is there then.
"""

from __future__ import annotations

from typing import Any, ClassVar

from scsi_targets.devices.copying import limits as copy_limits
from scsi_targets.devices.copying.access import Access, Copyable, Designator
from scsi_targets.devices.copying.local import designators_in
from scsi_targets.devices.copying.operation import Operation
from scsi_targets.devices.copying.parameters import parse
from scsi_targets.devices.copying.records import CopyRecord, CopyRecords
from scsi_targets.devices.copying.segments import implemented
from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import CONFLICTS, PERSISTENT_ALLOWED, handles
from scsi_targets.devices.unit.logical_unit import DEFERRED
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import vpd_page
from scsi_targets.devices.unit.primary import PrimaryCommands
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition

# A copy of terabytes takes hours; this is what initiators are told to wait.
COPY_TIMEOUT_SECONDS = 24 * 3600


class CopyManager(PrimaryCommands):
    """What disks and tape drives have in common as copy managers, and as copy sources and destinations."""

    third_party_copy: ClassVar[bool] = True
    segment_types: ClassVar[copy_limits.SegmentTypes] = implemented()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._copies = CopyRecords()
        super().__init__(*args, **kwargs)

    def on_reset(self) -> None:
        super().on_reset()
        self._copies.clear()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        super().on_nexus_lost(nexus)
        self._copies.forget(nexus)

    # ---- as a source or destination --------------------------------------------------------------------------------

    def designators(self, task: Task) -> list[Designator]:
        """As access.Copyable has it."""
        return list(designators_in(self.device_identification(task)))

    def copy_access(self, task: Task) -> Access:
        """As access.Copyable has it; each kind of device has its own."""
        raise NotImplementedError

    def _reachable(self, task: Task) -> list[Copyable]:
        """What an initiator may copy between: the logical units that its session shows it, and no others. What it could
        see by another login it has not proved here."""
        units = task.view.units() if task.view is not None else [self]
        return [unit for unit in units if isinstance(unit, Copyable)]

    # ---- EXTENDED COPY ---------------------------------------------------------------------------------------------

    @handles(
        copy.ExtendedCopyLid1, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS, concurrent=True,
        while_busy=True,
        timeout_seconds=COPY_TIMEOUT_SECONDS,
    )  # fmt: skip
    def extended_copy(self, cdb: copy.ExtendedCopyLid1, task: Task) -> Response:
        length = cdb.parameter_list_length
        if not length:
            return Response()
        field = copy.ExtendedCopyLid1.parameter_list_length
        parameter_list(task, min(length, copy.ParameterListHeader.length), field)
        parameters = parse(task.data()[:length], self.segment_types)
        identifier = parameters.header.list_identifier if parameters.remembered else None
        record = self._copies.begin(task.nexus, identifier)
        try:
            operation = Operation(parameters, task, self._reachable(task), self, record)
        except CheckCondition as refusal:
            return record.end(self._respond(task, refusal))
        except BaseException:
            self._copies.drop(record)
            raise
        operation.begin()
        response = self.defer(task, lambda: self._run(operation, record, task))
        if response is not DEFERRED:  # there are too many
            operation.end()
            self._copies.drop(record)
        return response

    def _run(self, operation: Operation, record: CopyRecord, task: Task) -> Response:
        response = Response(status.TASK_ABORTED)
        try:
            operation.run()
            response = Response(data_length=len(task.data()))
        except CheckCondition as refusal:
            response = self._respond(task, refusal)
        finally:
            operation.end()
            record.end(response)
        return response

    # ---- COPY OPERATION ABORT and RECEIVE COPY RESULTS -------------------------------------------------------------

    @handles(
        copy.CopyOperationAbort, permission=Permission.WRITE_PARAMETERS, reservation=PERSISTENT_ALLOWED, while_busy=True
    )
    def copy_operation_abort(self, cdb: copy.CopyOperationAbort, task: Task) -> None:
        field = copy.CopyOperationAbort.list_identifier
        record = self._copies.find(task.nexus, cdb.list_identifier, field)
        if record.status is not None:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        record.cancel()

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
