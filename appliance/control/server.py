"""The control socket: the HTTP API on a Unix socket in the library. Who may open it may operate the library: its mode
is 0660, so that is the daemon's user and group.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.access.caller import CALLER_KEY, OWNER
from appliance.control.http_server import HttpServer
from appliance.control.protocol import Protocol
from appliance.library.control_socket import bind, refuse_another_file

LIMIT_CONNECTIONS = 64


class ControlServer(HttpServer):
    """Serves an ASGI application at `path`. The caller holds the library's lock, so a socket left behind by a killed
    daemon is replaced. make_app: takes half a second, so it is called by the server's own thread, and requests wait for
    it while initiators are served already."""

    def __init__(self, path: Path, make_app: Callable[[], Any], stopping: threading.Event) -> None:
        self._path = path
        app = _Later(make_app)
        self._make_app = app.make
        self._listener = socket.socket(socket.AF_UNIX)
        super().__init__("control", _as_owner(app), stopping, limit_concurrency=LIMIT_CONNECTIONS)

    def start(self) -> None:
        """Raises OSError when the socket cannot be made."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        refuse_another_file(self._path)
        self._path.unlink(missing_ok=True)
        bind(self._listener, self._path)
        self._path.chmod(0o660)  # before listen(): nobody has connected under the default mode
        self._listener.setblocking(False)
        self._listener.listen(LIMIT_CONNECTIONS)
        self.start_thread()

    def stop(self) -> None:
        """No more requests. What is being answered gets STOP_SECONDS to end, then it is cut off."""
        self._path.unlink(missing_ok=True)
        super().stop()
        self._listener.close()

    async def serve(self) -> None:
        self._make_app()
        await self.serve_on(self._listener)

    def accepted(self, connection: socket.socket, address: Any) -> "asyncio.Task[None]":
        """Where LIMIT_CONNECTIONS are open, it is answered so."""
        return asyncio.create_task(self._connect(connection))

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except BaseException:
            connection.close()
            raise

    def _protocol(self) -> Protocol:
        # lifespan "off" has no state that requests could share.
        return Protocol(config=self.config, server_state=self.server.server_state, app_state={})


class _Later:
    """An ASGI application that is made after its server."""

    def __init__(self, make_app: Callable[[], Any]) -> None:
        self._make_app = make_app

    def make(self) -> None:
        self._app = self._make_app()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


def _as_owner(app: Any) -> Any:
    async def asked_by_the_owner(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, CALLER_KEY: OWNER}, receive, send)

    return asked_by_the_owner
