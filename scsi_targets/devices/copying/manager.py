"""The copy manager of a disk or tape drive: EXTENDED COPY and RECEIVE COPY RESULTS (SPC-5 5.17, 6.3, 6.5, 6.21-6.25).

A copy runs on a thread of its own. To the logical units that take part it is one more initiator: a tape drive is the
copy's own from its turn to its end, and answers what needs no medium meanwhile; disks go on serving others, and what
the copy reads there is what is there then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from scsi_targets.devices.copying import limits as copy_limits
from scsi_targets.devices.copying.access import Copyable
from scsi_targets.devices.copying.operation import Operation
from scsi_targets.devices.copying.parameters import CopyParameters, parse
from scsi_targets.devices.copying.records import CopyRecord, CopyRecords
from scsi_targets.devices.copying.segments import implemented
from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import CONFLICTS, PERSISTENT_ALLOWED, RowTable, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import Part, vpd_page
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import DEFERRED, Deferred, Nexus, Response, Task
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from scsi_targets.t10.fields import Command
from scsi_targets.t10.sense import CheckCondition

# A copy of terabytes takes hours; this is what initiators are told to wait.
COPY_TIMEOUT_SECONDS = 24 * 3600
# What the parameter list of each EXTENDED COPY command begins with.
LIST_HEADERS: dict[type[Command], type[copy.AnyListHeader]] = {
    copy.ExtendedCopyLid1: copy.ParameterListHeader,
    copy.ExtendedCopyLid4: copy.ParameterListHeaderLid4,
}


class CopyDevice(Copyable, Protocol):
    """What a copy manager needs of the logical unit that it is a part of, which is a source and destination, too."""

    @property
    def descriptor_sense(self) -> bool: ...
    @property
    def rows(self) -> RowTable: ...
    def defer(self, task: Task, work: Callable[[], Response | None], /) -> Response | Deferred: ...


class CopyWatcher(Protocol):
    """Who is told of the copies of a logical unit; must neither block nor raise."""

    def began(self, record: CopyRecord, /) -> None:
        """A copy has its place in the queues."""

    def ended(self, record: CopyRecord, /) -> None:
        """It is over, however that came."""


class Nobody:
    """A CopyWatcher."""

    def began(self, record: CopyRecord, /) -> None: ...
    def ended(self, record: CopyRecord, /) -> None: ...


class CopyManager(Part):
    """The part that makes a logical unit a copy manager."""

    def __init__(self, device: CopyDevice) -> None:
        self._device = device
        self._types = implemented()
        self._copies = CopyRecords()
        self.watcher: CopyWatcher = Nobody()

    def record(self, nexus: Nexus, list_identifier: int) -> CopyRecord | None:
        """A copy that is remembered: how far it is, how it ended, and its segments' checksums."""
        return self._copies.get(nexus, list_identifier)

    def recent(self) -> list[CopyRecord]:
        """The copies that run and the last that have ended, of all initiators, in the order of their arrival."""
        return self._copies.recent()

    def remember(self, record: CopyRecord) -> None:
        """One of before that the operator shall see among the recent ones."""
        self._copies.remember(record)

    def inquiry_fields(self) -> dict[str, Any]:
        return {"third_party_copy": 1}

    def on_reset(self) -> None:
        self._copies.clear()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._copies.forget(nexus)

    def _reachable(self, task: Task) -> list[Copyable]:
        """What an initiator may copy between: the logical units that its session shows it, and no others. What it could
        see by another login it has not proved here."""
        units: Iterable[object] = [self._device]
        if task.view is not None:
            units = [*task.view.units(), *task.view.remote_units]
        return [unit for unit in units if isinstance(unit, Copyable)]

    # ---- EXTENDED COPY ---------------------------------------------------------------------------------------------

    @handles(
        copy.ExtendedCopyLid4, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS, concurrent=True,
        while_busy=True,
        timeout_seconds=COPY_TIMEOUT_SECONDS,
    )  # fmt: skip
    @handles(
        copy.ExtendedCopyLid1, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS, concurrent=True,
        while_busy=True,
        timeout_seconds=COPY_TIMEOUT_SECONDS,
    )  # fmt: skip
    def extended_copy(self, cdb: copy.ExtendedCopyLid1 | copy.ExtendedCopyLid4, task: Task) -> Response | Deferred:
        length, form = cdb.parameter_list_length, LIST_HEADERS[type(cdb)]
        if not length:
            return Response()
        parameter_list(task, min(length, form.length), type(cdb).parameter_list_length)
        parameters = parse(task.data()[:length], self._types, form)
        identifier = parameters.header.list_identifier if parameters.remembered else None
        record = self._copies.begin(task.nexus, identifier, cdb.service_action or 0)
        record.pace.bytes_per_second = task.view.copy_bytes_per_second if task.view is not None else 0
        try:
            operation = Operation(parameters, task, self._reachable(task), self._device, record)
        except CheckCondition as refusal:
            return record.end(self._refused(refusal, record))
        except BaseException:
            self._copies.drop(record)
            raise
        operation.begin()
        success = Response(sense=self._sense_with_good(parameters), data_length=len(task.data()))
        response = self._device.defer(task, lambda: self._run(operation, record, success))
        if response is not DEFERRED:  # there are too many
            operation.end()
            self._copies.drop(record)
        return response

    def _sense_with_good(self, parameters: CopyParameters) -> bytes:
        """What goes with GOOD status when the list asks for it by G_SENSE (SPC-5 6.4.2)."""
        header = parameters.header
        if not (isinstance(header, copy.ParameterListHeaderLid4) and header.good_with_sense):
            return b""
        code = sense.EXTENDED_COPY_INFORMATION_AVAILABLE
        return sense.Sense(code, command_specific=len(parameters.segments)).encode(self._device.descriptor_sense)

    def _run(self, operation: Operation, record: CopyRecord, success: Response) -> Response:
        response = Response(status.TASK_ABORTED)
        self.watcher.began(record)
        try:
            operation.run()
            response = success
        except CheckCondition as refusal:
            response = self._refused(refusal, record)
        finally:
            operation.end()
            record.end(response)
            self.watcher.ended(record)
        return response

    def _refused(self, refusal: CheckCondition, record: CopyRecord) -> Response:
        record.reason = record.reason or sense.name_of(refusal.sense.code)
        return Response(status.CHECK_CONDITION, refusal.sense.encode(self._device.descriptor_sense))

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
        return reply(copy_limits.operating_parameters(self._types), cdb.allocation_length)

    def _drop_if_told(self, nexus: Nexus, list_identifier: int, record: CopyRecord) -> None:
        if record.status_reported and (record.details_reported or not record.status):
            self._copies.forget(nexus, list_identifier)

    @vpd_page(0x8F)
    def third_party_copy_page(self, task: Task) -> bytes:
        """Third-party Copy (SPC-5 7.8.17)."""
        return copy_limits.third_party_copy_page(self._device.rows, self._types)
