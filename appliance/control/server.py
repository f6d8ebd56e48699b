"""The control socket: the HTTP API on a Unix socket in the library. Who may open it may operate the library: its mode
is 0660, so that is the daemon's user and group.

It has a thread and an event loop of its own, so that nothing of it runs between an initiator and its data.
"""

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from appliance.library.control_socket import bind, refuse_another_file

log = structlog.get_logger(__name__)

LIMIT_CONNECTIONS = 64
IDLE_SECONDS = 60
TRANSFER_SECONDS = 30  # for a request to arrive whole, and for what is sent at once to be taken
STOP_SECONDS = 5


class _Protocol(H11Protocol):
    """uvicorn's, with an end to every wait for a client: one that asks for nothing, one that does not finish what it
    asks, one that does not read the answer. Each holds one of LIMIT_CONNECTIONS places."""

    _request_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # writing pauses while anything is unsent
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_SECONDS, self.timeout_keep_alive_handler)

    def handle_events(self) -> None:
        super().handle_events()
        begun = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if not begun or self.conn.their_state is h11.DONE:
            self._request_timer = _cancelled(self._request_timer)
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(TRANSFER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_timer = self.loop.call_later(TRANSFER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_timer = _cancelled(self._answer_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._request_timer, self._answer_timer = _cancelled(self._request_timer), _cancelled(self._answer_timer)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, which is what stands for a timer that does not run."""
    if timer is not None:
        timer.cancel()
    return None


class ControlServer:
    """Serves an ASGI application at `path`. The caller holds the library's lock, so a socket left behind by a killed
    daemon is replaced. stopping: set by stop(), for what the application has at work."""

    def __init__(self, path: Path, app: Any, stopping: threading.Event) -> None:
        self._path = path
        self._stopping = stopping
        self._listener = socket.socket(socket.AF_UNIX)
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=LIMIT_CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Raises OSError when the socket cannot be made."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        refuse_another_file(self._path)
        self._path.unlink(missing_ok=True)
        bind(self._listener, self._path)
        self._path.chmod(0o660)  # before listen(): nobody has connected under the default mode
        self._listener.listen(LIMIT_CONNECTIONS)
        self._thread.start()

    def stop(self) -> None:
        """No more requests. What is being answered gets STOP_SECONDS to end, then it is cut off."""
        self._path.unlink(missing_ok=True)
        self._stopping.set()
        self._server.should_exit = True
        self._thread.join(2 * STOP_SECONDS)
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._listener]))
        except Exception:
            log.exception("the control socket ended; the library is served on, and stops at SIGTERM")
