"""The library behind a channel, for the event loop of the process of the API."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog

from appliance.access.tokens import Token
from appliance.failures import Failure, OperatorError
from appliance.web.backend import VerbListener
from appliance.web.channel import Channel
from appliance.web.job import VerbEnd, VerbJob, VerbProgress, caller_of_json
from vlib_images.library.database.events import Event, RecordedEvent

log = structlog.get_logger(__name__)

TOKEN_SECONDS: Final = 2.0  # so long a token is remembered; the daemon says at once when one is revoked
MOST_TOKENS: Final = 1000

_Taken = Callable[[dict[str, Any], bytes], None]


class RemoteBackend:
    """run() in a thread; the rest is for the event loop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Taken] = {}
        self._watchers: list[Callable[[], None]] = []
        self._tokens: dict[str, tuple[Token, float]] = {}
        self._gone = threading.Event()

    def run(self) -> None:
        """Takes what the daemon says; returns when it is gone."""
        while (message := self._channel.receive()) is not None:
            head, body = message
            if "push" in head:
                self._pushed(head["push"])
            elif (taken := self._waiting.get(head["id"])) is not None:
                taken(head, body)
        self._gone.set()
        lost = {"ended": {"error": "the daemon is gone", "code": Failure.NOT_RUNNING.code, "status": None}}
        for taken in list(self._waiting.values()):
            taken(lost, b"")

    def _pushed(self, what: str) -> None:
        if what == "tokens":
            self._tokens.clear()
            return
        for told in self._watchers:
            told()

    # ---- Backend -----------------------------------------------------------------------------------------------------

    def begin(self, job: VerbJob, told: VerbListener) -> Callable[[], None]:
        number = next(self._numbers)

        def taken(head: dict[str, Any], body: bytes) -> None:
            if "report" in head:
                told(VerbProgress(*head["report"]))
                return
            self._waiting.pop(number, None)
            told(VerbEnd.of_json(head["ended"], body))

        self._send(number, taken, {"do": "verb", "job": job.to_json()})
        return lambda: self._cancel(number)

    def _cancel(self, number: int) -> None:
        if number in self._waiting:
            self._channel.send({"id": number, "do": "cancel"})

    async def token(self, digest: str) -> Token | None:
        found = self._tokens.get(digest)
        if found is not None and found[1] > time.monotonic() and not found[0].expired(time.time_ns() // 1_000_000):
            return found[0]
        (told, _) = await self._ask("token", digest=digest)
        if told["token"] is None:
            return None
        name, digest, caller, created_at_ms, expires_at_ms = told["token"]
        token = Token(name, digest, caller_of_json(caller), created_at_ms, expires_at_ms)
        if len(self._tokens) >= MOST_TOKENS:
            self._tokens.clear()
        self._tokens[digest] = token, time.monotonic() + TOKEN_SECONDS
        return token

    async def tell(self, actor: str, event: Event) -> None:
        try:
            await self._ask("tell", actor=actor, action=event.action, subject=event.subject, details=event.details)
        except OperatorError as error:
            log.error("a refused request is not in the audit record", reason=str(error))

    def watch(self, told: Callable[[], None]) -> None:
        self._watchers.append(told)

    async def ends(self) -> tuple[int, int]:
        (told, _) = await self._ask("ends")
        newest, pruned = told["ends"]
        return newest, pruned

    async def events_after(self, number: int, count: int, action: str = "", subject: str = "") -> list[RecordedEvent]:
        (_, rows) = await self._ask("events", after=number, count=count, action=action, subject=subject)
        return [RecordedEvent(*row) for row in json.loads(rows)]

    async def figures(self) -> bytes:
        (_, content) = await self._ask("figures")
        return content

    # ---- asking ------------------------------------------------------------------------------------------------------

    async def _ask(self, what: str, **more: Any) -> tuple[dict[str, Any], bytes]:
        """Raises OperatorError."""
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer: asyncio.Future[tuple[dict[str, Any], bytes]] = loop.create_future()

        def arrived(head: dict[str, Any], body: bytes) -> None:
            if not answer.done():
                answer.set_result((head, body))

        self._send(number, lambda head, body: _call(loop, arrived, head, body), {"do": what, **more})
        try:
            head, body = await answer
        finally:
            self._waiting.pop(number, None)
        if "ended" in head:
            error = VerbEnd.of_json(head["ended"], body).error
            assert error is not None
            raise error
        return head, body

    def _send(self, number: int, taken: _Taken, head: dict[str, Any]) -> None:
        self._waiting[number] = taken
        if not self._channel.send({"id": number, **head}) or self._gone.is_set():
            self._waiting.pop(number, None)
            raise OperatorError(Failure.NOT_RUNNING, "the daemon is gone")


def _call(loop: asyncio.AbstractEventLoop, arrived: _Taken, head: dict[str, Any], body: bytes) -> None:
    with suppress(RuntimeError):  # the loop has ended, and with it whoever waits
        loop.call_soon_threadsafe(arrived, head, body)
