"""One TCP connection from accept to close: the login on the plain socket, then a session on the engine's connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, time
from typing import Any

import structlog

from datamover import engine
from scsi_targets.iscsi.directory import Portal, TargetDirectory, Who, open_view
from scsi_targets.iscsi.discovery import SendTargets, SocketAddress, TextExchange, format_address
from scsi_targets.iscsi.failed_logins import FailedLogins
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.log_lines import LogLines
from scsi_targets.iscsi.login import Login, LoginProgress, LoginResult
from scsi_targets.iscsi.login_transport import LoginReader
from scsi_targets.iscsi.pdu import PduFormatError
from scsi_targets.iscsi.session import Session, SessionOver
from scsi_targets.iscsi.session_record import SessionRecord
from scsi_targets.iscsi.session_table import SessionTable
from scsi_targets.iscsi.states import ConnectionEvent, connection_states
from scsi_targets.iscsi.totals import SessionTotals

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What all connections of a server share. bound: where each portal really listens."""

    directory: TargetDirectory
    limits: Limits
    pool: engine.BufferPool
    table: SessionTable[ServedConnection]
    bound: Mapping[Portal, Sequence[SocketAddress]]
    failed_logins: FailedLogins
    totals: SessionTotals = field(default_factory=SessionTotals)
    failure_lines: LogLines = field(default_factory=lambda: LogLines(burst=20, pause_seconds=10))
    session_lines: LogLines = field(default_factory=lambda: LogLines(burst=200, pause_seconds=0.5))


