"""The control socket: the HTTP API on a Unix socket in the library. Who may open it may operate the library: its mode
is 0660, so that is the daemon's user and group.

It has a thread and an event loop of its own, so that nothing of it runs between an initiator and its data.
"""

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from appliance.control.client import reachable

log = structlog.get_logger(__name__)

LIMIT_CONNECTIONS = 64
IDLE_SECONDS = 60
STOP_SECONDS = 5


class _Protocol(H11Protocol):
    """Closes a connection that asks for nothing, as uvicorn does with one that asks for nothing more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_SECONDS, self.timeout_keep_alive_handler)


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
        self._path.unlink(missing_ok=True)
        with reachable(self._path) as name:
            self._listener.bind(name)
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
