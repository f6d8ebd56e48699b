"""What is written a little later, by a thread of its own: counts, for which nothing may wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 1.0  # what a crash loses

CountKey = TypeVar("CountKey")
CountValue = TypeVar("CountValue")


class Later(Generic[CountKey, CountValue]):
    """put() only remembers; `write` is given what waits, at most once a second. Thread-safe.

    What cannot be written is logged, and tried again with what comes next.
    """

    def __init__(self, write: Callable[[Mapping[CountKey, CountValue]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: dict[CountKey, CountValue] = {}
        self._thread: threading.Thread | None = None
        self._without_thread = False  # the system had none to give when something came last
        self._flushing = threading.Event()

    def put(self, key: CountKey, value: CountValue) -> None:
        """The last value of a key counts."""
        with self._lock:
            self._waiting[key] = value
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="counts", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("counts cannot be saved now; they are tried again with the next", reason=str(error))
            self._without_thread = True
        else:
            self._thread, self._without_thread = thread, False

    def waiting(self) -> dict[CountKey, CountValue]:
        """What is not written yet."""
        with self._lock:
            return dict(self._waiting)

    def flush(self) -> None:
        """Everything is written, or logged, when this returns."""
        self._flushing.set()
        with self._lock:
            thread, alone = self._thread, self._without_thread
        if thread is not None:
            thread.join()
        elif alone:
            self._write_waiting()
        self._flushing.clear()

    def _run(self) -> None:
        while True:
            self._flushing.wait(INTERVAL_SECONDS)
            if not self._write_waiting():
                return

    def _write_waiting(self) -> bool:
        """Whether there is more to write. If not, what comes from now on has another thread."""
        waiting = self.waiting()
        written = self._written(waiting)
        with self._lock:
            for key in waiting if written else ():
                if self._waiting[key] is waiting[key]:
                    del self._waiting[key]
            more = written and bool(self._waiting)
            if not more:
                self._thread = None
            return more

    def _written(self, waiting: Mapping[CountKey, CountValue]) -> bool:
        try:
            self._write(waiting)
        except OSError as error:
            log.warning("counts could not be saved; they are tried again with the next", reason=str(error))
            return False
        return True
