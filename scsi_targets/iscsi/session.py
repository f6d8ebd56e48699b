"""The full-feature phase of one session: what is done with each thing the engine hands out (RFC 7143 4.3, 11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from datamover import engine
from scsi_targets.devices.unit.logical_unit import sense_data
from scsi_targets.devices.unit.task import CHECK_CONDITION, TASK_SET_FULL, Nexus, Response, Task
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.discovery import TextExchange, TextRejected
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import LoginResult
from scsi_targets.iscsi.lun import decode_lun
from scsi_targets.iscsi.pdu import (
    RESERVED_TAG,
    AsyncEvent,
    AsyncMessage,
    LogoutReason,
    LogoutRequest,
    LogoutResponse,
    LogoutResult,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    RejectReason,
    SnackRequest,
    TaskFunction,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    decode_pdu,
)
from scsi_targets.iscsi.states import ConnectionEvent, ConnectionState, StateMachine
from scsi_targets.iscsi.task_management import TaskHolder, TaskManager
from scsi_targets.t10 import sense

# What a command with bad Data-Out ends in (RFC 7143 11.4.7.2).
DATA_ERROR_RESPONSES: dict[int, Response] = {
    engine.DATA_ERROR_DIGEST: Response(CHECK_CONDITION, sense_data(sense.PROTOCOL_SERVICE_CRC_ERROR)),
    engine.DATA_ERROR_SEQUENCE: Response(CHECK_CONDITION, sense_data(sense.PROTOCOL_SERVICE_CRC_ERROR)),
    engine.DATA_ERROR_UNEXPECTED: Response(CHECK_CONDITION, sense_data(sense.UNEXPECTED_UNSOLICITED_DATA)),
    engine.DATA_ERROR_AMOUNT: Response(CHECK_CONDITION, sense_data(sense.NOT_ENOUGH_UNSOLICITED_DATA)),
    engine.DATA_ERROR_TOO_LARGE: Response(CHECK_CONDITION, sense_data(sense.INVALID_FIELD_IN_CDB)),
    engine.DATA_ERROR_NO_BUFFER: Response(TASK_SET_FULL),
}

ConnectionStates = StateMachine[ConnectionState, ConnectionEvent]

_session_ids = count(1)


class Session:
    """One session, from the end of its login. run() is its thread; close() and request_logout() come from others.

    close_own: closes every session of this initiator with this target (TARGET COLD RESET). peers: all sessions of the
    server.
    """

    def __init__(
        self,
        login: LoginResult,
        connection: engine.Connection,
        states: ConnectionStates,
        pool: engine.BufferPool,
        limits: Limits,
        text: TextExchange,
        peers: Callable[[], Iterable[TaskHolder]],
        close_own: Callable[[str], None],
    ) -> None:
        self.connection = connection
        self._login = login
        self._states = states
        self._pool = pool
        self._limits = limits
        self._text = text
        self._peers = peers
        self._close_own = close_own
        self._pings = count(1)
        self._bytes_in_at_ping = -1
        self._discovery_ends = monotonic() + limits.discovery_seconds
        self._view = login.view
        if login.view is not None:
            who = login.who
            tag = who.portal.portal_group_tag
            self._nexus = Nexus(
                who.initiator_name, who.isid, login.view.target_name, tag, next(_session_ids), login.view.principal
            )

    @property
    def _discovery(self) -> bool:
        return self._login.view is None

    def _discovery_time_left(self) -> float:
        """Discovery takes milliseconds: whoever has not ended its session by then does not need it."""
        left = self._discovery_ends - monotonic()
        if left <= 0:
            raise engine.ConnectionClosed(f"a discovery session has {self._limits.discovery_seconds:g} s")
        return left

    @property
    def view(self) -> View | None:
        """What the session sees; None: nothing, because it is a discovery session or over."""
        return self._view

    def run(self) -> None:
        """Serves until the session is logged out. Raises engine.ConnectionClosed, engine.ProtocolError."""
        if self._view is not None:
            self._view.nexus_established(self._nexus)
        try:
            receive, execute = self.connection.receive, self._execute
            patience_seconds = self._limits.keep_alive_seconds
            while self._states.state is not ConnectionState.FREE:
                if self._discovery:
                    patience_seconds = self._discovery_time_left()
                item = receive(patience_seconds)
                if type(item) is engine.ScsiCommand:
                    execute(item)
                elif item is None:
                    self._keep_alive()
                else:
                    self._dispatch(item)
        finally:
            self._lose_nexus()
        try:
            self.connection.flush()
        except engine.ConnectionClosed:
            return  # it has logged out, and does not wait for our answer

    def request_logout(self, grace_seconds: float) -> None:
        """Asks the initiator to log out (RFC 7143 11.9.1, event 1). From any thread."""
        if not self._states.fire_if_allowed(ConnectionEvent.LOGOUT_REQUEST_SENT):
            return
        message = AsyncMessage.make(async_event=AsyncEvent.LOGOUT_REQUESTED, parameter3=max(1, int(grace_seconds)))
        self.connection.send_pdu(message.raw)

    def _lose_nexus(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.nexus_lost(self._nexus)

    # ---- SCSI commands: the one path that must cost next to nothing ----------------------------------------------

    def _execute(self, command: engine.ScsiCommand) -> None:
        view = self._view
        if command.data_error or view is None:
            self._refuse_command(command)
            return
        connection = self.connection
        length = command.expected_data_transfer_length
        if command.write:
            length = command.bidirectional_read_length
        task = Task(
            self._nexus,
            decode_lun(command.lun),
            command.cdb,
            command.initiator_task_tag,
            command.task_attribute,
            command.data_out,
            length,
            self._pool,
            partial(self._complete, command),
            partial(connection.discard, command),
            view=view,
        )
        try:
            response = view.execute(task)
        except engine.PoolExhausted:
            response = Response(TASK_SET_FULL)
        if response is not None:
            connection.respond(command, response.status, response.sense, response.data_in, response.data_length)

    def _complete(self, command: engine.ScsiCommand, response: Response) -> None:
        """A worker's end of a task. When the connection is gone, so is whoever waited for the response."""
        try:
            self.connection.respond(command, response.status, response.sense, response.data_in, response.data_length)
        except engine.ConnectionClosed:
            return

    def _refuse_command(self, command: engine.ScsiCommand) -> None:
        if self._discovery:
            raise engine.ProtocolError("a SCSI command in a discovery session (RFC 7143 4.3)")
        response = DATA_ERROR_RESPONSES[command.data_error]
        self.connection.respond(command, response.status, response.sense)

    # ---- everything else -----------------------------------------------------------------------------------------

    def _dispatch(self, item: engine.Pdu) -> None:
        request = decode_pdu(item.bhs, item.data)
        handler = _HANDLERS.get(type(request))
        if handler is None:
            self._reject(request, RejectReason.COMMAND_NOT_SUPPORTED)
        else:
            handler(self, request)

    def _send(self, pdu: Pdu) -> None:
        self.connection.send_pdu(pdu.raw, pdu.data)

    def _reject(self, pdu: Pdu, reason: RejectReason) -> None:
        self._send(Reject.make(pdu.raw, reason=reason))

    def _keep_alive(self) -> None:
        """Nothing came for a while: ask with a NOP-In, and give up on a peer that stays silent (RFC 7143 11.19). A
        discovery session knows no NOP-In (RFC 7143 4.3)."""
        if self._discovery:
            return  # its time is up, which the loop sees
        if self.connection.bytes_in == self._bytes_in_at_ping:
            raise engine.ConnectionClosed(f"no answer to a NOP-In for {self._limits.keep_alive_seconds:g} s")
        self._bytes_in_at_ping = self.connection.bytes_in
        self._send(NopIn.make(target_transfer_tag=next(self._pings) % RESERVED_TAG))

    def _nop_out(self, request: NopOut) -> None:
        if request.initiator_task_tag == RESERVED_TAG:
            return  # the answer to our own NOP-In, or a mere ping: no response is due (RFC 7143 11.18)
        echo = request.data[: self._login.parameters.max_send_data_segment_length]
        self._send(NopIn.make(echo, lun=request.lun, initiator_task_tag=request.initiator_task_tag))

    def _task_management(self, request: TaskManagementRequest) -> None:
        if self._view is None:
            self._reject(request, RejectReason.PROTOCOL_ERROR)
            return
        response = TaskManager(self, self._nexus, self._peers).perform(request)
        self._send(TaskManagementResponse.make(initiator_task_tag=request.initiator_task_tag, response=response))
        if request.function == TaskFunction.TARGET_COLD_RESET:
            self.connection.flush()
            self._close_own("target cold reset")

    def _text_request(self, request: TextRequest) -> None:
        try:
            response = self._text.receive(request)
        except TextRejected:
            self._reject(request, RejectReason.PROTOCOL_ERROR)
            return
        # The initiator may have declared another segment length just now (RFC 7143 13.12).
        self.connection.set_max_send_data_segment_length(self._login.parameters.max_send_data_segment_length)
        self._send(response)

    def _logout(self, request: LogoutRequest) -> None:
        own = request.connection_id == self._login.connection_id
        if request.reason == LogoutReason.CLOSE_SESSION or (request.reason == LogoutReason.CLOSE_CONNECTION and own):
            self._states.fire(ConnectionEvent.LOGOUT_RECEIVED)
            self._lose_nexus()
            self._respond_to_logout(request, LogoutResult.CLOSED)
            self._states.fire(ConnectionEvent.LOGOUT_COMPLETED)
        elif request.reason == LogoutReason.CLOSE_CONNECTION:
            self._respond_to_logout(request, LogoutResult.CID_NOT_FOUND)
        elif request.reason == LogoutReason.REMOVE_CONNECTION_FOR_RECOVERY:
            self._respond_to_logout(request, LogoutResult.CONNECTION_RECOVERY_NOT_SUPPORTED)
        else:
            self._reject(request, RejectReason.INVALID_PDU_FIELD)

    def _respond_to_logout(self, request: LogoutRequest, result: LogoutResult) -> None:
        parameters = self._login.parameters
        response = LogoutResponse.make(
            initiator_task_tag=request.initiator_task_tag,
            response=result,
            time2wait=parameters.default_time2wait,
            time2retain=parameters.default_time2retain,
        )
        self._send(response)

    def _snack(self, request: SnackRequest) -> None:
        self._reject(request, RejectReason.SNACK_REJECT)  # ErrorRecoveryLevel 0: nothing is kept to send again


# Any: each handler takes the class it stands beside.
_HANDLERS: dict[type[Pdu], Callable[[Session, Any], None]] = {
    NopOut: Session._nop_out,
    TaskManagementRequest: Session._task_management,
    TextRequest: Session._text_request,
    LogoutRequest: Session._logout,
    SnackRequest: Session._snack,
}
