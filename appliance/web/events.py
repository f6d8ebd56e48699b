"""GET /v1/events: the audit record as it grows, as server-sent events that can be resumed.

Every stream has a position, the number of the last event that it was sent, and goes on from there: out of memory as
long as it keeps up, else out of the table. So nothing is lost, whoever was slow or away, and nothing is kept for
anybody: a client that does not read holds one chunk in memory, until its connection is cut off (control/protocol.py).
Events are read and put into words once for all streams, at most every PAUSE_SECONDS.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

import structlog

from appliance.failures import Failure, OperatorError
from appliance.operations.audit import event_of
from appliance.web.backend import Backend
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.database.events import RecordedEvent

log = structlog.get_logger(__name__)

PAUSE_SECONDS: Final = 0.1  # between two readings: a hundred streams are not woken for each of a hundred events
RETRY_SECONDS: Final = 1.0  # after the table could not be read
STOPPING_SECONDS: Final = 0.5  # so often it is looked whether the server stops
QUIET_SECONDS = 15.0  # then a comment is sent, and it is looked whether the token still opens anything
KEPT_TEXTS: Final = 2000
ROWS_AT_ONCE: Final = 200
CHUNK_BYTES: Final = 64 << 10
LIMIT_STREAMS: Final = 256
LIMIT_STREAMS_OF_A_CALLER: Final = 128
READERS: Final = 2  # streams that read the table at once; the others wait

_UNREADABLE: Final = (OperatorError, OSError, StateDamaged)  # no thread to spare, no descriptor, the disk

StillOpens = Callable[[], Awaitable[bool]]


class Lost(Exception):
    """Events that a stream has not seen are no longer kept."""


class Text(NamedTuple):
    """An event in words."""

    number: int
    action: str
    subject: str
    text: bytes


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a stream gets; "" for any."""

    action: str = ""
    subject: str = ""

    def fits(self, text: Text) -> bool:
        """Whether it is one of them."""
        return self.action in ("", text.action) and self.subject in ("", text.subject)


