"""A thread of a daemon under test is killed from outside, by its name: nothing of it is asked, nor told before.

A daemon that is started with VARIABLE listens at that path for `Threads`. Nothing of it is in the product.
"""

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlib_images.library.database.database import Database

VARIABLE = "TAPEBAY_TEST_THREADS"
SECONDS = 60.0


class Threads:
    """Those of a daemon that was started with VARIABLE and this path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def kill(self, name: str) -> None:
        """Wherever it is just then: the next thing that it does is to end. Returns when it has."""
        self._ask("kill", name)

    def doom(self, name: str) -> None:
        """The same, for one that may wait for somebody for ever: it ends when it wakes up."""
        self._ask("doom", name)

    def kill_in_a_transaction(self, name: str, number: int = 1) -> None:
        """The next time (the second, ...) that it changes the database, before the commit."""
        self._ask("kill_in_a_transaction", name, str(number))

    def refuse(self, name: str) -> None:
        """No thread of that name can be had from now on."""
        self._ask("refuse", name)

    def allow(self, name: str) -> None:
        """What refuse() began is over."""
        self._ask("allow", name)

    def _ask(self, *words: str) -> None:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(SECONDS)
            asking.connect(str(self._path))
            asking.sendall(" ".join(words).encode() + b"\n")
            answer = asking.makefile().readline()
        assert answer == "done\n", answer


class _Killer:
    """In the daemon."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._refused = set[str]()
        self._doomed = dict[str, int]()  # in how many transactions

    def install(self) -> None:
        start, change = threading.Thread.start, Database.change

        def started(thread: threading.Thread) -> None:
            if thread.name in self._refused:
                raise RuntimeError("can't start new thread")
            start(thread)

        @contextmanager
        def changed(database: Database, *happened: Any) -> Iterator[Any]:
            with change(database, *happened) as connection:
                yield connection
                self._count(threading.current_thread().name)

        threading.Thread.start = started  # type: ignore[assignment, method-assign]
        Database.change = changed  # type: ignore[assignment, method-assign]

    def _count(self, name: str) -> None:
        if name in self._doomed:
            self._doomed[name] -= 1
            if not self._doomed[name]:
                del self._doomed[name]
                raise SystemExit

    def serve(self) -> None:
        while True:
            asking, _ = self._listener.accept()
            with asking, asking.makefile("rw") as lines:
                what, *given = lines.readline().split()
                lines.write(f"{getattr(self, what)(*given)}\n")

    def kill(self, name: str) -> str:
        thread = _end(name)
        thread.join(SECONDS)
        return "it lives still" if thread.is_alive() else "done"

    def doom(self, name: str) -> str:
        _end(name)
        return "done"

    def kill_in_a_transaction(self, name: str, number: str) -> str:
        self._doomed[name] = int(number)
        return "done"

    def refuse(self, name: str) -> str:
        self._refused.add(name)
        return "done"

    def allow(self, name: str) -> str:
        self._refused.remove(name)
        return "done"


def _end(name: str) -> threading.Thread:
    (thread,) = (thread for thread in threading.enumerate() if thread.name == name)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    return thread


def install() -> None:
    """In a daemon, before it starts."""
    if (path := os.environ.get(VARIABLE)) is None:
        return
    listener = socket.socket(socket.AF_UNIX)
    Path(path).unlink(missing_ok=True)  # of the daemon before
    listener.bind(path)
    listener.listen()
    killer = _Killer(listener)
    killer.install()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are the daemon's
    threading.Thread(target=killer.serve, name="killer", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
