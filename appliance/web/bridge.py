"""The daemon's end of the channel to the process of the API: asks the library what comes through it.

A thread reads; what blocks is done by threads of its own, which are kept for the next request.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

import structlog

from appliance.access.tokens import Token
from appliance.failures import Failure, OperatorError
from appliance.web.channel import Channel
from appliance.web.job import VerbEnd, VerbJob, VerbProgress, caller_to_json
from appliance.web.service import Service
from vlib_images.library.database.events import Event

log = structlog.get_logger(__name__)

IDLE_SECONDS: Final = 10.0


class Workers:
    """Threads that do one thing after another, as many as are needed at once; an idle one ends after a while."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def do(self, what: Callable[[], None]) -> None:
        """Soon. Raises RuntimeError when no thread can be had."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._waiting.put(what)
                return
        # A daemon thread: a verb that hangs in a drive must not keep the process from ending.
        threading.Thread(target=self._run, args=(what,), name=self._name, daemon=True).start()

    def _run(self, what: Callable[[], None]) -> None:
        while True:
            what()
            with self._lock:
                self._idle += 1
            try:
                what = self._waiting.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._idle -= 1
                        return
                what = self._waiting.get()


class Bridge:
    """Serves one process of the API until it is gone, or close()."""

    def __init__(self, service: Service, channel: Channel) -> None:
        self._service = service
        self._channel = channel
        self._cancelled: dict[int, threading.Event] = {}
        self._workers = Workers("api verb")

    def run(self) -> None:
        """In a thread of its own; returns when the other side is gone."""
        while (message := self._channel.receive()) is not None:
            self._take(message[0])
        for cancelled in list(self._cancelled.values()):
            cancelled.set()

    def push(self, what: str) -> None:
        """Tell the other side: there are other "events", or "tokens"."""
        self._channel.send({"push": what})

    def _take(self, asked: dict[str, Any]) -> None:
        number = asked["id"]
        match asked["do"]:
            case "cancel":
                if (cancelled := self._cancelled.get(number)) is not None:
                    cancelled.set()
            case "token":  # a look into memory: no thread is worth it
                self._answer(number, {"token": _token_to_json(self._service.token(asked["digest"]))})
            case "verb":
                self._begin(number, asked["job"])
            case _:
                self._do(number, lambda: self._look(number, asked))

    def _begin(self, number: int, job: dict[str, Any]) -> None:
        try:
            self._service.take_place()
        except OperatorError as error:
            self._end(number, VerbEnd(error=error))
            return
        cancelled = self._cancelled[number] = threading.Event()

        def work() -> None:
            try:
                ended = self._service.run(VerbJob.of_json(job), lambda report: self._report(number, report), cancelled)
            finally:
                self._service.leave_place()
                del self._cancelled[number]
            self._end(number, ended)

        if not self._do(number, work):
            self._service.leave_place()
            del self._cancelled[number]

    def _do(self, number: int, what: Callable[[], None]) -> bool:
        """Whether there is a thread for it; what it raises is an internal error."""

        def guarded() -> None:
            try:
                what()
            except Exception as error:
                log.exception("the API was not answered")
                message = f"internal error ({type(error).__name__}); the daemon's log has the details"
                self._end(number, VerbEnd(error=OperatorError(Failure.INTERNAL, message)))

        try:
            self._workers.do(guarded)
        except RuntimeError as error:
            message = f"the daemon has no thread to spare: {error}; try again"
            self._end(number, VerbEnd(error=OperatorError(Failure.BUSY, message)))
            return False
        return True

    def _look(self, number: int, asked: dict[str, Any]) -> None:
        match asked["do"]:
            case "ends":
                self._answer(number, {"ends": self._service.ends()})
            case "events":
                rows = self._service.events_after(asked["after"], asked["count"], asked["action"], asked["subject"])
                self._answer(number, {}, json.dumps([dataclasses.astuple(row) for row in rows]).encode())
            case "tell":
                self._service.tell(asked["actor"], Event(asked["action"], asked["subject"], asked["details"]))
                self._answer(number, {})
            case "figures":
                self._answer(number, {}, self._service.figures())

    def _report(self, number: int, report: VerbProgress) -> None:
        self._channel.send({"id": number, "report": [report.done, report.total]})

    def _end(self, number: int, ended: VerbEnd) -> None:
        self._channel.send({"id": number, "ended": ended.to_json()}, ended.content)

    def _answer(self, number: int, head: dict[str, Any], body: bytes = b"") -> None:
        self._channel.send({"id": number, **head}, body)


def _token_to_json(token: Token | None) -> list[Any] | None:
    if token is None:
        return None
    return [token.name, token.digest, caller_to_json(token.caller), token.created_at_ms, token.expires_at_ms]
