"""Snapshots of disk images: one instant of one image or several, kept by copying what is about to change.

A snapshot is a layer beside the image, not under it. Every change of the image passes its `before_change` hook; the old
content of the chunks that a change touches for the first time goes to the snapshot's store, and then the change happens
in place. So production never depends on the store: when the store is full, fails, or keeps a write waiting, it is the
snapshot that ends (BROKEN), never the write. Without a snapshot the hook is None, and that is all it costs.

Each chunk of 64 KiB is in one state, as the snapshot sees it:

- LIVE: needed and not saved. Its content is that of the image, which nobody may change before it is saved.
- SAVING: a thread of the snapshot is copying it to the store; whoever wants to change it waits.
- SAVED: the store has it (or it was all zeros, which takes no room). The image's own chunk may be changed freely: a
  second change, before the chunk is read, finds SAVED and does nothing, and the reader gets the instant's data.
- RETIRED: its reader is done with it. Its room in the store is free again, and changes pass.
- UNNEEDED: nobody asked for it (`narrow`). Changes pass.

A reader of a LIVE chunk holds it for one read. A change waits for such holds, so that a read returns either all of the
old bytes or an error. A change that has waited PATIENCE_SECONDS breaks the snapshot and goes on; a read that was under
way then finds the snapshot BROKEN when it is done, and says so instead of returning what it may have read.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from datamover.engine import first_difference
from vlib_images.disk.image import Extent, Image, Provisioning
from vlib_images.disk.snapshot_store import CHUNK_BYTES, SnapshotStore

PATIENCE_SECONDS: Final = 5.0
RUN_CHUNKS: Final = 16  # copied at once: 1 MiB
HOLD_CHUNKS: Final = 1024  # held at once by a reader: 64 MiB, more than any one read
LIVE, SAVING, SAVED, RETIRED, UNNEEDED = range(5)
_PASS: Final = bytes([SAVED, RETIRED, UNNEEDED])  # in these states a change need not wait
_LIVE: Final = bytes([LIVE])
_ZEROS: Final = bytes(CHUNK_BYTES)
_ZERO_SLOT: Final = -1
log = structlog.get_logger(__name__)


class SnapshotState(Enum):
    """HELD until it ends: RELEASED when it is no longer wanted, BROKEN when it could not be kept."""

    HELD = "held"
    RELEASED = "released"
    BROKEN = "broken"


class SnapshotEnded(OSError):
    """The snapshot's data is not to be had any more, or this part of it: str() says why."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What an operator sees of a snapshot. Bytes; stored_bytes: of its whole set."""

    state: SnapshotState
    reason: str
    size_bytes: int
    live_bytes: int
    saved_bytes: int
    retired_bytes: int
    stored_bytes: int
    budget_bytes: int


