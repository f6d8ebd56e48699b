"""The log as a queue, and a server."""

import queue
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from tests.unit.iscsi.dummy import Served, serving

PATIENCE_SECONDS = 60


class Log:
    """What the program logged, in order, from whatever thread."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.seen: list[dict[str, Any]] = []

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> None:
        self._events.put(dict(event) | {"level": method})
        raise structlog.DropEvent

    def next(self) -> dict[str, Any]:
        """The next line; waits for it."""
        self.seen.append(self._events.get(timeout=PATIENCE_SECONDS))
        return self.seen[-1]

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next line of that name; the lines before it are passed over."""
        while (line := self.next())["event"] != event:
            pass
        return line

    def rest(self) -> list[dict[str, Any]]:
        """What is there and was not looked at yet."""
        lines = []
        while not self._events.empty():
            lines.append(self._events.get())
        return lines


@pytest.fixture
def log() -> Iterator[Log]:
    """Every test ends with a look that nothing failed inside the target."""
    captured = Log()
    old = structlog.get_config()
    structlog.configure(processors=[captured])
    try:
        yield captured
    finally:
        structlog.configure(**old)
    assert [line for line in [*captured.seen, *captured.rest()] if line["level"] in ("error", "exception")] == []


@pytest.fixture
def a_day_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Each call makes it a day later for whoever looks whether a view has come to its end."""
    offset_seconds = [0.0]
    for module in ("server", "session", "waiting_nexus"):
        monkeypatch.setattr(f"scsi_targets.iscsi.{module}.time", lambda: time.time() + offset_seconds[0])

    def pass_a_day() -> None:
        offset_seconds[0] += 86_400.0

    return pass_a_day


@pytest.fixture
def served(log: Log) -> Iterator[Served]:
    with serving() as running:
        yield running
