"""A lock whose holders take turns.

threading.Lock goes to whoever is awake: a thread that takes it again and again, for bulk work in the database or for
one move after another, would keep the others waiting for as long as it goes on. Here who came first is next.

A thread may be ended from outside where it cannot give its turn away any more, within `__exit__` even: the turn of a
thread that is no more is over.
"""

import threading
from collections import deque
from types import TracebackType
from typing import Final

LOOK_SECONDS: Final = 1.0  # how often who waits looks whether the holder is there still


class FairLock:
    """Use with `with`. Not reentrant: a second entry of the same thread is a RuntimeError, not a deadlock; `again` is
    what it says."""

    def __init__(self, again: str = "a thread that has its turn waits for another turn") -> None:
        self._again = again
        self._mutex = threading.Lock()
        self._holder: threading.Thread | None = None
        self._waiting: deque[tuple[threading.Thread, threading.Lock]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def __enter__(self) -> None:
        me = threading.current_thread()
        with self._mutex:
            self._look()
            if self._holder is None:
                self._holder = me
                return
            if self._holder is me:
                raise RuntimeError(self._again)
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append((me, turn))
        try:
            while not turn.acquire(timeout=LOOK_SECONDS):
                with self._mutex:
                    self._look()
        except BaseException:  # a signal's exception in the main thread: whoever waits no longer is not in the queue
            self._leave(me, turn)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            self._pass_on()

    def _look(self) -> None:
        if self._holder is not None and not self._holder.is_alive():
            self._pass_on()

    def _pass_on(self) -> None:
        self._holder = None
        if self._waiting:
            self._holder, turn = self._waiting.popleft()
            turn.release()

    def _leave(self, me: threading.Thread, turn: threading.Lock) -> None:
        with self._mutex:
            if (me, turn) in self._waiting:
                self._waiting.remove((me, turn))
            else:  # it was our turn already
                self._pass_on()


class ReentrantFairLock(FairLock):
    """Who has its turn may enter again, and keeps it until as many ends."""

    def __init__(self) -> None:
        super().__init__()
        self._inner = 0  # only the holder's thread touches it

    def __enter__(self) -> None:
        if self._holder is threading.current_thread():
            self._inner += 1
        else:
            super().__enter__()
            self._inner = 0  # of a holder that is no more

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inner:
            self._inner -= 1
        else:
            super().__exit__(kind, error, trace)
