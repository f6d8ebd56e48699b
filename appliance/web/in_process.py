"""The library of this process, for the event loop of the API."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from appliance.access.tokens import Token
from appliance.failures import Failure, OperatorError
from appliance.web.backend import VerbListener
from appliance.web.job import VerbJob
from appliance.web.service import Service
from vlib_images.library.database.events import Event, RecordedEvent


class InProcess:
    """The library of this process; each verb has a thread of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def begin(self, job: VerbJob, told: VerbListener) -> Callable[[], None]:
        service, cancelled = self._service, threading.Event()
        service.take_place()

        def run() -> None:
            try:
                ended = service.run(job, told, cancelled)
            finally:
                service.leave_place()
            told(ended)

        # A daemon thread: a verb that hangs in a drive must not keep the process from ending.
        thread = threading.Thread(target=run, name=f"verb {job.verb.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            service.leave_place()
            raise OperatorError(Failure.BUSY, f"the daemon has no thread to spare: {error}; try again") from None
        return cancelled.set

    async def token(self, digest: str) -> Token | None:
        return self._service.token(digest)

    async def tell(self, actor: str, event: Event) -> None:
        await asyncio.to_thread(self._service.tell, actor, event)

    def watch(self, told: Callable[[], None]) -> None:
        self._service.watch(told)

    async def ends(self) -> tuple[int, int]:
        return await asyncio.to_thread(self._service.ends)

    async def events_after(self, number: int, count: int, action: str = "", subject: str = "") -> list[RecordedEvent]:
        return await asyncio.to_thread(self._service.events_after, number, count, action, subject)

    async def figures(self) -> bytes:
        return await asyncio.to_thread(self._service.figures)
