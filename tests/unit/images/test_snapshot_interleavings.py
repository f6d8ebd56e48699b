"""Writers, readers and retires in every order that a seed chooses: one runs at a time, and hands over where it may be
interrupted. A failure names its seed, and the seed gives the same run again.

TAPEBAY_SNAPSHOT_ROUNDS makes it as long as wanted.
"""

import os
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from datamover.engine import SAVER_FAILED, SAVER_FULL, SAVER_STORED, SAVER_ZEROS
from vlib_images.disk import snapshot as snapshot_module
from vlib_images.disk import snapshot_spill
from vlib_images.disk.image import Image
from vlib_images.disk.memory import MemoryImage
from vlib_images.disk.snapshot import SnapshotEnded, SnapshotState
from vlib_images.disk.snapshot_image import SnapshotImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import CHUNK_BYTES, MemoryChunks

ROUNDS = int(os.environ.get("TAPEBAY_SNAPSHOT_ROUNDS", "1"))
SECTOR = 512
CHUNKS = 3
PER_CHUNK = CHUNK_BYTES // SECTOR
SECTORS = CHUNKS * PER_CHUNK


class Stuck(Exception):
    """Everybody waits for somebody."""


class Turns:
    """Threads of which one runs: each gives its turn away in pause(), to one that a seed chooses among the ready."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.failures: list[BaseException] = []
        self._ready: dict[int, Callable[[], bool]] = {}
        self._turn = -1
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._who = threading.local()

    def add(self, run: Callable[[], object]) -> None:
        """One more, who is ready."""
        number = len(self._threads)
        self._ready[number] = lambda: True
        self._threads.append(threading.Thread(target=self._run, args=(number, run)))

    def finish(self) -> None:
        """Until all have ended. Raises what one of them raised."""
        for thread in self._threads:
            thread.start()
        self._pass_on()
        for thread in self._threads:
            thread.join(60)
        if self.failures:
            raise self.failures[0]

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Others may run, until it is this one's turn again and it is ready."""
        number = getattr(self._who, "number", None)
        if number is None:  # the test itself, before and after
            assert ready()
            return
        self._ready[number] = ready
        self._pass_on()
        self._await(number)

    def _run(self, number: int, run: Callable[[], object]) -> None:
        self._who.number = number
        try:
            self._await(number)
            run()
        except BaseException as error:  # noqa: BLE001 - finish() raises it
            self.failures.append(error)
        finally:
            del self._ready[number]
            self._pass_on()

    def _await(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == number or self.failures)
        if self.failures:
            raise Stuck

    def _pass_on(self) -> None:
        for _ in range(100):
            able = [number for number, ready in sorted(self._ready.items()) if ready()]
            if able or not self._ready:
                break
            self.now += 0.5  # nobody but the clock can go on
        with self._changed:
            if able:
                self._turn = self.rng.choice(able)
            elif self._ready:
                self.failures.append(Stuck(f"{len(self._ready)} wait for each other"))
            self._changed.notify_all()


