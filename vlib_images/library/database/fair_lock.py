"""A lock whose holders take turns.

threading.Lock goes to whoever is awake: a thread that does bulk work and takes the lock again and again would keep a
move waiting for as long as the work lasts. Here who came first is next.
"""

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """Use with `with`. Not reentrant: a second entry of the same thread is a RuntimeError, not a deadlock."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holder: int | None = None
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._mutex:
            if self._holder is None:
                self._holder = me
                return
            if self._holder == me:
                raise RuntimeError("a change of the database within a change of the database")
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
