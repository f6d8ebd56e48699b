"""How fast a copy may go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# How late at most a copy that is held back sees that it was stopped, or is to fail.
LOOK_SECONDS = 0.2


class Pace:
    """Bytes a second, 0 for as fast as can be; may be changed while the copy runs. Thread-safe."""

    def __init__(self, bytes_per_second: int = 0) -> None:
        self._changed = threading.Condition()
        self._bytes_per_second = bytes_per_second
        self._due = 0.0  # when what was taken so far has had its time; monotonic seconds

    @property
    def bytes_per_second(self) -> int:
        """What it is now."""
        return self._bytes_per_second

    @bytes_per_second.setter
    def bytes_per_second(self, value: int) -> None:
        with self._changed:
            self._bytes_per_second = value
            self._due = time.monotonic()
            self._changed.notify_all()

    def took(self, count: int, stopped: Callable[[], bool]) -> None:
        """So many bytes were taken: waits until more may be, or until `stopped`."""
        if not self._bytes_per_second:
            return
        with self._changed:
            self._due = max(self._due, time.monotonic()) + count / self._bytes_per_second
            while self._bytes_per_second and (left := self._due - time.monotonic()) > 0 and not stopped():
                self._changed.wait(min(left, LOOK_SECONDS))
