"""The iSCSI server: portals, the thread that accepts, a thread for every connection, and an orderly end."""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import threading
from collections.abc import Iterable
from time import monotonic, time

import structlog

from datamover import engine
from scsi_targets.iscsi.connection import ServedConnection, ServerContext
from scsi_targets.iscsi.directory import Portal, TargetDirectory
from scsi_targets.iscsi.discovery import SocketAddress, format_address
from scsi_targets.iscsi.failed_logins import FailedLogins
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.session_record import SessionRecord
from scsi_targets.iscsi.session_table import SessionTable
from scsi_targets.iscsi.totals import TargetTotals

log = structlog.get_logger(__name__)

BACKLOG = 128
ACCEPT_RETRY_SECONDS = 0.2  # after accept() failed for want of descriptors or memory
UPKEEP_SECONDS = 1.0
JOIN_SECONDS = 10.0
# Connections leave so many descriptors to cartridges, images and the rest of the process; each takes two.
RESERVED_DESCRIPTORS = 256
DESCRIPTORS_PER_CONNECTION = 2


class Server:
    """Serves a directory's targets at the given portals. start() once, stop() once."""

    def __init__(self, directory: TargetDirectory, portals: Iterable[Portal], limits: Limits | None = None) -> None:
        self._portals = list(portals)
        self._limits = limits or Limits()
        self._bound: dict[Portal, list[SocketAddress]] = {}
        self._table: SessionTable[ServedConnection] = SessionTable(self._limits)
        self._context = ServerContext(
            directory,
            self._limits,
            engine.BufferPool(self._limits.pool_bytes),
            self._table,
            self._bound,
            FailedLogins(self._limits.failed_logins, self._limits.failed_login_seconds),
        )
        self._listeners: list[tuple[socket.socket, Portal]] = []
        self._lock = threading.Lock()  # over these two
        self._connections: dict[ServedConnection, threading.Thread] = {}
        self._pending_logins: dict[ServedConnection, None] = {}  # the oldest first
        self._wake, self._waker = socket.socketpair()
        self._stopping = threading.Event()
        self._next_upkeep = 0.0
        self._acceptor = threading.Thread(target=self._accept_all, name="iscsi accept", daemon=True)
        self._look_at_waiting = threading.Event()
        self._waiting_room = threading.Thread(target=self._look_after_waiting, name="iscsi waiting", daemon=True)

    @property
    def pool(self) -> engine.BufferPool:
        """The memory of all commands' data."""
        return self._context.pool

    def start(self) -> list[SocketAddress]:
        """Listens on every portal and returns where, in their order. Raises OSError, and listens nowhere, if one
        cannot be had."""
        addresses: list[SocketAddress] = []
        try:
            for portal in self._portals:
                listener = _listen(portal)
                self._listeners.append((listener, portal))
                addresses.append(listener.getsockname()[:2])
                self._bound.setdefault(portal, []).append(addresses[-1])
        except OSError:
            self._stopping.set()  # there is nothing to stop any more
            self._close_sockets()
            raise
        self._acceptor.start()
        self._waiting_room.start()
        return addresses

    def stop(self) -> None:
        """Asks every initiator to log out, gives them `logout_grace_seconds`, then closes what is left. Once is enough;
        a second call does nothing."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
        self._waker.send(b"\0")
        self._look_at_waiting.set()
        for thread in (self._acceptor, self._waiting_room):
            if thread.ident is not None:
                thread.join()
        self._close_sockets()
        grace = self._limits.logout_grace_seconds
        for member in self._table.members():
            member.request_logout(grace)
        self._table.wait_until_empty(grace)
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            connection.close("the server stops")
        deadline = monotonic() + JOIN_SECONDS
        for thread in connections.values():
            thread.join(max(0.0, deadline - monotonic()))
        self._table.look_at_waiting(lambda waiting: False)  # there may still be some: their connections have ended now

    def views_changed(self) -> None:
        """The directory's answers have changed: every session asks anew what it sees, and gets another view between two
        of its commands, or is ended. A nexus that waits for its initiator port is lost, unless it sees the same."""
        for member in self._table.members():
            member.look_again()
        self._look_at_waiting.set()

    def end_session(self, tsih: int, reason: str, timeout_seconds: float) -> bool:
        """Close one session, or lose a nexus that waits; whether it is over in that time. One that is not there is."""
        return self._table.end(tsih, reason, timeout_seconds)

    def sessions(self) -> list[SessionRecord]:
        """All sessions in the full-feature phase, oldest first."""
        records = [member.record() for member in self._table.members()]
        return sorted((record for record in records if record is not None), key=lambda record: record.since)

    def waiting(self) -> list[SessionRecord]:
        """Sessions whose connection broke and whose nexus waits for its initiator port, as they ended."""
        return self._table.waiting()

    def totals(self) -> dict[str, TargetTotals]:
        """What the sessions with each target have done since the start; those that discover under ""."""
        return self._context.totals.by_target(self._table.members())

    # ---- accepting -----------------------------------------------------------------------------------------------

    def _close_sockets(self) -> None:
        for sock in (self._wake, self._waker, *(listener for listener, _ in self._listeners)):
            sock.close()

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for listener, portal in self._listeners:
                selector.register(listener, selectors.EVENT_READ, portal)
            while not self._stopping.is_set():
                try:
                    self._accept_some(selector)
                    self._look_after()
                except Exception:
                    log.exception("accepting failed inside the target")
                    self._stopping.wait(ACCEPT_RETRY_SECONDS)

    def _look_after_waiting(self) -> None:
        """On a thread of its own, since a logical unit that is busy is waited for."""
        while not self._stopping.is_set():
            self._look_at_waiting.wait(UPKEEP_SECONDS)
            self._look_at_waiting.clear()
            try:
                self._table.look_at_waiting(lambda waiting: waiting.may_wait(self._context.directory))
            except Exception:
                log.exception("a nexus that waits could not be looked at")

    def _accept_some(self, selector: selectors.BaseSelector) -> None:
        for key, _ in selector.select(UPKEEP_SECONDS):
            if isinstance(key.fileobj, socket.socket) and key.data is not None:
                self._accept(key.fileobj, key.data)

    def _look_after(self) -> None:
        """What has its time: views that end, lines of the log that were left out."""
        if monotonic() < self._next_upkeep:
            return
        self._next_upkeep = monotonic() + UPKEEP_SECONDS
        now = time()
        for member in self._table.members():
            view = member.session.view if member.session is not None else None
            if view is not None and view.ends_at is not None and view.ends_at <= now:
                member.look_again()
        for lines in (self._context.failure_lines, self._context.session_lines):
            for peer, count in lines.left_out():
                log.warning("lines left out", peer=peer, left_out=count)

    def _accept(self, listener: socket.socket, portal: Portal) -> None:
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return  # the peer gave up between select() and accept()
        except OSError as error:
            self._not_accepted("", portal, error)
            self._stopping.wait(ACCEPT_RETRY_SECONDS)
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(ServedConnection(self._context, portal, sock))
        except (OSError, RuntimeError, MemoryError) as error:
            # OSError: the peer is gone already. RuntimeError: no thread to be had, or too many connections.
            self._not_accepted(peer[0], portal, error)
            sock.close()

    def _not_accepted(self, peer: str, portal: Portal, error: Exception) -> None:
        if (more := self._context.failure_lines.admit(peer)) is not None:
            at = format_address(portal.host, portal.port)
            log.warning("connection not accepted", peer=peer, portal=at, reason=str(error), **more)

    def _start(self, connection: ServedConnection) -> None:
        thread = threading.Thread(target=self._run, args=(connection,), name="iscsi connection", daemon=True)
        with self._lock:
            self._make_room()
            self._connections[connection] = thread
            self._pending_logins[connection] = None
        try:
            thread.start()
        except RuntimeError:
            self._forget(connection)
            raise

    def _make_room(self) -> None:
        """An honest login takes milliseconds. So the oldest of too many gives way, and nobody who connects and then
        stays silent can keep the others out. Raises RuntimeError when those who gave way are not gone yet."""
        pending, limit = self._pending_logins, self._limits.pending_logins
        most = self._limits.sessions + 2 * (limit + self._limits.discovery_sessions)
        if len(self._connections) >= min(most, _descriptors_allow()):
            raise RuntimeError(f"{len(self._connections)} connections are open already")
        if len(pending) >= limit:
            oldest = next(iter(pending))
            del pending[oldest]
            oldest.close("too many logins at once")

    def _run(self, connection: ServedConnection) -> None:
        try:
            connection.run(lambda: self._login_over(connection))
        finally:
            self._forget(connection)

    def _login_over(self, connection: ServedConnection) -> None:
        with self._lock:
            self._pending_logins.pop(connection, None)

    def _forget(self, connection: ServedConnection) -> None:
        with self._lock:
            self._pending_logins.pop(connection, None)
            self._connections.pop(connection, None)


def _descriptors_allow() -> int:
    """How many connections the process may have, so that storage never lacks a descriptor for their sake."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (allowed - min(RESERVED_DESCRIPTORS, allowed // 2)) // DESCRIPTORS_PER_CONNECTION)


def _listen(portal: Portal) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        portal.host, portal.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # an IPv4 portal may have the same port
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
