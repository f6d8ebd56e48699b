"""The slots of a set's snapshots: taken for what is saved, given back when nobody wants or reads it any more.

What a write has to wait for is that the old content is in memory, not that it is in the store (snapshot_saver). A store
that is slow lets memory run out, and only then does a write wait for it.
"""

import threading
import time
from typing import Final

from datamover.engine import SAVER_CLOSED, SAVER_FAILED, SAVER_FULL, SAVER_STORED
from vlib_images.disk.image import Image
from vlib_images.disk.snapshot_saver import BUFFERS, saver_for, until_ended
from vlib_images.disk.snapshot_store import SnapshotStore

ZERO_SLOT: Final = -1
_NO_SLOT: Final = -1


class NotSaved(Exception):
    """A chunk could not be saved; str() says why."""


class Spill:
    """Of one store, for some images. Thread-safe."""

    def __init__(self, images: list[Image], store: SnapshotStore, buffers: int = BUFFERS) -> None:
        """Raises OSError."""
        self._store = store
        self._saver = saver_for(images, store, buffers)
        self._pins: dict[int, int] = {}  # slot: how many read it
        self._doomed: set[int] = set()  # slots to give back when nobody reads them any more
        self._written: set[int] = set()  # slots to give back when they are no longer being written
        self._closed = False
        self._lock = threading.Lock()

    @property
    def budget_bytes(self) -> int:
        return self._store.budget_bytes

    @property
    def stored_bytes(self) -> int:
        self._give_back_written()
        return self._store.stored_bytes

    @property
    def failure(self) -> str | None:
        """What went wrong in the store."""
        return f"its store failed: {self._saver.failure}" if self._saver.failure else None

    def save(self, image: Image, offset: int, length: int, deadline: float) -> int:
        """The slot that holds a chunk's content from now on; ZERO_SLOT: it is all zeros. deadline: of time.monotonic().
        Raises NotSaved, TimeoutError, what reading the image raises."""
        if self._written:
            self._give_back_written()
        slot = self._store.take()
        outcome = None
        try:
            left = max(0.0, deadline - time.monotonic())
            outcome = self._saver.save(image, offset, length, _NO_SLOT if slot is None else slot, left)
        finally:
            if slot is not None and outcome != SAVER_STORED:
                self._store.give_back(slot)
        if outcome == SAVER_FULL:
            raise NotSaved(f"its budget of {self.budget_bytes} bytes is reached")
        if outcome in (SAVER_FAILED, SAVER_CLOSED):
            raise NotSaved(self.failure or "it has ended")
        return slot if slot is not None and outcome == SAVER_STORED else ZERO_SLOT

    def read_into(self, piece: memoryview, slot: int, offset: int) -> None:
        """Of a slot that the caller has pinned. Raises OSError."""
        if not self._saver.read_into(piece, slot, offset):
            self._store.read_into(piece, slot, offset)

    def pin(self, slot: int) -> None:
        """It is read: until unpin(), it is not given back."""
        with self._lock:
            self._pins[slot] = self._pins.get(slot, 0) + 1

    def unpin(self, slot: int) -> None:
        with self._lock:
            self._pins[slot] -= 1
            if not self._pins[slot]:
                del self._pins[slot]
                if slot in self._doomed:
                    self._doomed.discard(slot)
                    self._give_back(slot)

    def give_back(self, slot: int) -> None:
        """Nobody will want it any more."""
        with self._lock:
            if slot in self._pins:
                self._doomed.add(slot)
            else:
                self._give_back(slot)

    def _give_back(self, slot: int) -> None:
        if self._closed or self._saver.forget(slot):
            self._store.give_back(slot)
        else:
            self._written.add(slot)

    def _give_back_written(self) -> None:
        with self._lock:
            written, self._written = self._written, set()
            for slot in written:
                self._give_back(slot)

    def close(self) -> None:
        """All of its space is free at once; what it is kept in is let go when whoever is in it comes out."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._written.clear()
        self._store.give_back_all()
        # This may be a write's thread, and the last to close a file may wait for it: that is the saver, which has one
        # of its own.
        self._store.close()
        self._saver.close()

    def join(self, timeout_seconds: float) -> bool:
        """After close(): whether all that had to do with the store has ended by then."""
        return until_ended(self._saver, timeout_seconds)
