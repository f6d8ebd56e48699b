"""A verb at work for one request, as the event loop sees it: its progress and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from appliance.web.backend import Backend
from appliance.web.job import VerbEnd, VerbJob, VerbProgress

QUIET_SECONDS = 15.0


class Work:
    """start() it, take its events() to the end; cancel() stops it at its next report."""

    def __init__(self, backend: Backend, job: VerbJob) -> None:
        self._backend = backend
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[VerbProgress | VerbEnd] = asyncio.Queue()
        self._cancel: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Raises OperatorError when too much is at work."""
        self._cancel = self._backend.begin(self._job, self._post)

    def cancel(self) -> None:
        """Whoever asked is gone."""
        self._cancel()

    async def events(self) -> AsyncIterator[VerbProgress | VerbEnd | None]:
        """Reports, then Ended; None when there was nothing for QUIET_SECONDS."""
        while True:
            try:
                event = await asyncio.wait_for(self._events.get(), QUIET_SECONDS)
            except TimeoutError:
                yield None
                continue
            yield event
            if isinstance(event, VerbEnd):
                return

    async def ended(self) -> VerbEnd:
        """Its end."""
        while True:
            event = await self._events.get()
            if isinstance(event, VerbEnd):
                return event

    def _post(self, event: VerbProgress | VerbEnd) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop has ended, and with it whoever would hear of it
            self._cancel()
