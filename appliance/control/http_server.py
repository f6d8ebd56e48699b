"""An HTTP server with a thread and an event loop of its own, so that nothing of it runs between an initiator and its
data."""

import asyncio
import threading
from typing import Any

import structlog
import uvicorn

from appliance.control.protocol import IDLE_SECONDS, LIMIT_HEAD_BYTES, Protocol

log = structlog.get_logger(__name__)

STOP_SECONDS = 5


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
            h11_max_incomplete_event_size=LIMIT_HEAD_BYTES,
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

    def _run(self) -> None:
        try:
            asyncio.run(self.serve())
        except Exception:
            log.exception(f"{self._name} ended; the library is served on, and stops at SIGTERM")