class Condition:
    """A threading.Condition of those who take turns."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._taken = False
        self._waiting: list[list[bool]] = []

    def __enter__(self) -> None:
        self._turns.pause(lambda: not self._taken)
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False

    def wait(self, timeout: float | None = None) -> bool:
        told, until = [False], None if timeout is None else self._turns.now + timeout
        self._waiting.append(told)
        self._taken = False
        late = lambda: until is not None and self._turns.now >= until  # noqa: E731
        self._turns.pause(lambda: not self._taken and (told[0] or late()))
        self._taken = True
        return told[0]

    def notify_all(self) -> None:
        for told in self._waiting:
            told[0] = True
        self._waiting.clear()


class Saver:
    """What the engine's does, in turns. fails: how likely its store is to fail at a chunk; late: a save to time out."""

    threads = 0

    def __init__(self, turns: Turns, store: MemoryChunks, fails: float, late: float) -> None:
        self.failure: OSError | None = None
        self.closed = False
        self._turns, self._store, self._fails, self._late = turns, store, fails, late
        self._memory: dict[int, bytes] = {}
        self._writing = -1

    def save(self, image: Image, offset: int, length: int, slot: int, _timeout: float, /) -> int:
        if self.failure or self.closed:
            return SAVER_FAILED
        buffer = bytearray(length)
        image.read_into(buffer, offset)
        if self._turns.rng.random() < self._late:
            raise TimeoutError
        if not any(buffer):
            return SAVER_ZEROS
        if slot < 0:
            return SAVER_FULL
        self._memory[slot] = bytes(buffer)
        self._turns.pause()
        return SAVER_STORED

    def read_into(self, buffer: memoryview, slot: int, offset: int, /) -> bool:
        held = self._memory.get(slot)
        if held is not None:
            buffer[:] = held[offset : offset + len(buffer)]
        return held is not None

    def forget(self, slot: int, /) -> bool:
        if slot != self._writing:
            self._memory.pop(slot, None)
        return slot != self._writing

    def close(self) -> None:
        self.closed = True

    def write(self) -> None:
        """What its second thread does, until the snapshot is over."""
        while not self.closed:
            self._turns.pause(lambda: self.closed or bool(self._memory))
            if self.closed or self.failure:
                return
            self._writing = self._turns.rng.choice(sorted(self._memory))
            content = self._memory[self._writing]
            self._turns.pause()
            if self._turns.rng.random() < self._fails:
                self.failure = OSError(5, "Input/output error")
                return
            self._store.write(self._writing, memoryview(content))
            self._turns.pause()
            self._memory.pop(self._writing, None)
            self._writing = -1


class Halves(MemoryImage):
    """Whoever reads or writes it can be interrupted half-way."""

    turns: Turns

    def read_into(self, buffer: Any, offset: int) -> None:
        view = memoryview(buffer)
        half = len(view) // 2 // SECTOR * SECTOR
        self.turns.pause()
        super().read_into(view[:half], offset)
        self.turns.pause()
        super().read_into(view[half:], offset + half)
        self.turns.pause()

    def write(self, buffer: Any, offset: int, *, durable: bool = False) -> None:
        view = memoryview(buffer)
        if self.before_change is not None:
            self.before_change(offset, len(view))
        half = len(view) // 2 // SECTOR * SECTOR
        self.turns.pause()
        for part, at in ((view[:half], offset), (view[half:], offset + half)):
            hook, self.before_change = self.before_change, None  # it was asked for all of it
            super().write(part, at, durable=durable)
            self.before_change = hook
            self.turns.pause()


