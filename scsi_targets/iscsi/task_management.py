"""Task management functions (RFC 7143 11.5, 11.6; SAM-5 7): which tasks of which sessions end, and what is answered.

A LUN is a number of one view. It is looked up in the view of whoever asks, and from then on the logical unit is meant:
in the other sessions its tasks are found under whatever numbers their views give it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from datamover import engine
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.lun import decode_lun, encode_lun
from scsi_targets.iscsi.pdu import TaskFunction, TaskManagementRequest, TaskResponse


class TaskHolder(Protocol):
    """A session, as far as its tasks matter to others."""

    @property
    def connection(self) -> engine.Connection:
        """Where commands wait whose data is still arriving."""

    @property
    def view(self) -> View | None:
        """What the session sees; None when it is over."""


class TaskManager:
    """Task management for one session; made anew for a request, so that no session refers to itself. `peers` gives all
    sessions of the server, this one included."""

    def __init__(self, own: TaskHolder, nexus: Nexus, peers: Callable[[], Iterable[TaskHolder]]) -> None:
        self._own = own
        self._nexus = nexus
        self._peers = peers

    def perform(self, request: TaskManagementRequest) -> TaskResponse:
        """Do what is asked; the response to give."""
        function = _FUNCTIONS.get(request.function)
        return TaskResponse.FUNCTION_REJECTED if function is None else function(self, request)

    def _unit(self, request: TaskManagementRequest) -> LogicalUnit | None:
        view = self._own.view
        return view.logical_units.get(decode_lun(request.lun)) if view is not None else None

    def _abort_task(self, request: TaskManagementRequest) -> TaskResponse:
        unit, connection = self._unit(request), self._own.connection
        if unit is None:
            return TaskResponse.LUN_DOES_NOT_EXIST
        tag = request.referenced_task_tag
        if any(connection.abort(initiator_task_tag=tag, lun=field) for field in encode_lun(decode_lun(request.lun))):
            return TaskResponse.FUNCTION_COMPLETE
        if unit.abort_task(self._nexus, tag):
            return TaskResponse.FUNCTION_COMPLETE
        # RFC 7143 11.6.1: a command that was sent but never came counts as received from here on, and as aborted.
        if connection.plug(request.ref_cmd_sn):
            return TaskResponse.FUNCTION_COMPLETE
        return TaskResponse.TASK_DOES_NOT_EXIST

    def _abort_task_set(self, request: TaskManagementRequest) -> TaskResponse:
        unit = self._unit(request)
        if unit is None:
            return TaskResponse.LUN_DOES_NOT_EXIST
        unit.abort_task_set(self._nexus)
        _drop_waiting(self._own, [unit], request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _clear_task_set(self, request: TaskManagementRequest) -> TaskResponse:
        unit = self._unit(request)
        if unit is None:
            return TaskResponse.LUN_DOES_NOT_EXIST
        if unit.is_lent_to_another(self._nexus.principal):
            return TaskResponse.AUTHORIZATION_FAILED
        unit.clear_task_set(self._nexus)
        self._drop_waiting_everywhere([unit], request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _logical_unit_reset(self, request: TaskManagementRequest) -> TaskResponse:
        unit = self._unit(request)
        if unit is None:
            return TaskResponse.LUN_DOES_NOT_EXIST
        if unit.is_lent_to_another(self._nexus.principal):
            return TaskResponse.AUTHORIZATION_FAILED
        unit.reset()
        self._drop_waiting_everywhere([unit], request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _target_reset(self, request: TaskManagementRequest) -> TaskResponse:
        """WARM and COLD: the logical units that this session sees and that are not lent to another, and no others."""
        view = self._own.view
        if view is not None:
            units = [unit for unit in view.units() if not unit.is_lent_to_another(self._nexus.principal)]
            for unit in units:
                unit.reset()
            self._drop_waiting_everywhere(units, request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _reassign(self, request: TaskManagementRequest) -> TaskResponse:
        return TaskResponse.REASSIGNMENT_NOT_SUPPORTED  # ErrorRecoveryLevel 0

    def _not_supported(self, request: TaskManagementRequest) -> TaskResponse:
        # CLEAR ACA: no logical unit here enters ACA (NORMACA is 0). The functions of RFC 7144 need its protocol level.
        return TaskResponse.FUNCTION_NOT_SUPPORTED

    def _drop_waiting_everywhere(self, units: Iterable[LogicalUnit], cmd_sn: int) -> None:
        """The task set spans all nexuses: what waits for data in the other sessions ends too."""
        for peer in self._peers():
            _drop_waiting(peer, units, cmd_sn if peer is self._own else None)


def _drop_waiting(holder: TaskHolder, units: Iterable[LogicalUnit], before_cmd_sn: int | None) -> None:
    """Drops what of a session waits for these units and was not handed out yet."""
    view = holder.view
    luns = [lun for unit in units for lun in view.luns_of(unit)] if view is not None else []
    for lun in luns:
        for field in encode_lun(lun):
            holder.connection.abort(lun=field, before_cmd_sn=before_cmd_sn)


_FUNCTIONS: Mapping[int, Callable[[TaskManager, TaskManagementRequest], TaskResponse]] = {
    TaskFunction.ABORT_TASK: TaskManager._abort_task,
    TaskFunction.ABORT_TASK_SET: TaskManager._abort_task_set,
    TaskFunction.CLEAR_ACA: TaskManager._not_supported,
    TaskFunction.CLEAR_TASK_SET: TaskManager._clear_task_set,
    TaskFunction.LOGICAL_UNIT_RESET: TaskManager._logical_unit_reset,
    TaskFunction.TARGET_WARM_RESET: TaskManager._target_reset,
    TaskFunction.TARGET_COLD_RESET: TaskManager._target_reset,
    TaskFunction.TASK_REASSIGN: TaskManager._reassign,
    TaskFunction.QUERY_TASK: TaskManager._not_supported,
    TaskFunction.QUERY_TASK_SET: TaskManager._not_supported,
    TaskFunction.I_T_NEXUS_RESET: TaskManager._not_supported,
    TaskFunction.QUERY_ASYNCHRONOUS_EVENT: TaskManager._not_supported,
}
