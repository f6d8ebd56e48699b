"""Where the chunks of snapshots are kept: slots of one chunk each, of which there is a fixed number from the start on.

The space is claimed when the store is made, so that a full file system refuses a snapshot instead of breaking it later.
Nothing here outlives the process: a restart ends every snapshot.
"""

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from vlib_images.disk import fallocate

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNK_BYTES: Final = 64 << 10
SUFFIX: Final = ".snapshot"


class SnapshotStore(Protocol):
    """ChunkSlots, shared by the disks of one set. Thread-safe. budget_bytes: what may be stored at most."""

    budget_bytes: int

    @property
    def stored_bytes(self) -> int:
        """What the slots in use take."""

    def take(self) -> int | None:
        """A free slot; None: the budget is reached."""

    def give_back(self, slot: int) -> None:
        """Nobody reads or writes the slot any more."""

    def write(self, slot: int, data: memoryview) -> None:
        """At most CHUNK_BYTES from the beginning of the slot. Raises OSError."""

    def read_into(self, buffer: "Buffer", slot: int, offset: int) -> None:
        """Fills the buffer from `offset` of the slot. Raises OSError."""

    def give_back_all(self) -> None:
        """At once: nothing that was stored is wanted any more, even while a call hangs in it."""

    def close(self) -> None:
        """After give_back_all(): lets go of what it is kept in. May block, as the store's own calls may."""


class ChunkSlots:
    """Which slots are free. Thread-safe."""

    def __init__(self, budget_bytes: int) -> None:
        """Raises ValueError for a budget of less than one chunk."""
        if budget_bytes < CHUNK_BYTES:
            raise ValueError(f"a budget of {budget_bytes} bytes holds no chunk of {CHUNK_BYTES}")
        self.budget_bytes = budget_bytes // CHUNK_BYTES * CHUNK_BYTES
        self._lock = threading.Lock()
        self._next = 0  # slots from this one on were never taken
        self._free: list[int] = []
        self._taken: set[int] = set()

    @property
    def stored_bytes(self) -> int:
        return len(self._taken) * CHUNK_BYTES

    def take(self) -> int | None:
        with self._lock:
            if not self._free and (self._next + 1) * CHUNK_BYTES > self.budget_bytes:
                return None
            if not self._free:
                self._free.append(self._next)
                self._next += 1
            slot = self._free.pop()
            self._taken.add(slot)
            return slot

    def give_back(self, slot: int) -> None:
        with self._lock:
            if slot in self._taken:  # else all of them were given back at once
                self._taken.discard(slot)
                self._free.append(slot)

    def give_back_all(self) -> None:
        with self._lock:
            self._free.extend(self._taken)
            self._taken.clear()


class FileStore(ChunkSlots):
    """A file of its own, without a name once it is open: however the process ends, its space comes back."""

    def __init__(self, directory: Path, name: str, budget_bytes: int) -> None:
        """Claims all of the budget. Raises OSError (ENOSPC), ValueError."""
        super().__init__(budget_bytes)
        self._using = 0
        self._closed = False
        path = directory / f"{name}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        try:
            path.unlink()
            fallocate.try_fallocate(self._descriptor, 0, 0, self.budget_bytes)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, slot: int, data: memoryview) -> None:
        self._enter()
        try:
            at = slot * CHUNK_BYTES
            while data:
                done = os.pwrite(self._descriptor, data, at)
                data, at = data[done:], at + done
        finally:
            self._leave()

    def read_into(self, buffer: "Buffer", slot: int, offset: int) -> None:
        self._enter()
        try:
            if os.preadv(self._descriptor, [buffer], slot * CHUNK_BYTES + offset) != memoryview(buffer).nbytes:
                raise OSError("the snapshot's store is shorter than what was written to it")
        finally:
            self._leave()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._close_unused()

    def fileno(self) -> int:
        """Slot N is at byte N * CHUNK_BYTES."""
        return self._descriptor

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise OSError("the snapshot's store is closed")
            self._using += 1

    def _leave(self) -> None:
        with self._lock:
            self._using -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        """With the lock held. Whoever hangs in the store closes it when it gets out."""
        if self._closed and not self._using and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class MemoryChunks(ChunkSlots):
    """The twin for tests."""

    def __init__(self, budget_bytes: int) -> None:
        super().__init__(budget_bytes)
        self._chunks: dict[int, bytes] = {}

    def write(self, slot: int, data: memoryview) -> None:
        self._chunks[slot] = bytes(data)

    def read_into(self, buffer: "Buffer", slot: int, offset: int) -> None:
        view, chunk = memoryview(buffer).cast("B"), self._chunks.get(slot)
        if chunk is None:
            raise OSError("the snapshot's store is closed")
        view[:] = chunk[offset : offset + len(view)]

    def give_back(self, slot: int) -> None:
        self._chunks.pop(slot, None)
        super().give_back(slot)

    def close(self) -> None:
        self._chunks.clear()
