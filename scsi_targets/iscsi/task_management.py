"""Task management functions (RFC 7143 11.5, 11.6; SAM-5 7): which tasks of which sessions end, and what is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from datamover import engine
from scsi_targets.devices.unit.target import Target
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.iscsi.lun import decode_lun, encode_lun
from scsi_targets.iscsi.pdu import TaskFunction, TaskManagementRequest, TaskResponse


class TaskHolder(Protocol):
    """A session, as far as its tasks matter to others."""

    @property
    def connection(self) -> engine.Connection:
        """Where commands wait whose data is still arriving."""


class TaskManager:
    """Task management for one session of one target. `peers` gives all sessions of the target, this one included."""

    def __init__(
        self, target: Target, nexus: Nexus, connection: engine.Connection, peers: Callable[[], Iterable[TaskHolder]]
    ) -> None:
        self._target = target
        self._nexus = nexus
        self._connection = connection
        self._peers = peers

    def perform(self, request: TaskManagementRequest) -> TaskResponse:
        """Do what is asked; the response to give."""
        function = _FUNCTIONS.get(request.function)
        return TaskResponse.FUNCTION_REJECTED if function is None else function(self, request)

    def _abort_task(self, request: TaskManagementRequest) -> TaskResponse:
        lun = decode_lun(request.lun)
        if lun not in self._target.logical_units:
            return TaskResponse.LUN_DOES_NOT_EXIST
        tag = request.referenced_task_tag
        if self._connection.abort(initiator_task_tag=tag, lun=request.lun):
            return TaskResponse.FUNCTION_COMPLETE
        if self._target.abort_task(self._nexus, lun, tag):
            return TaskResponse.FUNCTION_COMPLETE
        # RFC 7143 11.6.1: a command that was sent but never came counts as received from here on, and as aborted.
        if self._connection.plug(request.ref_cmd_sn):
            return TaskResponse.FUNCTION_COMPLETE
        return TaskResponse.TASK_DOES_NOT_EXIST

    def _abort_task_set(self, request: TaskManagementRequest) -> TaskResponse:
        lun = decode_lun(request.lun)
        if not self._target.abort_task_set(self._nexus, lun):
            return TaskResponse.LUN_DOES_NOT_EXIST
        self._drop_waiting(self._connection, lun, request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _clear_task_set(self, request: TaskManagementRequest) -> TaskResponse:
        lun = decode_lun(request.lun)
        if not self._target.clear_task_set(self._nexus, lun):
            return TaskResponse.LUN_DOES_NOT_EXIST
        self._drop_waiting_everywhere(lun, request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _logical_unit_reset(self, request: TaskManagementRequest) -> TaskResponse:
        lun = decode_lun(request.lun)
        if not self._target.logical_unit_reset(self._nexus, lun):
            return TaskResponse.LUN_DOES_NOT_EXIST
        self._drop_waiting_everywhere(lun, request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _target_reset(self, request: TaskManagementRequest) -> TaskResponse:
        self._target.target_reset(self._nexus, request.function == TaskFunction.TARGET_COLD_RESET)
        self._drop_waiting_everywhere(None, request.cmd_sn)
        return TaskResponse.FUNCTION_COMPLETE

    def _reassign(self, request: TaskManagementRequest) -> TaskResponse:
        return TaskResponse.REASSIGNMENT_NOT_SUPPORTED  # ErrorRecoveryLevel 0

    def _not_supported(self, request: TaskManagementRequest) -> TaskResponse:
        # CLEAR ACA: no logical unit here enters ACA (NORMACA is 0). The functions of RFC 7144 need its protocol level.
        return TaskResponse.FUNCTION_NOT_SUPPORTED

    def _drop_waiting_everywhere(self, lun: int | None, cmd_sn: int) -> None:
        """The task set spans all nexuses: what waits for data in the other sessions ends too."""
        for peer in self._peers():
            connection = peer.connection
            self._drop_waiting(connection, lun, cmd_sn if connection is self._connection else None)

    @staticmethod
    def _drop_waiting(connection: engine.Connection, lun: int | None, before_cmd_sn: int | None) -> None:
        for field in [None] if lun is None else encode_lun(lun):
            connection.abort(lun=field, before_cmd_sn=before_cmd_sn)


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
