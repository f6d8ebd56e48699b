"""A thread that takes one turn after another, and is started anew when it ends though nobody stopped it.

It may end anywhere, without having its say: by an exception that no program expects, or ended from outside. So what it
was doing is looked up before the next one begins (`begin`), as after a crash of the whole process, and nothing that
others wait for is held by a lock that only its own code would release.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

PAUSE_SECONDS: Final = 1.0  # before it is started anew; twice as long after each time that it did not last
LONGEST_PAUSE_SECONDS: Final = 60.0
LASTING_SECONDS: Final = 60.0

Stopping = Callable[[], bool]


class LastingThread:
    """start() it, wake() it when there is something to do, stop() it. failures: how often it ended unasked.

    begin: what comes before its first turn, on the thread that starts it; may raise. turn: told whether it is to end;
    answers after how many seconds the next one is due, unless it is woken."""

    def __init__(self, name: str, begin: Callable[[], None], turn: Callable[[Stopping], float]) -> None:
        self._name, self._begin, self._turn = name, begin, turn
        self.pause_seconds = PAUSE_SECONDS
        self.failures = 0
        self._changing = threading.Lock()  # one start or stop at a time
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._ending.set()
        self._thread: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._failure = ""

    @property
    def up(self) -> bool:
        """Whether it takes its turns."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failure(self) -> str:
        """Why it takes no turns though nobody stopped it; "": nothing failed."""
        return "" if self.up or self._ending.is_set() else self._failure

    def start(self) -> None:
        """Unless it is up. Raises what begin() does, RuntimeError (no thread can be had); it is tried again then."""
        with self._changing:
            if self.up:
                return
            self._end()
            self._ending = threading.Event()
            try:
                self._begin_anew(self._ending)
            finally:
                self._watcher = threading.Thread(
                    target=self._watch, args=(self._ending,), name=f"{self._name} watch", daemon=True
                )
                self._watcher.start()

    def stop(self) -> None:
        """After the turn that it takes now."""
        with self._changing:
            self._end()

    def wake(self) -> None:
        """A turn is due."""
        if self._woken.empty():
            self._woken.put(None)

    def _end(self) -> None:
        self._ending.set()
        self.wake()
        for thread in (self._watcher, self._thread):
            if thread is not None:
                thread.join()
        self._thread = self._watcher = None

    def _begin_anew(self, ending: threading.Event) -> None:
        try:
            self._begin()
            thread = threading.Thread(target=self._run, args=(ending,), name=self._name, daemon=True)
            self._failure = "its thread was ended"
            self._thread = thread  # it is up with its first turn
            thread.start()
        except Exception as error:
            self._thread, self._failure = None, _told(error)
            raise

    def _run(self, ending: threading.Event) -> None:
        try:
            while not ending.is_set():
                self._pause(self._turn(ending.is_set))
        except BaseException as error:  # it ends with it, and whoever watches starts another one
            self._failure = f"its thread was ended by {_told(error)}"
            log.critical(f"the {self._name}'s thread is ended", exc_info=True)

    def _pause(self, seconds: float) -> None:
        try:
            self._woken.get(timeout=seconds)
        except queue.Empty:
            return

    def _watch(self, ending: threading.Event) -> None:
        pause = self.pause_seconds
        while True:
            began = time.monotonic()
            if self._thread is not None:
                self._thread.join()
            if ending.is_set():
                return
            if time.monotonic() - began > LASTING_SECONDS:
                pause = self.pause_seconds
            self.failures += 1
            log.error(f"the {self._name} is down; it is started anew", reason=self._failure, after_seconds=pause)
            if ending.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._try_again(ending)

    def _try_again(self, ending: threading.Event) -> None:
        self._thread = None
        try:
            self._begin_anew(ending)
            log.warning(f"the {self._name} is up again")
        except Exception:
            log.exception(f"the {self._name} cannot be started")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