def stamped(number: int, count: int) -> bytes:
    return b"".join((number + index).to_bytes(8, "little") * (SECTOR // 8) for index in range(count))


def content(image: Image, first: int = 0, count: int = SECTORS) -> bytes:
    buffer = bytearray(count * SECTOR)
    image.read_into(buffer, first * SECTOR)
    return bytes(buffer)


def a_range(rng: random.Random) -> tuple[int, int]:
    first = rng.randrange(SECTORS)
    return first, min(SECTORS - first, rng.choice((1, 4, PER_CHUNK // 2, PER_CHUNK, 2 * PER_CHUNK)))


class Run:
    """One disk with one snapshot, two writers, two readers and one who retires, and perhaps ends it."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns = turns = Turns(seed)
        self.rng = turns.rng
        clock = SimpleNamespace(monotonic=lambda: turns.now)
        monkeypatch.setattr(snapshot_module, "time", clock)
        monkeypatch.setattr(snapshot_spill, "time", clock)
        monkeypatch.setattr(snapshot_module, "threading", SimpleNamespace(Condition=lambda: Condition(turns)))
        self.image = Halves(SECTORS * SECTOR)
        self.image.turns = turns
        self.image.write(stamped(1, SECTORS), 0)
        if self.rng.random() < 0.3:
            self.image.deallocate(CHUNK_BYTES, CHUNK_BYTES)
        self.instant = content(self.image)
        self.store = MemoryChunks(self.rng.choice((1, 2, CHUNKS, CHUNKS)) * CHUNK_BYTES)
        rarely = self.rng.random() < 0.2
        self.saver = Saver(turns, self.store, 0.3 if rarely else 0.0, 0.1 if rarely else 0.0)
        monkeypatch.setattr(snapshot_spill, "saver_for", lambda *_: self.saver)
        self.taken = SnapshotSet.take([self.image], self.store, release_on_read=self.rng.random() < 0.2)
        self.snapshot = self.taken.snapshots[0]
        self.retired = [False] * SECTORS
        self.by_reading = self.snapshot._release_on_read
        self.written = [1 + sector if any(self.instant[sector * SECTOR :][:8]) else 0 for sector in range(SECTORS)]
        self.working = 5

    def go(self) -> None:
        for which in range(2):
            self.turns.add(lambda which=which: self._ending(lambda: self._write(which)))  # type: ignore[misc]
            self.turns.add(lambda: self._ending(self._read))
        self.turns.add(lambda: self._ending(self._retire))
        self.turns.add(self.saver.write)
        self.turns.finish()

    def _ending(self, run: Callable[[], None]) -> None:
        run()
        self.working -= 1
        if not self.working:
            self.taken.release()

    def _write(self, which: int) -> None:
        """Chunks that both may write, but sectors of its own."""
        for step in range(5):
            first = self.rng.randrange(SECTORS // 2) * 2 + which
            number = (which + 1 << 40) + (step << 20)
            if self.rng.random() < 0.2:
                self.image.deallocate(first * SECTOR, SECTOR)
                self.written[first] = 0
            else:
                self.image.write(stamped(number, 1), first * SECTOR)
                self.written[first] = number

    def _read(self) -> None:
        for _ in range(4):
            first, count = a_range(self.rng)
            try:
                found = content(SnapshotImage(self.snapshot), first, count)
            except SnapshotEnded:
                chunks = range(first // PER_CHUNK * PER_CHUNK, -(-(first + count) // PER_CHUNK) * PER_CHUNK)
                over = self.snapshot.state is not SnapshotState.HELD
                assert over or self.by_reading or any(self.retired[sector] for sector in chunks)
            else:
                assert found == self.instant[first * SECTOR : (first + count) * SECTOR]

    def _retire(self) -> None:
        for _ in range(3):
            self.turns.pause()
            first, count = a_range(self.rng)
            for sector in range(first, first + count):
                self.retired[sector] = True
            self.snapshot.retire(first * SECTOR, count * SECTOR)
        if self.rng.random() < 0.3:
            self.taken.release()


@pytest.mark.parametrize("seeds", [range(start, start + 25) for start in range(0, 300 * ROUNDS, 25)], ids=str)
def test_in_any_order(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in seeds:
        run = Run(seed, monkeypatch)
        try:
            run.go()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        assert run.store.stored_bytes == 0, f"seed {seed}"
        assert run.image.before_change is None, f"seed {seed}"
        expected = b"".join(number.to_bytes(8, "little") * (SECTOR // 8) for number in run.written)
        assert content(run.image) == expected, f"seed {seed}: the disk lost a write"


def test_a_seed_gives_the_same_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for _ in range(2):
        run = Run(11, monkeypatch)
        run.go()
        ends.append((content(run.image), run.snapshot.reason, run.turns.now, run.rng.random()))
    assert ends[0] == ends[1]


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure of the test: a snapshot that lets changes pass before readers have let go of the live chunk."""
    monkeypatch.setattr(snapshot_module.Snapshot, "_is_held", lambda *_: False)
    with pytest.raises((AssertionError, Stuck)):
        for seed in range(400):
            Run(seed, monkeypatch).go()
