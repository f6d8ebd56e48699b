"""A verb at work for one request: in a thread of its own, its progress and its end handed to the event loop.

Verbs block: on drives, on files. The loop never does, so that a long verb holds nobody up. Of its progress at most
REPORTS_PER_SECOND reports go to the loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from appliance.access.caller import Caller
from appliance.failures import Failure, OperatorError
from appliance.operations.perform import perform
from appliance.operations.verb import Cancelled, OnLibrary, Parameters, Verb
from appliance.progress import Progress

log = structlog.get_logger(__name__)

REPORTS_PER_SECOND = 20
QUIET_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Report:
    """Progress of a verb."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Its end: a result, or what went wrong."""

    result: Any = None
    error: OperatorError | None = None


MakeContext = Callable[[Progress], OnLibrary]


class Work:
    """start() it, take its events() to the end; cancel() stops it at its next report."""

    def __init__(
        self,
        verb: Verb,
        parameters: Parameters,
        make_context: MakeContext,
        stopping: threading.Event,
        caller: Caller,
    ) -> None:
        self._verb = verb
        self._parameters = parameters
        self._make_context = make_context
        self._caller = caller
        self._stopping = stopping
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Report | Ended] = asyncio.Queue()
        self._next_report = 0.0

    def start(self) -> None:
        """Raises OperatorError when no thread can be had."""
        # A daemon thread: a verb that hangs in a drive must not keep the process from ending.
        thread = threading.Thread(target=self._run, name=f"verb {self._verb.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OperatorError(Failure.REFUSED, f"the daemon has no thread to spare: {error}; try again") from None

    def cancel(self) -> None:
        """Whoever asked is gone."""
        self._cancelled.set()

    async def events(self) -> AsyncIterator[Report | Ended | None]:
        """Reports, then Ended; None when there was nothing for QUIET_SECONDS."""
        while True:
            try:
                event = await asyncio.wait_for(self._events.get(), QUIET_SECONDS)
            except TimeoutError:
                yield None
                continue
            yield event
            if isinstance(event, Ended):
                return

    def _run(self) -> None:
        try:
            context = dataclasses.replace(self._make_context(self._progress), caller=self._caller)
            ended = Ended(perform(self._verb, context, self._parameters))
        except OperatorError as error:
            ended = Ended(error=error)
        except Cancelled:
            log.warning("a verb was stopped half-way", verb=self._verb.name)
            message = f"{self._verb.name} was stopped half-way; what was done so far stays"
            ended = Ended(error=OperatorError(Failure.REFUSED, message))
        except Exception as error:
            log.exception("a verb failed", verb=self._verb.name)
            message = f"internal error ({type(error).__name__}); the daemon's log has the details"
            ended = Ended(error=OperatorError(Failure.INTERNAL, message))
        self._post(ended)

    def _progress(self, done: int, total: int) -> None:
        if self._cancelled.is_set() or self._stopping.is_set():
            raise Cancelled
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + 1 / REPORTS_PER_SECOND
            self._post(Report(done, total))

    def _post(self, event: Report | Ended) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop has ended, and with it whoever would hear of it
            self._cancelled.set()
