"""What the API counts of itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ApiFigures:
    """answers: by status. at_work: requests that are being answered. streams: asks how many event streams are open."""

    def __init__(self, streams: Callable[[], int] = lambda: 0) -> None:
        self._lock = threading.Lock()
        self.answers: Counter[int] = Counter()
        self.at_work = 0
        self.streams = streams

    def answered(self, status: int) -> None:
        """An answer has begun."""
        with self._lock:
            self.answers[status] += 1

    @contextmanager
    def working(self) -> Iterator[None]:
        """A request is being answered in the block."""
        with self._lock:
            self.at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self.at_work -= 1


class Counted:
    """Counts the answers of an application."""

    def __init__(self, app: ASGIApp, figures: ApiFigures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._figures.answered(message["status"])
            await send(message)

        with self._figures.working():
            await self._app(scope, receive, counted)
