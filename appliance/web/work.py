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
from appliance.operations.verb import Cancelled, OnLibrary, Parameters, Verb, Window
from appliance.operations.versions import tag_of
from appliance.progress import Progress
from appliance.web.idempotency import AnotherRequest, IdempotencyKeys, Once

log = structlog.get_logger(__name__)

REPORTS_PER_SECOND = 20
QUIET_SECONDS = 15.0
LIMIT_AT_WORK = 128  # verbs of clients on TCP; the owner's socket has a limit of its own

_places = threading.Semaphore(LIMIT_AT_WORK)


@dataclass(frozen=True, slots=True)
class Report:
    """Progress of a verb."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Its end: a result with its entity tag, or what went wrong, with the HTTP status where that is not the code's;
    unsure: something may have been done all the same."""

    result: Any = None
    error: OperatorError | None = None
    tag: str | None = None
    status: int | None = None
    unsure: bool = False

    def to_json(self) -> dict[str, Any]:
        """For who asks again."""
        if self.error is None:
            return {"result": self.result, "tag": self.tag}
        return {"error": str(self.error), "code": self.error.failure.code}

    @classmethod
    def of_json(cls, answer: dict[str, Any]) -> Ended:
        """What to_json() made."""
        if "too_long" in answer:
            message = "it was done with this Idempotency-Key before; its answer was too long to be kept"
            return cls(error=OperatorError(Failure.REFUSED, message))
        if "error" in answer:
            return cls(error=OperatorError(Failure.of_code(answer["code"]), answer["error"]))
        return cls(answer["result"], tag=answer["tag"])


MakeContext = Callable[[Progress], OnLibrary]


@dataclass(frozen=True)
class Job:
    """What is asked for, and by whom."""

    verb: Verb
    parameters: Parameters
    caller: Caller
    window: Window | None = None
    if_match: str = ""
    once: Once | None = None


class Work:
    """start() it, take its events() to the end; cancel() stops it at its next report."""

    def __init__(
        self, job: Job, make_context: MakeContext, stopping: threading.Event, keys: IdempotencyKeys | None
    ) -> None:
        self._job = job
        self._make_context = make_context
        self._stopping = stopping
        self._keys = keys
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Report | Ended] = asyncio.Queue()
        self._next_report = 0.0

    def start(self) -> None:
        """Raises OperatorError when no thread can be had, or too many verbs are at work."""
        if not _places.acquire(blocking=False):
            raise OperatorError(Failure.BUSY, f"{LIMIT_AT_WORK} requests are at work; try again")
        # A daemon thread: a verb that hangs in a drive must not keep the process from ending.
        thread = threading.Thread(target=self._run, name=f"verb {self._job.verb.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _places.release()
            raise OperatorError(Failure.BUSY, f"the daemon has no thread to spare: {error}; try again") from None

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
            ended = self._done() if self._job.once is None or self._keys is None else self._done_once(self._job.once)
        finally:
            _places.release()
        self._post(ended)

    def _done_once(self, once: Once) -> Ended:
        assert self._keys is not None
        try:
            if (answer := self._keys.begin(once)) is not None:
                return Ended.of_json(answer)
            ended = self._done()
            if ended.error is None or ended.unsure:
                self._keys.finish(once, ended.to_json())
            else:
                self._keys.forget(once)
        except AnotherRequest:
            message = "this Idempotency-Key came with another request before; each request needs its own"
            return Ended(error=OperatorError(Failure.USAGE, message), status=409)
        except OperatorError as error:
            return Ended(error=error)
        except OSError as error:
            log.error("an idempotency key cannot be kept", verb=self._job.verb.name, reason=str(error))
            message = f"the Idempotency-Key cannot be kept ({error}); look whether it was done"
            return Ended(error=OperatorError(Failure.REFUSED, message))
        return ended

    def _done(self) -> Ended:
        job = self._job
        try:
            made = self._make_context(self._progress)
            context = dataclasses.replace(made, caller=job.caller, window=job.window)
            result = perform(job.verb, context, job.parameters, job.if_match)
            return Ended(result, tag=tag_of(job.verb, result))
        except OperatorError as error:
            # What was understood and cannot be is a conflict: 422 is for what is not as the document says.
            return Ended(error=error, status=409 if error.failure is Failure.USAGE else None)
        except Cancelled:
            log.warning("a verb was stopped half-way", verb=job.verb.name)
            message = f"{job.verb.name} was stopped half-way; what was done so far stays"
            return Ended(error=OperatorError(Failure.REFUSED, message), unsure=True)
        except Exception as error:
            log.exception("a verb failed", verb=job.verb.name)
            message = f"internal error ({type(error).__name__}); the daemon's log has the details"
            return Ended(error=OperatorError(Failure.INTERNAL, message), unsure=True)

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
