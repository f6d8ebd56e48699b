"""What brings the old content of a chunk into memory, and from there to a snapshot's store.

`datamover.engine.ChunkSaver` does it for files, without the GIL. ThreadSaver is its twin for images and stores that
have no descriptor; it says the same in Python.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from datamover.engine import (
    SAVER_CLOSED,
    SAVER_FAILED,
    SAVER_FULL,
    SAVER_STORED,
    SAVER_ZEROS,
    ChunkSaver,
    first_difference,
)
from vlib_images.disk.image import Image
from vlib_images.disk.snapshot_store import CHUNK_BYTES, SnapshotStore

BUFFERS: Final = 256  # of one chunk: 16 MiB a set
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))


class Saver(Protocol):
    """As ChunkSaver, whose stub says what each method does."""

    def save(self, image: Image, offset: int, length: int, slot: int, timeout_seconds: float, /) -> int: ...
    def read_into(self, buffer: memoryview, slot: int, offset: int, /) -> bool: ...
    def forget(self, slot: int, /) -> bool: ...
    def close(self) -> None: ...
    @property
    def failure(self) -> object:
        """What went wrong in the store; falsy: nothing."""

    @property
    def threads(self) -> int: ...


class FileSaver:
    """The engine's, for images that are files and a store that is one."""

    def __init__(self, store: int, buffers: int) -> None:
        self._engine = ChunkSaver(store, CHUNK_BYTES, buffers)
        self.read_into, self.forget, self.close = self._engine.read_into, self._engine.forget, self._engine.close

    def save(self, image: Image, offset: int, length: int, slot: int, timeout_seconds: float, /) -> int:
        return self._engine.save(image.fileno(), offset, length, slot, timeout_seconds)  # type: ignore[arg-type]

    @property
    def failure(self) -> OSError | None:
        number = self._engine.failure
        return OSError(number, os.strerror(number)) if number else None

    @property
    def threads(self) -> int:
        return self._engine.threads


@dataclass(eq=False)
class _Request:
    """A chunk that a write waits for."""

    image: Image
    offset: int
    length: int
    slot: int
    outcome: int | None = None
    error: Exception | None = None
    gone: bool = False  # nobody waits for it any more
    done: threading.Event = field(default_factory=threading.Event)


class ThreadSaver:
    """Two threads, one that reads and one that writes."""

    def __init__(self, store: SnapshotStore, buffers: int) -> None:
        self.failure: Exception | None = None
        self._store = store
        self._requests: deque[_Request] = deque()
        self._free = [bytearray(CHUNK_BYTES) for _ in range(buffers)]
        self._memory: dict[int, memoryview] = {}  # by slot, until the store has it
        self._queue: deque[int] = deque()
        self._writing = -1
        self._closed = False
        self._lock = threading.Lock()
        self._to_read, self._to_write = threading.Condition(self._lock), threading.Condition(self._lock)
        runs: tuple[tuple[Callable[[], None], str], ...] = ((self._read_all, "read"), (self._write_all, "written"))
        self._threads = [threading.Thread(target=run, name=f"snapshot {verb}", daemon=True) for run, verb in runs]
        for thread in self._threads:
            thread.start()

    @property
    def threads(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def save(self, image: Image, offset: int, length: int, slot: int, timeout_seconds: float, /) -> int:
        request = _Request(image, offset, length, slot)
        with self._lock:
            if self.failure or self._closed:
                return SAVER_FAILED if self.failure else SAVER_CLOSED
            self._requests.append(request)
            self._to_read.notify()
        request.done.wait(timeout_seconds)
        with self._lock:
            request.gone = True
            if request.error is not None:
                raise request.error
            if request.outcome is None:
                raise TimeoutError
            return request.outcome

    def read_into(self, buffer: memoryview, slot: int, offset: int, /) -> bool:
        with self._lock:
            held = self._memory.get(slot)
            if held is not None:
                buffer[:] = held[offset : offset + len(buffer)]
        return held is not None

    def forget(self, slot: int, /) -> bool:
        with self._lock:
            if slot == self._writing:
                return False
            self._drop(slot)
        return True

    def _drop(self, slot: int) -> None:
        held = self._memory.pop(slot, None)
        if held is not None:
            assert isinstance(held.obj, bytearray)
            self._free.append(held.obj)
            self._to_read.notify()

    def _read_all(self) -> None:
        while (found := self._next_request()) is not None:
            request, buffer = found
            content = memoryview(buffer)[: request.length]
            error, outcome = None, SAVER_ZEROS
            try:
                request.image.read_into(content, request.offset)
                if first_difference(content, _ZEROS[: len(content)]) >= 0:
                    outcome = SAVER_STORED if request.slot >= 0 else SAVER_FULL
            except Exception as failed:  # noqa: BLE001 - whoever waits is told
                error = failed
            with self._lock:
                request.error = error
                request.outcome = SAVER_FAILED if outcome == SAVER_STORED and self.failure else outcome
                if error is None and request.outcome == SAVER_STORED and not request.gone:
                    self._memory[request.slot] = content
                    self._queue.append(request.slot)
                    self._to_write.notify()
                else:
                    self._free.append(buffer)
                request.done.set()

    def _next_request(self) -> tuple[_Request, bytearray] | None:
        with self._lock:
            while not (self._requests and self._free) and not self._closed:
                self._to_read.wait()
            return None if self._closed else (self._requests.popleft(), self._free.pop())

    def _write_all(self) -> None:
        while (slot := self._next_slot()) is not None:
            try:
                self._store.write(slot, self._memory[slot])
            except Exception as error:  # noqa: BLE001 - whoever saves is told; what is in memory can still be read
                with self._lock:
                    self.failure, self._writing = error, -1
                    self._answer_all(SAVER_FAILED)
            else:
                with self._lock:
                    self._writing = -1
                    self._drop(slot)

    def _next_slot(self) -> int | None:
        with self._lock:
            while not self._closed:
                if self.failure or not self._queue:
                    self._to_write.wait()
                elif (slot := self._queue.popleft()) in self._memory:  # else it was forgotten
                    self._writing = slot
                    return slot
        return None

    def _answer_all(self, outcome: int) -> None:
        for request in self._requests:
            request.outcome = outcome
            request.done.set()
        self._requests.clear()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._answer_all(SAVER_CLOSED)
            self._to_read.notify_all()
            self._to_write.notify_all()


def saver_for(images: list[Image], store: SnapshotStore, buffers: int = BUFFERS) -> Saver:
    """The engine's where images and store are files. Raises OSError."""
    descriptor = getattr(store, "fileno", None)
    if descriptor is None or any(image.fileno() is None for image in images):
        return ThreadSaver(store, buffers)
    return FileSaver(descriptor(), buffers)


def until_ended(saver: Saver, timeout_seconds: float) -> bool:
    """After close(): whether its threads have ended by then."""
    deadline = time.monotonic() + timeout_seconds
    while saver.threads and time.monotonic() < deadline:
        time.sleep(0.001)
    return not saver.threads
