"""The full-feature phase of one session: what is done with each thing the engine hands out (RFC 7143 4.3, 11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from time import monotonic, time
from typing import Any

from datamover import engine
from scsi_targets.devices.unit.answers import sense_data
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.task import CHECK_CONDITION, TASK_SET_FULL, Response, Task
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import DirectoryError
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
from scsi_targets.iscsi.waiting_nexus import WaitingNexus
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

# How often a session looks that has something to wait for: its end, commands that may end.
ATTENTION_SECONDS = 0.25

_session_ids = count(1)


class SessionOver(engine.ConnectionClosed):
    """This end closes the session; str() says why."""


class Session:
    """One session, from the end of its login. run() is its thread, and the only one that sends: what comes from others
    (request_logout(), look_again()) is only noted, and seen to between two commands.

    reopen: asks the directory anew what this session sees; raises DirectoryError. close_own: closes every session of
    this initiator with this target (TARGET COLD RESET). peers: all sessions of the server.
    """

    def __init__(
        self,
        login: LoginResult,
        connection: engine.Connection,
        states: ConnectionStates,
        limits: Limits,
        text: TextExchange,
        reopen: Callable[[], View],
        peers: Callable[[], Iterable[TaskHolder]],
        close_own: Callable[[str], None],
    ) -> None:
        self.connection = connection
        self._login = login
        self._states = states
        self._limits = limits
        self._text = text
        self._reopen = reopen
        self._peers = peers
        self._close_own = close_own
        self._pings = count(1)
        self._pinged_at = 0.0
        self._patience_seconds = ATTENTION_SECONDS if self._discovery else limits.keep_alive_seconds
        self._attention = True  # there is something to see to before the next item
        self._stale = True  # the view is to be looked at again: it may have changed while the login went on
        self._logout_grace_seconds: float | None = None  # somebody asked for a logout
        self._leaving: set[LogicalUnit] = set()  # no longer in the view; commands that run there may end
        self._over_at: float | None = monotonic() + limits.discovery_seconds if self._discovery else None
        self._over_because = f"a discovery session has {limits.discovery_seconds:g} s"
        self._view = login.view
        self._closed_for_good = False
        if (nexus := login.nexus) is not None:
            self._nexus = replace(nexus, session_id=next(_session_ids))

    @property
    def _discovery(self) -> bool:
        return self._login.view is None

    @property
    def view(self) -> View | None:
        """What the session sees; None: nothing, because it is a discovery session or over."""
        return self._view

    # ---- from any thread -----------------------------------------------------------------------------------------

    def request_logout(self, grace_seconds: float) -> None:
        """Asks the initiator to log out (RFC 7143 11.9.1, event 1)."""
        self._logout_grace_seconds = grace_seconds
        self._call()

    def look_again(self) -> None:
        """What this session may see has changed, or may have: the directory is asked anew."""
        self._stale = True
        self._call()

    def close(self, *, for_good: bool) -> None:
        """Ends the connection; for good: the nexus ends with it, whatever its view says."""
        self._closed_for_good |= for_good
        self.connection.shutdown()

    def _call(self) -> None:
        self._attention = True
        self.connection.wake()

    # ---- the session's own thread --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until the session is logged out. Raises engine.ConnectionClosed, engine.ProtocolError."""
        self._begin_nexus()
        item = None
        waits = False
        try:
            self._attend()
            receive, execute = self.connection.receive, self._execute
            while self._states.state is not ConnectionState.FREE:
                item = receive(self._patience_seconds)
                if self._attention:
                    self._attend()
                if type(item) is engine.ScsiCommand:
                    execute(item)
                elif item is not None:
                    self._dispatch(item)
                else:
                    self._keep_alive()
                item = None  # nothing is in hand any more
        except SessionOver:
            raise
        except engine.ConnectionClosed:
            waits = item is None and self._leave_nexus_waiting()
            raise
        finally:
            if not waits:
                self._lose_nexus()
        try:
            self.connection.flush()
        except engine.ConnectionClosed:
            return  # it has logged out, and does not wait for our answer

    def _begin_nexus(self) -> None:
        """Goes on with the nexus that waits for this session, or begins one, after that one is lost."""
        login, before = self._login, self._login.waiting
        if self._view is None:
            return
        if login.continues and before is not None:
            login.waiting, self._nexus, self._view = None, before.nexus, before.view
            return
        login.waiting = None
        if before is not None:
            before.lose()
        self._view.nexus_established(self._nexus)

    def _leave_nexus_waiting(self) -> bool:
        """The connection broke. Whether the nexus waits for its initiator port: the view says so, nobody has ended the
        session, and nothing that it asked for is unanswered or still going on."""
        self.connection.shutdown()
        view, settled = self._view, self.connection.settled()
        if view is None or not view.nexus_waits or settled is None or self._closed_for_good:
            return False
        if self._states.state is not ConnectionState.LOGGED_IN or self._over_at is not None or self._leaving:
            return False
        if any(unit.has_tasks_of(self._nexus) for unit in view.units()):
            return False
        self._login.waiting = WaitingNexus(self._nexus, self._login.who, view, *settled)
        self._view = None
        return True

    def _lose_nexus(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            for unit in {*view.units(), *self._leaving}:
                unit.nexus_lost(self._nexus)

    def _attend(self) -> None:
        """Sees to what was asked of the session, and to what has its time. Raises SessionOver."""
        self._attention = False
        if self._stale:
            self._stale = False
            self._renew_view()
        if self._logout_grace_seconds is not None:
            self._send_logout_request(self._logout_grace_seconds)
            self._logout_grace_seconds = None
        for unit in [unit for unit in self._leaving if not unit.has_tasks_of(self._nexus)]:
            unit.nexus_lost(self._nexus)
            self._leaving.discard(unit)
        if self._over_at is not None and monotonic() >= self._over_at:
            raise SessionOver(self._over_because)
        busy = self._over_at is not None or bool(self._leaving)
        if busy:  # nothing is taken back that another thread has asked for meanwhile
            self._attention = True
        self._patience_seconds = min(ATTENTION_SECONDS if busy else inf, self._limits.keep_alive_seconds)

    def _send_logout_request(self, grace_seconds: float) -> None:
        if self._states.fire_if_allowed(ConnectionEvent.LOGOUT_REQUEST_SENT):
            self._send(AsyncMessage.make(
                async_event=AsyncEvent.LOGOUT_REQUESTED, parameter3=max(1, int(grace_seconds))
            ))  # fmt: skip

    # ---- the view ------------------------------------------------------------------------------------------------

    def _renew_view(self) -> None:
        if self._view is None:
            return
        try:
            view = self._reopen()
        except DirectoryError as error:
            self._end_view(str(error))
            return
        if view.principal != self._nexus.principal:
            self._end_view("the session belongs to somebody else now")
        elif view.ends_at is not None and view.ends_at <= time():
            self._end_view("what the session was allowed has come to its end")
        else:
            self._replace_view(view)

    def _replace_view(self, view: View) -> None:
        """From here on the session sees that. A logical unit that it no longer sees lets running commands end."""
        old = self._view
        assert old is not None
        self._view = view
        if view.shows_as(old):
            return
        before, after = old.units(), view.units()
        self._leaving |= before.keys() - after.keys()
        for unit in after:
            if unit not in before and unit not in self._leaving:
                unit.nexus_established(self._nexus)
            unit.establish_unit_attention(sense.REPORTED_LUNS_DATA_HAS_CHANGED, [self._nexus])
        self._leaving -= after.keys()

    def _end_view(self, reason: str) -> None:
        """Nothing is to be seen any more; the initiator is asked to log out, and closed if it does not."""
        assert self._view is not None
        if self._over_at is None:
            given = self._view.logout_seconds
            seconds = self._limits.logout_grace_seconds if given is None else given
            self._replace_view(replace(self._view, logical_units={}, permissions={}, ends_at=None))
            self._over_at = monotonic() + seconds
            self._over_because = reason
            self._send_logout_request(seconds)

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
            connection,
            partial(self._complete, command),
            partial(connection.discard, command),
            view=view,
        )
        try:
            response = view.execute(task)
        except (engine.PoolExhausted, MemoryError):
            response = Response(TASK_SET_FULL)
        if response is not None:
            connection.respond(command, response.status, response.sense, response.data_in, response.data_length)

    def _complete(self, command: engine.ScsiCommand, response: Response) -> None:
        """A worker's end of a task, which it leaves to the session's thread. When the connection is gone, so is whoever
        waited for the response."""
        try:
            self.connection.respond(command, response.status, response.sense, response.data_in, response.data_length)
        except engine.ConnectionClosed:
            return

    def _refuse_command(self, command: engine.ScsiCommand) -> None:
        response = DATA_ERROR_RESPONSES[command.data_error]
        self.connection.respond(command, response.status, response.sense)

    # ---- everything else -----------------------------------------------------------------------------------------

    def _dispatch(self, item: engine.Pdu) -> None:
        request = decode_pdu(item.bhs, item.data)
        handler = _HANDLERS.get(type(request))
        if self._discovery and not _allowed_in_discovery(request):
            self._reject(request, RejectReason.PROTOCOL_ERROR)
        elif handler is None:
            self._reject(request, RejectReason.COMMAND_NOT_SUPPORTED)
        else:
            handler(self, request)

    def _send(self, pdu: Pdu) -> None:
        self.connection.send_pdu(pdu.raw, pdu.data)

    def _reject(self, pdu: Pdu, reason: RejectReason) -> None:
        self._send(Reject.make(pdu.raw, reason=reason))

    def _keep_alive(self) -> None:
        """Nothing has come now. A peer that was silent for long is asked with a NOP-In, and given up if it stays silent
        (RFC 7143 11.19), however often the session was called meanwhile."""
        if self._over_at is not None:
            return  # it ends by itself, and in a discovery session there is no NOP (RFC 7143 4.3)
        patience, heard_at = self._limits.keep_alive_seconds, self.connection.heard_at_microseconds / 1e6
        now = monotonic()
        if now >= max(heard_at, self._pinged_at) + patience:
            self._ping(now, answered=heard_at > self._pinged_at)
        left = max(heard_at, self._pinged_at) + patience - now
        self._patience_seconds = min(ATTENTION_SECONDS, left) if self._attention else left

    def _ping(self, now: float, *, answered: bool) -> None:
        """answered: the last one was. Raises engine.ConnectionClosed if not."""
        if not answered:
            raise engine.ConnectionClosed(f"no answer to a NOP-In for {self._limits.keep_alive_seconds:g} s")
        self._pinged_at = now
        self._send(NopIn.make(target_transfer_tag=next(self._pings) % RESERVED_TAG))

    def _nop_out(self, request: NopOut) -> None:
        if request.initiator_task_tag == RESERVED_TAG:
            return  # the answer to our own NOP-In, or a mere ping: no response is due (RFC 7143 11.18)
        echo = request.data[: self._login.parameters.max_send_data_segment_length]
        self._send(NopIn.make(echo, lun=request.lun, initiator_task_tag=request.initiator_task_tag))

    def _task_management(self, request: TaskManagementRequest) -> None:
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


def _allowed_in_discovery(request: Pdu) -> bool:
    """Text, and a Logout that ends the session (RFC 7143 4.3)."""
    if isinstance(request, LogoutRequest):
        return request.reason == LogoutReason.CLOSE_SESSION
    return isinstance(request, TextRequest)


# Any: each handler takes the class it stands beside.
_HANDLERS: dict[type[Pdu], Callable[[Session, Any], None]] = {
    NopOut: Session._nop_out,
    TaskManagementRequest: Session._task_management,
    TextRequest: Session._text_request,
    LogoutRequest: Session._logout,
    SnackRequest: Session._snack,
}