class Feed:
    """The newest events in words. One for each event loop; only told() is for other threads."""

    def __init__(self, backend: Backend, stopping: threading.Event) -> None:
        self._backend, self._stopping = backend, stopping
        self._loop = asyncio.get_running_loop()
        self._texts: deque[Text] = deque(maxlen=KEPT_TEXTS)
        self._newest: int | None = None  # as far as the pump has read
        self._woken, self._grown = asyncio.Event(), asyncio.Event()
        self._reading = asyncio.Semaphore(READERS)
        self._streams: Counter[str] = Counter()
        self._pump: asyncio.Task[None] | None = None
        backend.watch(self.told)

    def told(self) -> None:
        """There is another event."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    async def newest(self) -> int:
        """The number of the newest event."""
        return (await self._backend.ends())[0]

    async def check(self, position: int) -> None:
        """Raises OperatorError: a stream cannot go on from there."""
        newest, pruned = await self._backend.ends()
        if position > newest:
            message = (
                f"there is no event {position} yet, the newest is {newest}: it is another library's, or was restored"
            )
            raise OperatorError(Failure.REFUSED, message)
        if position < pruned:
            message = f"events up to {pruned} are no longer kept; look at what there is, and go on from {pruned}"
            raise OperatorError(Failure.NOT_FOUND, message)

    def enter(self, caller: str) -> None:
        """A stream begins; it has to leave(). Raises OperatorError BUSY."""
        if self._streams.total() >= LIMIT_STREAMS or self._streams[caller] >= LIMIT_STREAMS_OF_A_CALLER:
            raise OperatorError(Failure.BUSY, f"{self._streams.total()} event streams are open; close some")
        self._streams[caller] += 1
        if self._pump is None:
            self._texts.clear()
            self._newest = None
            self._pump = asyncio.create_task(self._pump_events())

    def leave(self, caller: str) -> None:
        """A stream has ended."""
        self._streams[caller] -= 1
        if not self._streams[caller]:
            del self._streams[caller]
        if not self._streams and self._pump is not None:
            self._pump.cancel()
            self._pump = None

    @property
    def streams(self) -> int:
        """How many there are."""
        return self._streams.total()

    async def after(self, position: int, wanted: EventFilter) -> tuple[int, bytes]:
        """What follows, up to CHUNK_BYTES, and where it ends; nothing after QUIET_SECONDS without an event.

        Raises Lost."""
        if self._up_to_date(position):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._grown.wait(), QUIET_SECONDS)
            if self._up_to_date(position):
                return position, b""
        if self._texts and position >= self._texts[0].number - 1:
            first = position + 1 - self._texts[0].number
            texts = list(islice(self._texts, first, first + ROWS_AT_ONCE))
        else:
            texts = await self._read_after(position)
        return _chunk(position, texts, wanted)

    def _up_to_date(self, position: int) -> bool:
        """Or nobody knows yet."""
        return self._newest is None or position >= self._newest

    async def page(self, position: int, wanted: EventFilter) -> tuple[int, list[dict[str, Any]]]:
        """The next of the wanted events, and where they end."""
        rows = await self._backend.events_after(position, ROWS_AT_ONCE, wanted.action, wanted.subject)
        return (rows[-1].number if rows else position), [event_of(row).model_dump(mode="json") for row in rows]

    async def _read_after(self, position: int) -> list[Text]:
        async with self._reading:
            texts = await self._read(position)
        if texts and texts[0].number != position + 1:
            raise Lost
        return texts

    async def _pump_events(self) -> None:
        self._woken.set()
        failed = False
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(STOPPING_SECONDS):
                    await self._woken.wait()
            if not self._woken.is_set():
                continue
            self._woken.clear()
            try:
                await self._catch_up()
                failed = False
            except _UNREADABLE as error:  # of the moment, as a rule; and all streams wait for this
                if not failed:
                    log.warning("events cannot be read; it is tried again and again", reason=str(error))
                failed = True
                self._woken.set()
            await asyncio.sleep(RETRY_SECONDS if failed else PAUSE_SECONDS)
        self._wake_streams()  # which end now

    async def _catch_up(self) -> None:
        if self._newest is None:
            self._newest = await self.newest()
            self._wake_streams()
        while texts := await self._read(self._newest):
            self._texts.extend(texts)
            self._newest = texts[-1].number
            self._wake_streams()

    def _wake_streams(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    async def _read(self, position: int) -> list[Text]:
        return [_worded(row) for row in await self._backend.events_after(position, ROWS_AT_ONCE)]


@dataclass
class Feeds:
    """The feeds of a library, one for each event loop that serves it."""

    backend: Backend
    stopping: threading.Event
    _feeds: dict[Any, Feed] = field(default_factory=dict)

    def here(self) -> Feed:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._feeds:
            self._feeds[loop] = Feed(self.backend, self.stopping)
        return self._feeds[loop]

    @property
    def streams(self) -> int:
        """How many there are."""
        return sum(feed.streams for feed in [*self._feeds.values()])


async def stream(
    feed: Feed, caller: str, position: int, wanted: EventFilter, still_opens: StillOpens, stopping: threading.Event
) -> AsyncIterator[bytes]:
    """The stream of one client, which has entered the feed. still_opens(): whether its token does."""
    try:
        yield b"retry: 2000\nid: %d\n\n" % position
        while not stopping.is_set() and await still_opens():
            before = position
            position, chunk = await feed.after(position, wanted)
            if chunk:
                yield chunk
            elif position == before:
                yield b": nothing new\n\n"
    except (Lost, *_UNREADABLE):
        return  # on asking again with Last-Event-ID it is told what is no longer kept, or why nothing can be read
    finally:
        feed.leave(caller)


def _worded(row: RecordedEvent) -> Text:
    data = json.dumps(event_of(row).model_dump(mode="json"), separators=(",", ":"))
    return Text(row.number, row.action, row.subject, b"id: %d\ndata: %s\n\n" % (row.number, data.encode()))


def _chunk(position: int, texts: list[Text], wanted: EventFilter) -> tuple[int, bytes]:
    parts, length = [], 0
    for text in texts:
        if wanted.fits(text):
            parts.append(text.text)
            length += len(text.text)
        position = text.number
        if length >= CHUNK_BYTES:
            break
    return position, b"".join(parts)