class ServedConnection:
    """Owns the socket. run() is the connection's thread; close() and request_logout() come from any thread."""

    def __init__(self, context: ServerContext, portal: Portal, sock: socket.socket) -> None:
        self._context = context
        self._portal = portal
        self._socket = sock
        self._local: SocketAddress = sock.getsockname()[:2]
        self._states = connection_states()
        self._lock = threading.Lock()  # over who owns the descriptor, and over what was asked meanwhile
        self._close_reason: str | None = None
        self._logout_grace: float | None = None
        self._session: Session | None = None
        self._login: LoginResult | None = None
        self._since = time()
        peer: SocketAddress = sock.getpeername()[:2]
        self._peer_host = peer[0]
        self._about: dict[str, Any] = {"peer": format_address(*peer), "portal": format_address(*self._local)}
        self._states.fire(ConnectionEvent.TRANSPORT_ACCEPTED)

    # ---- from any thread -----------------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The session, once it is in the full-feature phase."""
        return self._session

    def close(self, reason: str, *, for_good: bool = True) -> None:
        """Ends the connection, whatever it is doing. Not for good: its nexus may wait for the initiator port."""
        with self._lock:
            self._close_reason = self._close_reason or reason
            if self._session is not None:
                self._session.close(for_good=for_good)
            elif self._socket.fileno() >= 0:
                _shut_down(self._socket)

    def request_logout(self, grace_seconds: float) -> None:
        """Asks the initiator to log out; in a login, as soon as it is over."""
        with self._lock:
            self._logout_grace = grace_seconds
            session = self._session
        if session is not None:
            session.request_logout(grace_seconds)

    def look_again(self) -> None:
        """What the session may see has changed, or may have."""
        session = self._session
        if session is not None:  # one that is about to begin looks by itself
            session.look_again()

    def record(self) -> SessionRecord | None:
        """This session for `status`; None before it is in the full-feature phase."""
        login, session = self._login, self._session
        if login is None or session is None:
            return None
        parameters, connection = login.parameters, session.connection
        return SessionRecord(
            initiator_name=login.who.initiator_name,
            initiator_alias=login.initiator_alias,
            target_name=login.who.target_name,
            principal=None if login.principal is None else str(login.principal),
            tsih=login.tsih,
            isid=login.who.isid.hex(),
            connection_id=login.connection_id,
            portal=self._about["portal"],
            peer=self._about["peer"],
            since=self._since,
            state=self._states.state.name,
            authentication=login.authentication,
            header_digest=parameters.header_digest,
            data_digest=parameters.data_digest,
            commands=connection.commands,
            bytes_in=connection.bytes_in,
            bytes_out=connection.bytes_out,
            pdus_in=connection.pdus_in,
            pdus_out=connection.pdus_out,
            who=login.who,
        )

    # ---- the connection's own thread -----------------------------------------------------------------------------

    def run(self, login_over: Callable[[], None]) -> None:
        """The whole life of the connection. `login_over` is called once: it is no longer a pending login."""
        try:
            try:
                login = self._log_in()
            finally:
                login_over()
            if login is not None:
                self._serve(login)
        except Exception:
            log.exception("connection failed inside the target", **self._about)
        finally:
            self._release()

    def _release(self) -> None:
        """Gives everything back, and only then leaves the table: a new session of this nexus waits for that."""
        self._socket.close()
        totals = self._context.totals
        with totals.lock:
            if (record := self.record()) is not None:
                totals.counted(record)
                if self._login is not None and self._login.waiting is not None:
                    self._login.waiting.left(record)
            with self._lock:
                session, self._session = self._session, None  # it refers to us: a circle would keep its buffers
        if session is not None:
            session.connection.shutdown()
            del session
        self._states.fire_if_allowed(ConnectionEvent.CLEANED_UP)
        if self._login is not None:
            self._context.table.remove(self._login.tsih)

    def _log_in(self) -> LoginResult | None:
        """The login's result; None, and one line in the log, when nothing came of it."""
        login = Login(
            self._context.directory,
            self._portal,
            self._context.limits,
            self,
            monotonic(),
            self._peer_host,
            self._context.failed_logins,
        )
        failure: tuple[str, str] | None = None
        try:
            self._exchange(login)
        except PduFormatError as error:
            failure = "protocol error", str(error)
        except TimeoutError:
            failure = "login refused", f"not over after {self._context.limits.login_timeout_seconds:g} s"
        except OSError as error:
            failure = "connection lost", self._close_reason or error.strerror or str(error)
        if login.refusal is not None:
            failure = "login refused", str(login.refusal)
        if failure is None:
            return login.result
        self._states.fire(ConnectionEvent.LOGIN_FAILED)
        event, reason = failure
        if (more := self._context.failure_lines.admit(self._peer_host)) is not None:
            log.warning(event, reason=reason, **_known_of(login), **self._about, **more)
        return None

    def _say(self, write: Callable[..., Any], event: str, **fields: Any) -> None:
        """A line about the session, if its peer has not filled the log with them."""
        if (more := self._context.session_lines.admit(self._peer_host)) is not None:
            write(event, **fields, **self._about, **more)

    def _exchange(self, login: Login) -> None:
        """PDUs back and forth until the login is over. Raises PduFormatError, OSError (TimeoutError among them)."""
        reader = LoginReader()
        while login.progress is LoginProgress.GOING_ON:
            self._socket.settimeout(max(0.001, login.deadline - monotonic()))
            data = self._socket.recv(reader.needed)
            if not data:
                raise ConnectionResetError("the peer closed the connection")
            pdu = reader.feed(data)
            if pdu is not None:
                self._states.fire_if_allowed(ConnectionEvent.LOGIN_STARTED)
                self._socket.sendall(b"".join(answer.to_bytes() for answer in login.receive(pdu, monotonic())))

    def _serve(self, login: LoginResult) -> None:
        parameters = login.parameters
        self._about |= {"initiator": login.who.initiator_name, "target": login.who.target_name, "tsih": login.tsih}
        self._say(
            log.info,
            "login",
            authentication=login.authentication,
            header_digest=parameters.header_digest,
            data_digest=parameters.data_digest,
            **({"nexus": "continues"} if login.continues else {}),
        )
        self._states.fire(ConnectionEvent.LOGIN_COMPLETED)
        try:
            self._start_session(login).run()
            self._say(log.info, "logout")
        except engine.ConnectionClosed as error:
            self._states.fire(ConnectionEvent.TRANSPORT_LOST)
            waits = {"nexus": "waits"} if login.waiting is not None else {}
            if self._close_reason is not None:
                self._say(log.info, "session closed", reason=self._close_reason, **waits)
            elif login.view is None:
                # libiscsi and open-iscsi both end a discovery by hanging up.
                self._say(log.info, "discovery ended", reason=str(error))
            elif isinstance(error, SessionOver):
                self._say(log.info, "session closed", reason=str(error))
            else:
                self._say(log.warning, "connection lost", reason=str(error), **waits)
        except engine.ProtocolError as error:
            self._states.fire(ConnectionEvent.TRANSPORT_LOST)
            self._say(log.warning, "protocol error", reason=str(error))
        except (OSError, MemoryError) as error:  # no descriptor or no memory for this session; the others go on
            self._states.fire(ConnectionEvent.TRANSPORT_LOST)
            self._say(log.warning, "connection lost", reason=str(error) or "no memory")

    def _start_session(self, login: LoginResult) -> Session:
        """The socket becomes the engine's. Raises engine.ConnectionClosed after a close()."""
        context = self._context
        targets = SendTargets(context.directory, login.who, self._local, context.bound)
        text = TextExchange(login.negotiation, targets.answer, context.limits.text_bytes)
        with self._lock:
            if self._close_reason is not None:
                raise engine.ConnectionClosed(self._close_reason)
            self._session = Session(
                login, self._connect_engine(login), self._states, context.limits, text,
                partial(open_view, context.directory, login.who), self._peers, self._close_own,
            )  # fmt: skip
            session, logout_grace = self._session, self._logout_grace
        if logout_grace is not None:
            session.request_logout(logout_grace)
        return session

    def _connect_engine(self, login: LoginResult) -> engine.Connection:
        limits, parameters = self._context.limits, login.parameters
        self._socket.settimeout(None)
        connection = engine.Connection(
            self._socket.fileno(),
            self._context.pool,
            stat_sn=login.stat_sn,
            exp_cmd_sn=login.cmd_sn,
            header_digest=parameters.header_digest,
            data_digest=parameters.data_digest,
            max_recv_data_segment_length=parameters.max_recv_data_segment_length,
            max_send_data_segment_length=parameters.max_send_data_segment_length,
            first_burst_length=parameters.first_burst_length,
            max_burst_length=parameters.max_burst_length,
            initial_r2t=parameters.initial_r2t,
            immediate_data=parameters.immediate_data,
            max_outstanding_r2t=parameters.max_outstanding_r2t,
            command_window=limits.command_window,
            buffer_budget_bytes=limits.buffer_budget_bytes,
            send_timeout_seconds=limits.send_timeout_seconds,
            data_timeout_seconds=limits.data_timeout_seconds,
            discovery=login.view is None,
        )
        self._socket.detach()  # only now: had the constructor raised, the descriptor would still be the socket's
        return connection

    def _peers(self) -> list[Session]:
        """All sessions of the server, this one among them."""
        return [session for member in self._context.table.members() if (session := member.session) is not None]

    def _close_own(self, reason: str) -> None:
        """Ends the sessions of this initiator with this target, this one among them: nobody else's."""
        assert self._login is not None
        for member in self._context.table.members_like(self._login):
            member.close(reason)

    # ---- Admission: the login asks here; what enters the table is this connection ----------------------------------

    def exists(self, who: Who, tsih: int) -> bool:
        """Whether that initiator port, as the account it proved, has a session of that TSIH with that target."""
        return self._context.table.exists(who, tsih)

    def admit(self, result: LoginResult) -> int:
        """Enters the table, which _release() leaves. Raises LoginRefused."""
        result.tsih = self._context.table.admit(self, result)
        self._login = result
        return result.tsih


def _known_of(login: Login) -> dict[str, str]:
    """What a login that failed had said of itself, for the log."""
    known = {"phase": "login"}
    if login.refusal is not None:
        known["status"] = f"{login.refusal.status:04X}h"
    if login.initiator_name:
        known["initiator"] = _printable(login.initiator_name)
    if login.target_name:
        known["target"] = _printable(login.target_name)
    return known


def _printable(name: str) -> str:
    """A name that nobody has checked yet must not draw its own lines into the log."""
    return name if name.isprintable() else ascii(name)


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer was faster
