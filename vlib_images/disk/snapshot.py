"""Snapshots of disk images: one instant of one image or several, kept by copying what is about to change.

A snapshot is a layer beside the image, not under it. Every change of the image passes its `before_change` hook; the old
content of the chunks that a change touches for the first time is read into memory, from where it goes to the snapshot's
store (snapshot_saver), and then the change happens in place. So production never depends on the store: when the store
is full, fails, or keeps a write waiting, it is the snapshot that ends (BROKEN), never the write. Without a snapshot the
hook is None, and that is all it costs.

Each chunk of 64 KiB is in one state, as the snapshot sees it:

- LIVE: needed and not saved. Its content is that of the image, which nobody may change before it is saved.
- SAVING: a change is under way for which it is read first; whoever else wants to change or read it waits.
- SAVED: the store has it, or memory that goes there (or it was all zeros, which takes no room). The image's own chunk
  may be changed freely: a second change, before the chunk is read, finds SAVED and does nothing, and the reader gets
  the instant's data.
- RETIRED: what was wanted of it is safe elsewhere. Its room in the store is free again, and changes pass.
- UNNEEDED: nobody asked for it (`narrow`). Changes pass.

A reader of LIVE chunks holds them for one read. A change waits for such holds before it makes a chunk SAVED, so that a
read returns either all of the old bytes or an error; from SAVED on nobody reads the image's own chunk. What is retired
under a reader is an error to it. A change that has waited PATIENCE_SECONDS breaks the snapshot and goes on; a read that
was under way then finds the snapshot BROKEN when it is done, and says so instead of returning what it may have read.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

import structlog

from vlib_images.disk.image import Extent, Image, Provisioning
from vlib_images.disk.snapshot_spill import ZERO_SLOT, NotSaved, Spill
from vlib_images.disk.snapshot_store import CHUNK_BYTES
from vlib_images.disk.wanted import NONE, SECTOR_BYTES, SOME, WHOLE, WantedSectors, pieces

PATIENCE_SECONDS: Final = 5.0
WINDOW_CHUNKS: Final = 1024  # of a change that are saved before the next ones: 64 MiB
SMALL_CHANGE_CHUNKS: Final = 16  # of a longer one it is looked up where the image holds nothing
HOLD_CHUNKS: Final = 1024  # held at once by a reader: 64 MiB, more than any one read
LOOK_EXTENTS: Final = 32  # of the image's that are looked up at once: nobody may want the rest
STEP_CHUNKS: Final = 8192  # retired at once: a change that waits for the lock waits for no more
LIVE, SAVING, SAVED, RETIRED, UNNEEDED = range(5)
_PASS: Final = bytes([SAVED, RETIRED, UNNEEDED])  # in these states a change need not wait
_KEPT: Final = bytes([LIVE, SAVING, SAVED])
_LIVE: Final = bytes([LIVE])
_TO_RETIRED: Final = bytes.maketrans(_KEPT, bytes([RETIRED] * 3))
_TO_UNNEEDED: Final = bytes.maketrans(_KEPT, bytes([UNNEEDED] * 3))
_NONE_RUNS: Final = re.compile(bytes([NONE]) + b"+")
_ZEROS: Final = bytes(CHUNK_BYTES)
log = structlog.get_logger(__name__)


class SnapshotState(Enum):
    """HELD until it ends: RELEASED when it is no longer wanted, BROKEN when it could not be kept."""

    HELD = "held"
    RELEASED = "released"
    BROKEN = "broken"


class SnapshotEnded(OSError):
    """The snapshot's data is not to be had any more, or this part of it: str() says why."""


class NotKept(SnapshotEnded):
    """This part of the snapshot is not to be had: it was given back, or was never wanted. The rest of it is."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What an operator sees of a snapshot, in bytes."""

    state: SnapshotState
    reason: str
    size_bytes: int
    live_bytes: int
    saved_bytes: int
    retired_bytes: int


