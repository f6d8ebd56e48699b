"""An HTTP server with a thread and an event loop of its own, so that nothing of it runs between an initiator and its
data."""

import asyncio
import socket
import threading
from typing import Any, Final

import structlog
import uvicorn

from appliance.control.protocol import IDLE_SECONDS, Protocol

log = structlog.get_logger(__name__)

STOP_SECONDS = 5
NO_DESCRIPTOR_SECONDS: Final = 0.5


class HttpServer:
    """Serves an ASGI application. stopping: set by stop(), for what the application has at work."""

    def __init__(self, name: str, app: Any, stopping: threading.Event, **options: Any) -> None:
        """options: uvicorn's."""
        self._name = name
        self._stopping = stopping
        self.config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            **options,
        )
        self.server = uvicorn.Server(self.config)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start_thread(self) -> None:
        """After this, requests are answered."""
        self._thread.start()

    def stop(self) -> None:
        """No more requests. What is being answered gets STOP_SECONDS to end, then it is cut off."""
        self._stopping.set()
        self.server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(2 * STOP_SECONDS)

    async def serve(self) -> None:
        """Until stop()."""
        raise NotImplementedError

    def accepted(self, connection: socket.socket, address: Any) -> "asyncio.Task[None] | None":
        """What begins with a new connection; None: there is no place for it, and it has been closed."""
        raise NotImplementedError

    async def serve_on(self, listener: socket.socket) -> None:
        """Until stop(), for connections to a socket that does not block. asyncio's own servers, where no descriptor is
        left, try as often in a row as connections may wait, and log each."""
        accepting = asyncio.create_task(self._accept(listener))
        try:
            await self.server.serve(sockets=[])
        finally:
            accepting.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        while not self.server.should_exit:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:  # no descriptor is left, for example
                log.warning(f"the {self._name} server cannot accept a connection", reason=error.strerror)
                await asyncio.sleep(NO_DESCRIPTOR_SECONDS)
                continue
            task = self.accepted(connection, address)
            if task is None:
                continue
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            # It begins before it may be cancelled, or nothing would close its socket. sock_accept() alone does not
            # let others run while more connections wait.
            await asyncio.sleep(0)

    def _run(self) -> None:
        try:
            asyncio.run(self.serve())
        except Exception:
            log.exception(f"{self._name} ended; the library is served on, and stops at SIGTERM")
