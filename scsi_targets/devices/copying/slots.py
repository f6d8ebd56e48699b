"""How many copy jobs move data at one time, over all copy managers: each has buffers of its own, which this bounds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

# A job has datamover.copy_job.BUFFERS buffers, of 1 MiB or of one transfer where that is longer (16 MiB at most): these
# take 96 MiB with ordinary blocks.
RUNNING_JOBS = 32


class CopySlots:
    """First come, first served."""

    def __init__(self, count: int = RUNNING_JOBS) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[Slot] = deque()

    def claim(self, slot: Slot) -> None:
        """Asks for one; `slot.granted` says when it is there."""
        with self._lock:
            self._waiting.append(slot)
        self._hand_out()

    def give_back(self, slot: Slot) -> None:
        """Whether it was granted or not."""
        with self._lock:
            if slot in self._waiting:
                self._waiting.remove(slot)
            elif slot.granted:
                slot.granted = False
                self._free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        with self._lock:
            given = [self._waiting.popleft() for _ in range(min(self._free, len(self._waiting)))]
            self._free -= len(given)
            for slot in given:
                slot.granted = True
        for slot in given:
            slot.changed()


class Slot:
    """One job's."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.granted = False
        self.changed = changed


SLOTS = CopySlots()
