"""The API on TCP: TLS, or a loopback address. Connections are counted from the moment they are accepted, so that a TLS
handshake that never ends holds a seat for HANDSHAKE_SECONDS and no longer, and a stranger without a token for
STRANGER_SECONDS.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from appliance.access.caller import CONNECTION_KEY
from appliance.control.http_server import HttpServer
from appliance.control.protocol import TRANSFER_SECONDS, Protocol
from appliance.control.seats import Seat, Seats
from appliance.settings.certificate import CertificateError, tls_context
from appliance.settings.sections import ApiSettings
from appliance.settings.units import HostAndPort

log = structlog.get_logger(__name__)

Malformed = Callable[[str], Coroutine[Any, Any, None]]

BACKLOG: Final = 128
HANDSHAKE_SECONDS = 5.0
STRANGER_SECONDS = 10.0
RENEWAL_SECONDS = 30.0  # how often it is looked whether the certificate has been replaced
SEND_BUFFER_BYTES: Final = 256 << 10  # what the kernel keeps for a client that does not read


class ApiServer(HttpServer):
    """Serves an ASGI application at [api] listen."""

    def __init__(
        self, settings: ApiSettings, app: Any, stopping: threading.Event, malformed: Malformed | None = None
    ) -> None:
        """malformed(peer): told of what is no HTTP. Raises CertificateError."""
        self.malformed = malformed
        self._settings = settings
        self._tls = _Renewed(settings) if settings.certificate else None
        self._listener: socket.socket | None = None
        self._seats = Seats()
        super().__init__("api", app, stopping)

    def start(self) -> str:
        """Where it listens. Raises OSError."""
        self.start_on(listening(self._settings.listen))
        assert self._listener is not None
        return url_of(self._settings, self._listener)

    def start_on(self, listener: socket.socket) -> None:
        """The same with a socket that listens already; it is closed in the end."""
        self._listener = listener
        self._listener.setblocking(False)
        self.start_thread()

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._seats.taken

    async def serve(self) -> None:
        assert self._listener is not None
        with self._listener:
            await self.serve_on(self._listener)

    def accepted(self, connection: socket.socket, address: Any) -> "asyncio.Task[None] | None":
        """Takes a seat for it."""
        seat = self._seats.take(address[0])
        if seat is None:
            connection.close()
            log.warning("the API has no place for another connection", peer=address[0])
            return None
        task = asyncio.create_task(self._connect(connection, seat))
        seat.end = task.cancel
        return task

    async def _connect(self, connection: socket.socket, seat: Seat) -> None:
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": self._tls.context(), "ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 2.0}
        try:
            _bound(connection)
            await loop.connect_accepted_socket(lambda: _Protocol(seat, self), connection, **tls)
        except OSError:  # TLS that was not, or went wrong: of ssl.SSLError too
            seat.leave()
            connection.close()
        except BaseException:
            seat.leave()
            connection.close()
            raise


class _Protocol(Protocol):
    """A connection with its seat."""

    def __init__(self, seat: Seat, api: ApiServer) -> None:
        # lifespan "off" has no state that requests could share.
        super().__init__(config=api.config, server_state=api.server.server_state, app_state={})
        self._seat = seat
        self._api = api

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._seat.end = transport.abort
        self.loop.call_later(STRANGER_SECONDS, self._send_strangers_away)

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:  # the application has not begun yet: it runs at the loop's next turn
            self.scope.setdefault(CONNECTION_KEY, self._seat)  # type: ignore[typeddict-item]

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        if self._api.malformed is not None:
            task = self.loop.create_task(self._api.malformed(self._seat.peer))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        self._seat.leave()
        super().connection_lost(exc)

    def _send_strangers_away(self) -> None:
        if not self._seat.known:
            self.transport.abort()


class _Renewed:
    """TLS with the certificate that the files hold: who renews it replaces them, and nothing has to be restarted."""

    def __init__(self, settings: ApiSettings) -> None:
        assert settings.certificate is not None
        assert settings.key is not None
        self._files = settings.certificate, settings.key
        self._context = tls_context(*self._files)
        self._version = self._stamps()
        self._look_at = 0.0

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            self._look_at = now + RENEWAL_SECONDS
            self._reload()
        return self._context

    def _reload(self) -> None:
        if (version := self._stamps()) == self._version:
            return
        self._version = version
        try:
            self._context = tls_context(*self._files)
            log.info("the API has a new certificate", certificate=str(self._files[0]))
        except CertificateError as error:
            log.error("the API keeps its old certificate", reason=str(error))

    def _stamps(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [path.stat().st_mtime_ns for path in self._files]
        return []


def url_of(settings: ApiSettings, listener: socket.socket) -> str:
    """Where clients find it."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if settings.certificate else 'http'}://{HostAndPort(host, port)}"


def listening(address: HostAndPort) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server(tuple(address), family=family, backlog=BACKLOG)


def _bound(connection: socket.socket) -> None:
    """What the kernel does for a client that is gone or does not read has an end, too."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TRANSFER_SECONDS * 1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
