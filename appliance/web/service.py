"""What the API asks of the library: the side that blocks on drives, files and the database. Thread-safe.

It imports no HTTP: requests that come by TCP are taken apart in another process (front.py), which asks through a
socket (bridge.py), so that neither they nor TLS take this one's time.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from appliance.access.tokens import Token
from appliance.failures import Failure, OperatorError
from appliance.operations.perform import perform
from appliance.operations.verb import Cancelled, OnLibrary
from appliance.operations.versions import tag, tag_of
from appliance.progress import Progress, no_progress
from appliance.web.idempotency import AnotherRequest, IdempotencyKeys, Once, StillAtWork
from appliance.web.job import VerbEnd, VerbJob, VerbProgress, in_json
from appliance.web.metrics import Exposition
from appliance.web.pages import page
from vlib_images.library.actor import acting_as
from vlib_images.library.database import events
from vlib_images.library.database.events import Event, RecordedEvent

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles

log = structlog.get_logger(__name__)

REPORTS_PER_SECOND = 20
LIMIT_AT_WORK = 128

MakeContext = Callable[[Progress], OnLibrary]


class Service:
    """files: whose tokens let in, whose audit record is told and read; None: there are only the owner's verbs."""

    def __init__(self, make_context: MakeContext, stopping: threading.Event, files: LibraryFiles | None) -> None:
        self._make_context = make_context
        self.stopping = stopping
        self._files = files
        self._keys = None if files is None else IdempotencyKeys(files.database)
        self._places = threading.Semaphore(LIMIT_AT_WORK)
        self._exposition = Exposition(lambda: make_context(no_progress).library)

    # ---- verbs -------------------------------------------------------------------------------------------------------

    def take_place(self) -> None:
        """Before start() of a thread that does run(). Raises OperatorError BUSY."""
        if not self._places.acquire(blocking=False):
            raise OperatorError(Failure.BUSY, f"{LIMIT_AT_WORK} requests are at work; try again")

    def leave_place(self) -> None:
        """What was taken."""
        self._places.release()

    def run(self, job: VerbJob, report: Callable[[VerbProgress], None], cancelled: threading.Event) -> VerbEnd:
        """Does it; never raises. report() is called at most REPORTS_PER_SECOND times a second."""
        if job.digest and self.token(job.digest) is None:
            return VerbEnd(
                error=OperatorError(Failure.NOT_PERMITTED, "the token has been revoked or expired"), status=401
            )
        if job.once is None or self._keys is None:
            return self._done(job, report, cancelled)
        return self._done_once(job, job.once, self._keys, report, cancelled)

    def _done_once(
        self,
        job: VerbJob,
        once: Once,
        keys: IdempotencyKeys,
        report: Callable[[VerbProgress], None],
        cancelled: threading.Event,
    ) -> VerbEnd:
        try:
            if (answer := keys.begin(once)) is not None:
                return _kept(answer)
            ended = self._done(job, report, cancelled)
            if ended.error is None or ended.unsure:
                keys.finish(once, {**ended.to_json(), "content": ended.content.decode()})
            else:
                keys.forget(once)
        except AnotherRequest:
            message = "this Idempotency-Key came with another request before; each request needs its own"
            return VerbEnd(error=OperatorError(Failure.USAGE, message), status=409)
        except OperatorError as error:
            return VerbEnd(error=error, status=409 if isinstance(error, StillAtWork) else None)
        except OSError as error:
            log.error("an idempotency key cannot be kept", verb=job.verb.name, reason=str(error))
            message = f"the Idempotency-Key cannot be kept ({error}); look whether it was done"
            return VerbEnd(error=OperatorError(Failure.REFUSED, message))
        return ended

    def _done(self, job: VerbJob, report: Callable[[VerbProgress], None], cancelled: threading.Event) -> VerbEnd:
        try:
            made = self._make_context(_Reporter(report, cancelled, self.stopping))
            context = dataclasses.replace(made, caller=job.caller, window=job.window)
            result = perform(job.verb, context, job.parameters, job.if_match)
            if job.window is not None:
                result = page(job.verb, result, job.window)
                return VerbEnd(in_json(result), tag=tag(result))
            return VerbEnd(in_json(result), tag=tag_of(job.verb, result))
        except OperatorError as error:
            # What was understood and cannot be is a conflict: 422 is for what is not as the document says.
            return VerbEnd(error=error, status=409 if error.failure is Failure.USAGE else None)
        except Cancelled:
            log.warning("a verb was stopped half-way", verb=job.verb.name)
            message = f"{job.verb.name} was stopped half-way; what was done so far stays"
            return VerbEnd(error=OperatorError(Failure.REFUSED, message), unsure=True)
        except Exception as error:
            log.exception("a verb failed", verb=job.verb.name)
            message = f"internal error ({type(error).__name__}); the daemon's log has the details"
            return VerbEnd(error=OperatorError(Failure.INTERNAL, message), unsure=True)

    # ---- tokens, events, figures -------------------------------------------------------------------------------------

    def token(self, digest: str) -> Token | None:
        """The token with that SHA-256, if it opens anything."""
        return None if self._files is None else self._files.tokens.with_digest(digest)

    def watch_tokens(self, told: Callable[[], None]) -> None:
        """Call told() when a token was made or revoked; it must not wait."""
        if self._files is not None:
            self._files.tokens.watch(told)

    def tell(self, actor: str, event: Event) -> None:
        """Writes a line into the audit record; never raises."""
        if self._files is None:
            return
        log.info(event.action, actor=actor, subject=event.subject, **event.details)
        try:
            with acting_as(actor), self._files.database.change(event):
                pass
        except OSError as error:
            log.error("a refused request is not in the audit record", reason=str(error))

    def watch(self, told: Callable[[], None]) -> None:
        """Call told() when there is another event, in whatever thread; it must not wait."""
        if self._files is not None:
            self._files.database.watch(lambda _number: told())

    def ends(self) -> tuple[int, int]:
        """The numbers of the newest event, and of the newest that is no longer kept."""
        assert self._files is not None
        with self._files.database.read() as connection:
            return events.newest_number(connection), events.pruned_to(connection)

    def events_after(self, number: int, count: int, action: str, subject: str) -> list[RecordedEvent]:
        """Those that follow."""
        assert self._files is not None
        with self._files.database.read() as connection:
            return events.after(connection, number, count, action=action, subject=subject)

    def figures(self) -> bytes:
        """The library's, for Prometheus."""
        return self._exposition.content()


class _Reporter:
    """The progress of one verb."""

    def __init__(
        self, report: Callable[[VerbProgress], None], cancelled: threading.Event, stopping: threading.Event
    ) -> None:
        self._report = report
        self._cancelled = cancelled
        self._stopping = stopping
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if self._cancelled.is_set() or self._stopping.is_set():
            raise Cancelled
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1 / REPORTS_PER_SECOND
            self._report(VerbProgress(done, total))


def _kept(answer: Any) -> VerbEnd:
    """What was answered the first time."""
    if "too_long" in answer:
        message = "it was done with this Idempotency-Key before; its answer was too long to be kept"
        return VerbEnd(error=OperatorError(Failure.REFUSED, message))
    return VerbEnd.of_json(answer, json.dumps(json.loads(answer["content"]), separators=(",", ":")).encode())