class Snapshot:
    """One image at one instant. SnapshotSet.take() makes them. on_broken is called once, when it has broken.

    release_on_read: what has been read once is retired, instead of when retire() says so.
    """

    def __init__(
        self,
        image: Image,
        spill: Spill,
        *,
        release_on_read: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
        on_broken: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.image = image
        self.size_bytes = image.size_bytes
        self.state = SnapshotState.HELD
        self.reason = ""
        self._spill = spill
        self._patience_seconds = patience_seconds
        self._on_broken = on_broken
        self._release_on_read = release_on_read
        self._chunks = bytearray(-(-image.size_bytes // CHUNK_BYTES))  # LIVE
        self._slots: dict[int, int] = {}  # of SAVING and SAVED chunks that are not all zeros
        self._holds: list[tuple[int, int]] = []  # runs (first, end) of chunks that readers have live
        self._left: dict[int, int] = {}  # chunk: its sectors that are still to be made safe; else all of them
        self._changed = threading.Condition()

    def begin(self) -> None:
        """The instant is now: nobody writes the image. What was prepared is of the size that it has now."""
        if self.image.size_bytes != self.size_bytes:
            self.size_bytes = self.image.size_bytes
            self._chunks = bytearray(-(-self.size_bytes // CHUNK_BYTES))

    # ---- the writer's side -----------------------------------------------------------------------------------------

    def preserve(self, offset: int, length: int) -> None:
        """The bytes of that range are about to change. Returns when they may; raises nothing."""
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        if self._chunks[first : last + 1].strip(_PASS):
            self._preserve(first, min(last + 1, len(self._chunks)))

    def _preserve(self, first: int, stop: int) -> None:
        deadline = time.monotonic() + self._patience_seconds
        long = stop - first > SMALL_CHANGE_CHUNKS
        for at in range(first, stop, WINDOW_CHUNKS):
            end = min(stop, at + WINDOW_CHUNKS)
            if not self._chunks[at:end].strip(_PASS):
                continue
            try:
                self._save(at, end, self._holes(at, end) if long else (), deadline)
            except TimeoutError:
                self.break_off(f"a write waited {self._patience_seconds:g} s for it")
                return
            except NotSaved as error:
                self.break_off(str(error))
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the write goes on and the snapshot says why
                self.break_off(f"the disk could not be read: {error}")
                return

    def _save(self, first: int, stop: int, holes: Iterable[int], deadline: float) -> None:
        """Makes the chunks of a range SAVED, or sees that somebody else does. Raises as Spill.save()."""
        with self._changed:
            if self.state is not SnapshotState.HELD:
                return
            mine = [chunk for chunk in range(first, stop) if self._chunks[chunk] == LIVE]
            for chunk in mine:
                self._chunks[chunk] = SAVING
        for chunk in mine:
            if chunk not in holes:
                self._save_one(chunk, deadline)
        with self._changed:
            if self._holds and mine:
                self._wait(lambda: not self._is_held(mine[0], mine[-1] + 1), deadline)
            for chunk in mine:
                if self._chunks[chunk] == SAVING:  # else it was retired meanwhile
                    self._chunks[chunk] = SAVED
            self._changed.notify_all()
            if len(mine) < stop - first:
                self._wait(lambda: self._chunks.find(SAVING, first, stop) < 0, deadline)

    def _save_one(self, chunk: int, deadline: float) -> None:
        """The content of a chunk goes into memory, and from there to the store. Raises as Spill.save()."""
        start = chunk * CHUNK_BYTES
        slot = self._spill.save(self.image, start, min(CHUNK_BYTES, self.size_bytes - start), deadline)
        if slot == ZERO_SLOT:
            return
        with self._changed:
            if self.state is SnapshotState.HELD and self._chunks[chunk] == SAVING:
                self._slots[chunk] = slot
                return
        self._spill.give_back(slot)  # it was retired meanwhile

    def _holes(self, first: int, stop: int) -> set[int]:
        """Chunks of a range in which the image holds nothing: they need not be read, for they are zeros."""
        start, end = first * CHUNK_BYTES, min(stop * CHUNK_BYTES, self.size_bytes)
        found: set[int] = set()
        for extent in self.image.extents(start, end - start):
            if extent.state is not Provisioning.MAPPED:
                after = extent.offset + extent.length
                last = stop if after >= self.size_bytes else after // CHUNK_BYTES
                found.update(range(-(-extent.offset // CHUNK_BYTES), last))
        return found

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        """With the lock held: until the condition holds or the snapshot has ended. Raises TimeoutError."""
        while self.state is SnapshotState.HELD and not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._changed.wait(left)

    def _is_held(self, first: int, stop: int) -> bool:
        """Whether a reader has a chunk of the range."""
        return any(start < stop and first < end for start, end in self._holds)

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
                elif slot == ZERO_SLOT:
                    piece[:] = _ZEROS[: len(piece)]
                else:
                    self._spill.read_into(piece, slot, at % CHUNK_BYTES)
            at += len(piece)
        if self._release_on_read:
            self.retire(offset, len(buffer))

    def pass_over(self, offset: int, length: int) -> None:
        """A reader was told by extents() that a range holds nothing, and does not read it."""
        if self._release_on_read:
            self.retire(offset, length)

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
                given_back = self._let_go(chunk, stop, slot)
        self._check_held()
        if given_back is not None:
            raise self._gone(given_back)

    def _hold(self, chunk: int, end: int) -> tuple[int, int | None]:
        with self._changed:
            while self.state is SnapshotState.HELD and self._chunks[chunk] == SAVING:
                self._changed.wait()
            self._check_held()
            state = self._chunks[chunk]
            if state in (RETIRED, UNNEEDED):
                raise self._gone(chunk)
            if state == SAVED:
                slot = self._slots.get(chunk, ZERO_SLOT)
                if slot != ZERO_SLOT:
                    self._spill.pin(slot)
                return chunk + 1, slot
            rest = self._chunks[chunk:end]
            stop = chunk + len(rest) - len(rest.lstrip(_LIVE))
            self._holds.append((chunk, stop))
            return stop, None

    def _let_go(self, chunk: int, stop: int, slot: int | None) -> int | None:
        """With the lock held. A live chunk of the run that was given back meanwhile: it may have been changed."""
        if slot is not None:
            if slot != ZERO_SLOT:
                self._spill.unpin(slot)
            return None
        self._holds.remove((chunk, stop))
        self._changed.notify_all()
        lost = self._chunks[chunk:stop].lstrip(_KEPT)
        return stop - len(lost) if lost else None

    def _gone(self, chunk: int) -> NotKept:
        unneeded = self._chunks[chunk] == UNNEEDED
        why = "is not among the ranges it was narrowed to" if unneeded else "was given back"
        return NotKept(f"the snapshot's chunk at byte {chunk * CHUNK_BYTES} {why}")

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
                found = [Extent(at, after - at, Provisioning.DEALLOCATED if slot == ZERO_SLOT else Provisioning.MAPPED)]
                if slot is None:
                    found = list(islice(self.image.extents(at, after - at), LOOK_EXTENTS))
            yield from found
            at = found[-1].offset + found[-1].length

    # ---- what its user decides -------------------------------------------------------------------------------------

    def narrow(self, wanted: WantedSectors) -> None:
        """Only these sectors are needed from now on; what was retired stays so. Raises SnapshotEnded."""
        for first in range(0, len(self._chunks), STEP_CHUNKS):
            stop = min(len(self._chunks), first + STEP_CHUNKS)
            with self._changed:
                self._check_held()
                for run in _NONE_RUNS.finditer(wanted.chunks, first, stop):
                    self._drop(run.start(), run.end(), _TO_UNNEEDED)
                self._changed.notify_all()
        with self._changed:
            for chunk, bits in wanted.parts.items():
                if wanted.chunks[chunk] == SOME and self._is_done(chunk, WHOLE & ~bits):
                    self._drop(chunk, chunk + 1, _TO_RETIRED)
            self._changed.notify_all()

    def retire(self, offset: int, length: int) -> None:
        """The whole sectors of that range are safe elsewhere. A chunk of which all that is wanted is safe is given
        back. Nothing happens after the end of the snapshot."""
        end = offset + length
        last = -(-end // SECTOR_BYTES) if end >= self.size_bytes else end // SECTOR_BYTES
        for first, stop, bits in pieces(-(-offset // SECTOR_BYTES), last, self.size_bytes):
            for at in range(first, stop, STEP_CHUNKS):
                with self._changed:
                    if self.state is not SnapshotState.HELD:
                        return
                    if bits == WHOLE or self._is_done(first, bits):
                        self._drop(at, min(stop, at + STEP_CHUNKS), _TO_RETIRED)
                        self._changed.notify_all()

    def _is_done(self, chunk: int, bits: int) -> bool:
        """With the lock held. Whether nothing of a chunk is left when these sectors of it are not needed either."""
        if self._chunks[chunk] in (RETIRED, UNNEEDED):
            return False
        left = self._left.get(chunk, WHOLE) & ~bits
        self._left[chunk] = left
        return not left

    def _drop(self, first: int, stop: int, table: bytes) -> None:
        """With the lock held. Chunks that nobody needs any more."""
        for kept in (self._slots, self._left):
            chunks = range(first, stop) if len(kept) > stop - first else [at for at in kept if first <= at < stop]
            for chunk in chunks:
                value = kept.pop(chunk, None)
                if value is not None and kept is self._slots:
                    self._spill.give_back(value)
        self._chunks[first:stop] = self._chunks[first:stop].translate(table)

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
        """With the lock held. False: it had ended before. The set gives all slots back at once."""
        if self.state is not SnapshotState.HELD:
            return False
        self.state, self.reason = state, reason
        self._chunks[:] = self._chunks.translate(_TO_RETIRED)
        self._slots.clear()
        self._left.clear()
        self._changed.notify_all()
        return True

    def wait_for_readers(self, timeout_seconds: float) -> bool:
        """After its end: until nobody reads the image for it any more. False: somebody still does."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._holds, timeout_seconds)

    def figures(self) -> Figures:
        """As it is now."""
        with self._changed:
            counts = [self._chunks.count(state) * CHUNK_BYTES for state in range(5)]
            return Figures(
                self.state, self.reason, self.size_bytes, counts[LIVE], counts[SAVING] + counts[SAVED], counts[RETIRED]
            )
