"""The writing half of a copy job: writes chunks in order, in a thread that gives their buffers back, or at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeAlias

from datamover.copy_progress import CopyCancelled, CopyFailed, CopyProgress, Side, Tally
from datamover.endpoints import Sink, TransferFailed
from datamover.engine import DataBuffer


@dataclass(slots=True)
class Chunk:
    """Whole writes for a sink, from the start of a buffer.

    checksums: the CRC32C of each piece of the sink's checked_length. shares: (segment, offset): the bytes up to that
    offset, from the one before it, are that segment's.
    """

    sink: Sink
    buffer: DataBuffer
    length: int
    checksums: bytes
    shares: list[tuple[int, int]]


@dataclass(slots=True)
class Act:
    """Something else to do at this place in the order; `side`: who failed if it fails."""

    segment: int
    run: Callable[[], None]
    side: Side


@dataclass(slots=True)
class Barrier:
    """All before it is done when the event is set."""

    passed: threading.Event = field(default_factory=threading.Event)


Item: TypeAlias = "Chunk | Act | Barrier | None"


class CopyWriter:
    """After a failure it writes nothing more, but goes on taking what it is given; `failure` says what it was.

    devices: what has been written to since the last drain()."""

    def __init__(
        self, progress: CopyProgress, tallies: list[Tally], buffers: list[DataBuffer], cancelled: Callable[[], bool]
    ) -> None:
        self.failure: CopyFailed | CopyCancelled | None = None
        self.devices: set[object] = set()
        self._progress = progress
        self._tallies = tallies
        self._cancelled = cancelled
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._free: SimpleQueue[DataBuffer] = SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self._thread = threading.Thread(target=self._work, name="copy writer", daemon=True)

    # ---- the reader's side -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread. Raises MemoryError when the system has none to give."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise MemoryError(str(error)) from error

    def stop(self) -> None:
        """Waits until everything is written."""
        self._items.put(None)
        self._thread.join()

    def buffer(self) -> DataBuffer:
        """An empty buffer; waits for one."""
        return self._free.get()

    def give_back(self, buffer: DataBuffer) -> None:
        """A buffer that was not needed."""
        self._free.put(buffer)

    def write(self, chunk: Chunk) -> None:
        """Queues a chunk; its buffer is the writer's from now on."""
        self.devices.add(chunk.sink.device)
        self._items.put(chunk)

    def write_now(self, chunk: Chunk) -> None:
        """Writes a chunk in this thread, after all that was queued; its buffer stays the caller's."""
        self.drain()
        self._perform(chunk)

    def act(self, act: Act, device: object) -> None:
        """Queues something else."""
        self.devices.add(device)
        self._items.put(act)

    def drain(self) -> None:
        """Waits until all that was queued is done; nothing has to be asked of the thread where nothing was."""
        if not self.devices:
            return
        barrier = Barrier()
        self._items.put(barrier)
        barrier.passed.wait()
        self.devices.clear()

    def check(self) -> None:
        """Raises the failure, if there is one."""
        if self.failure is not None:
            raise self.failure

    # ---- the thread's side -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._items.get()) is not None:
            if isinstance(item, Barrier):
                item.passed.set()
                continue
            self._perform(item)
            if isinstance(item, Chunk):
                self._free.put(item.buffer)

    def _perform(self, item: Chunk | Act) -> None:
        if self.failure is None and self._cancelled():
            self.failure = CopyCancelled()
        if self.failure is None:
            self._do(item)

    def _do(self, item: Chunk | Act) -> None:
        if isinstance(item, Chunk):
            self._write(item)
            return
        try:
            item.run()
            self._progress.operations += 1
        except Exception as error:  # noqa: BLE001 - whatever a device raises is the job's failure
            self.failure = CopyFailed(item.segment, item.side, error, Tally())

    def _write(self, chunk: Chunk) -> None:
        try:
            chunk.sink.write(memoryview(chunk.buffer)[: chunk.length], chunk.checksums)
        except TransferFailed as error:
            segment = self._account(chunk, error.bytes_done)
            self.failure = CopyFailed(segment, Side.DESTINATION, error.__cause__ or error, self._tallies[segment])
        else:
            self._account(chunk, chunk.length)
            self._progress.operations += 1

    def _account(self, chunk: Chunk, done: int) -> int:
        """Books `done` bytes of the chunk; returns the segment that the byte behind them belongs to."""
        self._progress.bytes_written += done
        start = 0
        for segment, end in chunk.shares:
            self._tallies[segment].written_bytes += max(0, min(done, end) - start)
            if done < end:
                return segment
            start = end
        return chunk.shares[-1][0]
