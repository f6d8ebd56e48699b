"""Chunks on their way to a snapshot's store: what a write has to wait for is memory, not the store.

For each set of snapshots there are two threads. One reads the old content of a chunk into a buffer, and then the write
that was waiting goes on; the other brings the buffers to the store. A store that is slow lets the buffers run out, and
only then does a write wait for it. Whatever hangs, the store or the disk itself, keeps these threads, and no write for
longer than its patience.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from datamover.engine import first_difference
from vlib_images.disk.image import Image
from vlib_images.disk.snapshot_store import CHUNK_BYTES, SnapshotStore

BUFFERS: Final = 256  # of one chunk: 16 MiB a set
ZERO_SLOT: Final = -1
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))


class NotSaved(Exception):
    """A chunk could not be saved; str() says why."""


@dataclass(eq=False)
class _Request:
    """A chunk that a write waits for. slot: once it is read; problem: when it could not be."""

    image: Image
    offset: int
    length: int
    slot: int | None = None
    problem: Exception | None = None
    gone: bool = False  # nobody waits for it any more
    done: threading.Event = field(default_factory=threading.Event)


class Spill:
    """The slots of one store, with what is in memory of them. Thread-safe. on_failure is called, without a lock, with
    what went wrong in the store."""

    def __init__(
        self, store: SnapshotStore, name: str, on_failure: Callable[[str], None], buffers: int = BUFFERS
    ) -> None:
        self._store = store
        self._on_failure = on_failure
        self._requests: deque[_Request] = deque()
        self._free = [bytearray(CHUNK_BYTES) for _ in range(buffers)]
        self._memory: dict[int, memoryview] = {}  # by slot, until the store has it
        self._queue: deque[int] = deque()
        self._pins: dict[int, int] = {}  # slot: how many read or write it
        self._doomed: set[int] = set()  # slots to give back when nobody does any more
        self._closed = False
        self._lock = threading.Lock()
        self._to_read, self._to_write = threading.Condition(self._lock), threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=run, name=f"snapshot {verb} {name}", daemon=True)
            for run, verb in ((self._read_all, "of"), (self._write_all, "store of"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def budget_bytes(self) -> int:
        return self._store.budget_bytes

    @property
    def stored_bytes(self) -> int:
        return self._store.stored_bytes

    # ---- for snapshots -----------------------------------------------------------------------------------------------

    def save(self, image: Image, offset: int, length: int, deadline: float) -> int:
        """The slot that holds a chunk's content from now on; ZERO_SLOT: it is all zeros. deadline: of time.monotonic().
        Raises NotSaved, TimeoutError, what reading the image raises."""
        request = _Request(image, offset, length)
        with self._lock:
            self._requests.append(request)
            self._to_read.notify()
        request.done.wait(max(0.0, deadline - time.monotonic()))
        with self._lock:
            request.gone = True
            if request.problem is not None:
                raise request.problem
            if request.slot is None:
                raise TimeoutError
            return request.slot

    def read_into(self, piece: memoryview, slot: int, offset: int) -> None:
        """Of a slot that the caller has pinned. Raises OSError."""
        with self._lock:
            held = self._memory.get(slot)
            if held is not None:
                piece[:] = held[offset : offset + len(piece)]
        if held is None:
            self._store.read_into(piece, slot, offset)

    def pin(self, slot: int) -> None:
        """It is read: until unpin(), it is not given back."""
        with self._lock:
            self._pins[slot] = self._pins.get(slot, 0) + 1

    def unpin(self, slot: int) -> None:
        with self._lock:
            self._unpin(slot)

    def give_back(self, slot: int) -> None:
        """Nobody will want it any more."""
        with self._lock:
            if slot in self._pins:
                self._doomed.add(slot)
            else:
                self._give_back(slot)

    def _unpin(self, slot: int) -> None:
        self._pins[slot] -= 1
        if not self._pins[slot]:
            del self._pins[slot]
            if slot in self._doomed:
                self._doomed.discard(slot)
                self._give_back(slot)

    def _give_back(self, slot: int) -> None:
        self._forget(slot)
        self._store.give_back(slot)

    def _forget(self, slot: int) -> None:
        """It is no longer in memory."""
        held = self._memory.pop(slot, None)
        if held is not None:
            assert isinstance(held.obj, bytearray)
            self._return(held.obj)

    def _return(self, buffer: bytearray) -> None:
        self._free.append(buffer)
        self._to_read.notify()

    # ---- the thread that reads ---------------------------------------------------------------------------------------

    def _read_all(self) -> None:
        while (found := self._next_request()) is not None:
            request, buffer = found
            try:
                slot = self._read(request, buffer)
            except Exception as error:  # noqa: BLE001 - whatever it is, the write goes on and the snapshot says why
                request.problem = error
            else:
                self._answer(request, slot)
            request.done.set()

    def _next_request(self) -> tuple[_Request, bytearray] | None:
        with self._lock:
            while not (self._requests and self._free) and not self._closed:
                self._to_read.wait()
            return None if self._closed else (self._requests.popleft(), self._free.pop())

    def _read(self, request: _Request, buffer: bytearray) -> int:
        content = memoryview(buffer)[: request.length]
        request.image.read_into(content, request.offset)
        slot = ZERO_SLOT
        if first_difference(content, _ZEROS[: len(content)]) >= 0:
            taken = self._store.take()
            if taken is None:
                raise NotSaved(f"its budget of {self.budget_bytes} bytes is reached")
            slot = taken
        with self._lock:
            if slot == ZERO_SLOT:
                self._return(buffer)
            else:
                self._memory[slot] = content
                self._queue.append(slot)
                self._to_write.notify()
        return slot

    def _answer(self, request: _Request, slot: int) -> None:
        with self._lock:
            request.slot = slot
            if request.gone and slot != ZERO_SLOT:
                self._give_back(slot)

    # ---- the thread that writes --------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        try:
            while (found := self._next_slot()) is not None:
                self._store.write(*found)
                with self._lock:
                    self._forget(found[0])
                    self._unpin(found[0])
        except Exception as error:  # noqa: BLE001 - the same
            self._on_failure(f"its store failed: {error}")
        with self._lock:
            while not self._closed:
                self._to_write.wait()
        self._store.close()

    def _next_slot(self) -> tuple[int, memoryview] | None:
        """A slot to write, pinned, and its content."""
        with self._lock:
            while not self._closed:
                if not self._queue:
                    self._to_write.wait()
                    continue
                slot = self._queue.popleft()
                if slot in self._memory:  # else it was given back meanwhile
                    self._pins[slot] = self._pins.get(slot, 0) + 1
                    return slot, self._memory[slot]
        return None

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """All of its space is free at once; its threads let go of the store when they come out of what they do."""
        with self._lock:
            self._closed = True
            for request in self._requests:
                request.done.set()
            self._to_read.notify_all()
            self._to_write.notify_all()
        self._store.give_back_all()

    def join(self, timeout_seconds: float) -> bool:
        """Whether the threads have ended, and the store is closed."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_seconds)
        return not any(thread.is_alive() for thread in self._threads)