class Snapshot:
    """One image at one instant. take() makes them. on_end is called once, when it has broken.

    release_on_read: a chunk is retired when all of it has been read once, instead of when retire() says so.
    """

    def __init__(
        self,
        image: Image,
        store: SnapshotStore,
        *,
        release_on_read: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
        on_broken: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.image = image
        self.size_bytes = image.size_bytes
        self.state = SnapshotState.HELD
        self.reason = ""
        self._store = store
        self._patience_seconds = patience_seconds
        self._on_broken = on_broken
        self._chunks = bytearray(-(-image.size_bytes // CHUNK_BYTES))  # LIVE
        self._slots: dict[int, int] = {}  # of SAVED chunks that are not all zeros
        self._holds: list[tuple[int, int]] = []  # runs (first, end) of chunks that readers have live
        self._pins: dict[int, int] = {}  # slot: how many readers are in it
        self._doomed: set[int] = set()  # slots to give back when their last reader has left
        self._read: dict[int, int] | None = {} if release_on_read else None  # chunk: bit map of its sectors read
        self._work: deque[tuple[int, int]] = deque()  # runs to save
        self._changed = threading.Condition()
        self._saver = threading.Thread(target=self._save_runs, name=f"snapshot of {image.name}", daemon=True)
        self._saver.start()

    # ---- the writer's side -----------------------------------------------------------------------------------------

    def preserve(self, offset: int, length: int) -> None:
        """The bytes of that range are about to change. Returns when they may; raises nothing."""
        first, last = offset // CHUNK_BYTES, min(offset + length - 1, self.size_bytes - 1) // CHUNK_BYTES
        if length and first <= last and (self._chunks[first : last + 1].strip(_PASS) or self._holds):
            self._preserve(first, last)

    def _preserve(self, first: int, last: int) -> None:
        deadline = time.monotonic() + self._patience_seconds
        with self._changed:
            if self.state is not SnapshotState.HELD:
                return
            for run in self._runs(first, last):
                self._chunks[run[0] : run[1]] = bytes([SAVING]) * (run[1] - run[0])
                self._work.append(run)
            self._changed.notify_all()
            while self.state is SnapshotState.HELD and self._is_busy(first, last):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    break
            kept = self.state is not SnapshotState.HELD or not self._is_busy(first, last)
        if not kept:
            self.break_off(f"a write waited {self._patience_seconds:g} s for it")

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The LIVE chunks of a range, in runs (first, end) of at most RUN_CHUNKS."""
        at = self._chunks.find(LIVE, first, last + 1)
        while at >= 0:
            end = at + 1
            while end <= last and end - at < RUN_CHUNKS and self._chunks[end] == LIVE:
                end += 1
            yield at, end
            at = self._chunks.find(LIVE, end, last + 1)

    def _is_busy(self, first: int, last: int) -> bool:
        """Whether a chunk of the range is being saved, or a reader has one."""
        held = any(start <= last and first < end for start, end in self._holds)
        return held or self._chunks.find(SAVING, first, last + 1) >= 0

    # ---- the saver -------------------------------------------------------------------------------------------------

    def _save_runs(self) -> None:
        """The thread of the snapshot: a store that hangs keeps this one, and nobody else for longer than patience."""
        buffer = bytearray(RUN_CHUNKS * CHUNK_BYTES)
        while (run := self._next_run()) is not None:
            try:
                self._save(run, memoryview(buffer))
            except Exception as error:  # noqa: BLE001 - whatever it is, production goes on and the snapshot says why
                self.break_off(f"its store failed: {error}")

    def _next_run(self) -> tuple[int, int] | None:
        with self._changed:
            while not self._work and self.state is SnapshotState.HELD:
                self._changed.wait()
            return self._work.popleft() if self.state is SnapshotState.HELD else None

    def _save(self, run: tuple[int, int], buffer: memoryview) -> None:
        start = run[0] * CHUNK_BYTES
        content = buffer[: min(run[1] * CHUNK_BYTES, self.size_bytes) - start]
        self.image.read_into(content, start)
        for chunk in range(*run):
            at = (chunk - run[0]) * CHUNK_BYTES
            slot = self._store_chunk(content[at : at + CHUNK_BYTES])
            if slot is None:
                self.break_off(f"its budget of {self._store.budget_bytes} bytes is reached")
                return
            with self._changed:
                self._saved(chunk, slot)

    def _store_chunk(self, data: memoryview) -> int | None:
        if first_difference(data, memoryview(_ZEROS)[: len(data)]) < 0:
            return _ZERO_SLOT
        slot = self._store.take()
        if slot is not None:
            try:
                self._store.write(slot, data)
            except BaseException:
                self._store.give_back(slot)
                raise
        return slot

    def _saved(self, chunk: int, slot: int) -> None:
        """With the lock held. The chunk may have been retired meanwhile, or the snapshot have ended."""
        if self.state is SnapshotState.HELD and self._chunks[chunk] == SAVING:
            self._chunks[chunk] = SAVED
            if slot != _ZERO_SLOT:
                self._slots[chunk] = slot
        elif slot != _ZERO_SLOT:
            self._store.give_back(slot)
        self._changed.notify_all()

    # ---- the reader's side -----------------------------------------------------------------------------------------

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the buffer with the bytes of the instant. Raises SnapshotEnded, OSError; it is worthless then."""
        at, end = offset, offset + len(buffer)
        while at < end:
            chunk = at // CHUNK_BYTES
            with self._reading(chunk, -(-end // CHUNK_BYTES)) as (stop, slot):
                piece = buffer[at - offset : min(end, stop * CHUNK_BYTES) - offset]
                if slot is None:
                    self.image.read_into(piece, at)
                elif slot == _ZERO_SLOT:
                    piece[:] = _ZEROS[: len(piece)]
                else:
                    self._store.read_into(piece, slot, at % CHUNK_BYTES)
            self._was_read(at, len(piece))
            at += len(piece)

    @contextmanager
    def _reading(self, chunk: int, end: int) -> Iterator[tuple[int, int | None]]:
        """(end of the run, slot) while the run from `chunk` on, before `end`, is held: a slot is that of one chunk,
        None means that the whole run is live."""
        stop, slot = self._hold(chunk, min(end, chunk + HOLD_CHUNKS))
        try:
            yield stop, slot
        except OSError:
            self._check_held()  # the store closes when the snapshot ends: then that is why
            raise
        finally:
            with self._changed:
                self._let_go(chunk, stop, slot)
        self._check_held()

    def _hold(self, chunk: int, end: int) -> tuple[int, int | None]:
        with self._changed:
            while self.state is SnapshotState.HELD and self._chunks[chunk] == SAVING:
                self._changed.wait()
            self._check_held()
            state = self._chunks[chunk]
            if state in (RETIRED, UNNEEDED):
                why = "was given back" if state == RETIRED else "is not among the ranges it was narrowed to"
                raise SnapshotEnded(f"the snapshot's chunk at byte {chunk * CHUNK_BYTES} {why}")
            if state == SAVED:
                slot = self._slots.get(chunk, _ZERO_SLOT)
                if slot != _ZERO_SLOT:
                    self._pins[slot] = self._pins.get(slot, 0) + 1
                return chunk + 1, slot
            rest = self._chunks[chunk:end]
            stop = chunk + len(rest) - len(rest.lstrip(_LIVE))
            self._holds.append((chunk, stop))
            return stop, None

    def _let_go(self, chunk: int, stop: int, slot: int | None) -> None:
        if slot is None:
            self._holds.remove((chunk, stop))
        elif slot != _ZERO_SLOT:
            self._pins[slot] -= 1
            if not self._pins[slot]:
                del self._pins[slot]
                if slot in self._doomed:
                    self._doomed.discard(slot)
                    self._store.give_back(slot)
        self._changed.notify_all()

    def _check_held(self) -> None:
        if self.state is not SnapshotState.HELD:
            raise SnapshotEnded(f"the snapshot is {self.state.value}" + (f": {self.reason}" if self.reason else ""))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What is behind a range, in order and without gaps; what was saved counts as data. Raises SnapshotEnded,
        OSError."""
        at, end = offset, min(offset + length, self.size_bytes)
        while at < end:
            with self._reading(at // CHUNK_BYTES, -(-end // CHUNK_BYTES)) as (stop, slot):
                after = min(end, stop * CHUNK_BYTES)
                found = [Extent(at, after - at, Provisioning.MAPPED)]
                if slot is None:
                    found = list(self.image.extents(at, after - at))
            yield from found
            at = after

    def _was_read(self, offset: int, length: int) -> None:
        """With release_on_read: retires the chunks that have been read from end to end."""
        if self._read is None:
            return
        with self._changed:
            for chunk in range(offset // CHUNK_BYTES, -(-(offset + length) // CHUNK_BYTES)):
                start = chunk * CHUNK_BYTES
                stop = min(start + CHUNK_BYTES, self.size_bytes)
                first, last = (max(offset, start) - start + 511) // 512, (min(offset + length, stop) - start) // 512
                whole = -(-(stop - start) // 512)
                if offset + length >= stop:
                    last = whole
                mask = self._read.get(chunk, 0) | ((1 << max(0, last - first)) - 1) << first
                if mask == (1 << whole) - 1:
                    self._read.pop(chunk, None)
                    self._retire(chunk)
                else:
                    self._read[chunk] = mask
            self._changed.notify_all()

    # ---- what its user decides -------------------------------------------------------------------------------------

    def narrow(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Only the chunks of these ranges (offset, length) are needed from now on. Raises SnapshotEnded."""
        wanted = bytearray(len(self._chunks))
        for offset, length in ranges:
            first, stop = offset // CHUNK_BYTES, min(-(-(offset + length) // CHUNK_BYTES), len(wanted))
            wanted[first:stop] = b"\1" * max(0, stop - first)
        with self._changed:
            self._check_held()
            for chunk in range(len(wanted)):
                if not wanted[chunk] and self._chunks[chunk] != RETIRED:
                    self._drop(chunk, UNNEEDED)
            self._changed.notify_all()

    def retire(self, offset: int, length: int) -> None:
        """The bytes of that range are safe elsewhere: the chunks that lie in it as a whole are given back. Nothing
        happens after the end of the snapshot."""
        end = offset + length
        stop = len(self._chunks) if end >= self.size_bytes else end // CHUNK_BYTES
        with self._changed:
            if self.state is SnapshotState.HELD:
                for chunk in range(-(-offset // CHUNK_BYTES), stop):
                    self._retire(chunk)
                self._changed.notify_all()

    def _retire(self, chunk: int) -> None:
        if self._chunks[chunk] != UNNEEDED:
            self._drop(chunk, RETIRED)

    def _drop(self, chunk: int, state: int) -> None:
        """With the lock held."""
        self._chunks[chunk] = state
        slot = self._slots.pop(chunk, None)
        if slot is None:
            return
        if slot in self._pins:
            self._doomed.add(slot)
        else:
            self._store.give_back(slot)

    def release(self) -> None:
        """It is no longer wanted: reads fail from now on, writes pass."""
        with self._changed:
            self._end(SnapshotState.RELEASED, "")

    def break_off(self, reason: str) -> None:
        """It cannot be kept: reads fail from now on and say why, writes pass."""
        with self._changed:
            ended = self._end(SnapshotState.BROKEN, reason)
        if ended:  # without the lock: the others of its set end too
            log.warning(
                "a snapshot is broken; what needs it fails, the disk goes on", disk=self.image.name, reason=reason
            )
            self._on_broken(f"{self.image.name}: {reason}")

    def _end(self, state: SnapshotState, reason: str) -> bool:
        """With the lock held. False: it had ended before."""
        if self.state is not SnapshotState.HELD:
            return False
        self.state, self.reason = state, reason
        for chunk in list(self._slots):
            self._drop(chunk, RETIRED)
        self._work.clear()
        self._changed.notify_all()
        return True

    def figures(self) -> Figures:
        """As it is now."""
        with self._changed:
            counts = [self._chunks.count(state) * CHUNK_BYTES for state in range(5)]
            return Figures(
                self.state,
                self.reason,
                self.size_bytes,
                counts[LIVE] + counts[SAVING],
                counts[SAVED],
                counts[RETIRED],
                self._store.stored_bytes,
                self._store.budget_bytes,
            )
