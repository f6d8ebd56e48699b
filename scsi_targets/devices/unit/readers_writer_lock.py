"""Who may touch a disk's data at one time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ReadersWriterLock:
    """Many at once (`with gate.shared`), or one alone (`with gate.alone`); who waits to be alone goes first.

    Reads and writes share the gate. A command that must be a single uninterrupted action (SBC-4 4.26 for COMPARE AND
    WRITE, ORWRITE; 4.29 for atomic writes) takes it alone. Whoever is inside takes no disk's lock; a copy
    may take a tape drive's, which nobody holds who waits here.
    """

    def __init__(self) -> None:
        self.shared = _Shared(self)
        self.alone = _Alone(self)
        self.changed = threading.Condition(threading.Lock())
        self.sharing = 0
        self.occupied = False
        self.waiting = 0

    @contextmanager
    def alone_within(self, seconds: float) -> Iterator[None]:
        """Alone, as `alone`; raises TimeoutError when somebody is inside for longer than that."""
        deadline = time.monotonic() + seconds
        with self.changed:
            self.waiting += 1
            try:
                while self.occupied or self.sharing:
                    if not self.changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                        raise TimeoutError
                self.occupied = True
            finally:
                self.waiting -= 1
                if not self.occupied:
                    self.changed.notify_all()
        try:
            yield
        finally:
            self.alone.__exit__()


class _Shared:
    def __init__(self, gate: ReadersWriterLock) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        gate = self._gate
        with gate.changed:
            while gate.occupied or gate.waiting:
                gate.changed.wait()
            gate.sharing += 1

    def __exit__(self, *_: object) -> None:
        gate = self._gate
        with gate.changed:
            gate.sharing -= 1
            if gate.waiting and not gate.sharing:
                gate.changed.notify_all()


class _Alone:
    def __init__(self, gate: ReadersWriterLock) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        gate = self._gate
        with gate.changed:
            gate.waiting += 1
            while gate.occupied or gate.sharing:
                gate.changed.wait()
            gate.waiting -= 1
            gate.occupied = True

    def __exit__(self, *_: object) -> None:
        gate = self._gate
        with gate.changed:
            gate.occupied = False
            gate.changed.notify_all()
