"""A lock whose holders take turns.

threading.Lock goes to whoever is awake: a thread that takes it again and again, for bulk work in the database or for
one move after another, would keep the others waiting for as long as it goes on. Here who came first is next.
"""

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """Use with `with`. Not reentrant: a second entry of the same thread is a RuntimeError, not a deadlock; `again` is
    what it says."""

    def __init__(self, again: str = "a thread that has its turn waits for another turn") -> None:
        self._again = again
        self._mutex = threading.Lock()
        self._holder: int | None = None
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._mutex:
            if self._holder is None:
                self._holder = me
                return
            if self._holder == me:
                raise RuntimeError(self._again)
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append((me, turn))
        try:
            turn.acquire()
        except BaseException:  # a signal's exception in the main thread: whoever waits no longer is not in the queue
            self._leave(me, turn)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            self._pass_on()

    def _pass_on(self) -> None:
        self._holder = None
        if self._waiting:
            self._holder, turn = self._waiting.popleft()
            turn.release()

    def _leave(self, me: int, turn: threading.Lock) -> None:
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
        if self._holder == threading.get_ident():
            self._inner += 1
        else:
            super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inner:
            self._inner -= 1
        else:
            super().__exit__(kind, error, trace)
