"""Snapshots against an oracle: every sector carries the number of the write that it came from.

The instant's oracle is a copy of the image taken while no writer was at work; that of the disk is what each writer
wrote last. TAPEBAY_SNAPSHOT_ROUNDS makes the runs as long as wanted; a failure names its seed.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from vlib_images.disk.image import Image
from vlib_images.disk.memory import MemoryImage
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot import SnapshotEnded, SnapshotState
from vlib_images.disk.snapshot_image import SnapshotImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import CHUNK_BYTES, FileStore, MemoryChunks
from vlib_images.disk.wanted import WantedSectors

ROUNDS = int(os.environ.get("TAPEBAY_SNAPSHOT_ROUNDS", "1"))
SECTOR = 512
CHUNKS = 6
SIZE = CHUNKS * CHUNK_BYTES - 5 * SECTOR
SECTORS = SIZE // SECTOR
PER_CHUNK = CHUNK_BYTES // SECTOR


def stamped(number: int, count: int) -> bytes:
    return b"".join((number + index).to_bytes(8, "little") * (SECTOR // 8) for index in range(count))


def content(image: Image, first: int = 0, count: int = SECTORS) -> bytes:
    buffer = bytearray(count * SECTOR)
    image.read_into(buffer, first * SECTOR)
    return bytes(buffer)


def a_range(rng: random.Random) -> tuple[int, int]:
    first = rng.randrange(SECTORS)
    return first, min(SECTORS - first, rng.choice((1, 1, 3, 40, PER_CHUNK, 3 * PER_CHUNK)))


# ---- one thread: every answer is known -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("seed", range(4 * ROUNDS))
def test_any_sequence_of_operations(tmp_path: Path, kind: str, seed: int) -> None:
    rng, number = random.Random(seed), 1
    image: Image = DiskImage.create(tmp_path / "a", SIZE) if kind == "file" else MemoryImage(SIZE)
    image.write(stamped(number, SECTORS), 0)
    for _ in range(4):
        budget = rng.choice((2, 4, CHUNKS)) * CHUNK_BYTES
        store = FileStore(tmp_path, "s", budget) if kind == "file" else MemoryChunks(budget)
        instant = content(image)
        taken = SnapshotSet.take([image], store)
        (snapshot,), view = taken.snapshots, SnapshotImage(taken.snapshots[0])
        left = [set(range(at, min(at + PER_CHUNK, SECTORS))) for at in range(0, SECTORS, PER_CHUNK)]
        gone: set[int] = set()
        changed: set[int] = set()
        for _ in range(60):
            first, count = a_range(rng)
            chunks = range(first // PER_CHUNK, (first + count - 1) // PER_CHUNK + 1)
            match rng.choice(("write", "write", "atomic", "discard", "anchor", "read", "read", "retire", "narrow")):
                case "write" | "atomic" as how:
                    number += SECTORS
                    write = image.write if how == "write" else image.write_atomic
                    write(stamped(number, count), first * SECTOR)
                    assert content(image, first, count) == stamped(number, count)
                    changed |= set(chunks) - gone
                case "discard" | "anchor" as how:
                    (image.deallocate if how == "discard" else image.anchor)(first * SECTOR, count * SECTOR)
                    assert content(image, first, count) == bytes(count * SECTOR)
                    changed |= set(chunks) - gone
                case "retire":
                    snapshot.retire(first * SECTOR, count * SECTOR)
                    for chunk in chunks:
                        left[chunk] -= set(range(first, first + count))
                case "narrow" if rng.random() < 0.1 and taken.state is SnapshotState.HELD:
                    wanted = WantedSectors(SIZE)
                    wanted.add(first * SECTOR, count * SECTOR)
                    snapshot.narrow(wanted)
                    for chunk in range(CHUNKS):
                        left[chunk] &= set(range(first, first + count))
                case _:
                    if taken.state is SnapshotState.HELD and not gone & set(chunks):
                        expected = instant[first * SECTOR : (first + count) * SECTOR]
                        assert content(view, first, count) == expected, f"seed {seed}"
                    else:
                        with pytest.raises(SnapshotEnded):
                            content(view, first, count)
            gone = {chunk for chunk in range(CHUNKS) if not left[chunk]}
            eventually(lambda: taken.stored_bytes <= len(changed - gone) * CHUNK_BYTES)  # noqa: B023
            if taken.state is SnapshotState.HELD:  # an instant of zeros takes no room, so this is the most
                assert taken.stored_bytes <= len(changed - gone) * CHUNK_BYTES
            else:
                assert taken.stored_bytes == 0
        taken.release()
        assert taken.join(60)
        assert store.stored_bytes == 0
        assert image.before_change is None
    image.close()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["a"])


# ---- many threads ----------------------------------------------------------------------------------------------------


class Gate:
    """What a logical unit has: writers share it, and a snapshot is taken while nobody is inside."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.inside = 0
        self.closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.closed)
            self.inside += 1
        try:
            yield
        finally:
            with self.changed:
                self.inside -= 1
                self.changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.closed)
            self.closed = True
            self.changed.wait_for(lambda: not self.inside)
        try:
            yield
        finally:
            with self.changed:
                self.closed = False
                self.changed.notify_all()


def pause(rng: random.Random) -> None:
    """Gives other threads their turn at seeded moments."""
    if rng.random() < 0.4:
        threading.Event().wait(rng.random() / 2000)


class Pausing(MemoryImage):
    """Between the bytes of a read or write too."""

    rng = random.Random(0)

    def read_into(self, buffer: object, offset: int) -> None:
        view = memoryview(buffer)  # type: ignore[arg-type]
        half = len(view) // 2 // SECTOR * SECTOR
        super().read_into(view[:half], offset)
        pause(self.rng)
        super().read_into(view[half:], offset + half)

    def write(self, buffer: object, offset: int, *, durable: bool = False) -> None:
        pause(self.rng)
        super().write(buffer, offset, durable=durable)  # type: ignore[arg-type]


class PausingFile(DiskImage):
    """The same of a file, whose snapshots the engine saves."""

    rng = random.Random(0)

    def read_into(self, buffer: object, offset: int) -> None:
        view = memoryview(buffer)  # type: ignore[arg-type]
        half = len(view) // 2 // SECTOR * SECTOR
        super().read_into(view[:half], offset)
        pause(self.rng)
        super().read_into(view[half:], offset + half)

    def write(self, buffer: object, offset: int, *, durable: bool = False) -> None:
        pause(self.rng)
        super().write(buffer, offset, durable=durable)  # type: ignore[arg-type]


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("seed", range(3 * ROUNDS))
def test_writers_readers_and_retires_at_once(tmp_path: Path, quick_switches: None, kind: str, seed: int) -> None:
    rng, gate, failures = random.Random(seed), Gate(), []
    image = PausingFile.create(tmp_path / "a", SIZE) if kind == "file" else Pausing(SIZE)
    image.rng = random.Random(seed)  # type: ignore[union-attr]
    image.write(stamped(1, SECTORS), 0)
    written = [1 + sector for sector in range(SECTORS)]
    stop = threading.Event()

    def write(which: int) -> None:
        """Its own sectors only, among the other writer's in every chunk."""
        mine, number = random.Random(seed * 10 + which), (which + 1) << 40
        while not stop.is_set():
            sector, number = mine.randrange(SECTORS // 2) * 2 + which, number + 1
            if sector >= SECTORS:
                continue
            with gate.shared():
                if mine.random() < 0.2:
                    image.deallocate(sector * SECTOR, SECTOR)
                    written[sector] = 0
                else:
                    image.write(number.to_bytes(8, "little") * (SECTOR // 8), sector * SECTOR)
                    written[sector] = number

    def read(which: int, view: SnapshotImage, instant: bytes, ended: threading.Event) -> None:
        mine = random.Random(seed * 100 + which)
        while not ended.is_set():
            first, count = a_range(mine)
            try:
                found = content(view, first, count)
            except SnapshotEnded:
                continue
            except Exception as error:  # noqa: BLE001 - a thread that died would check nothing
                failures.append(f"seed {seed}: {error!r}")
                return
            if found != instant[first * SECTOR : (first + count) * SECTOR]:
                failures.append(f"seed {seed}: sectors {first} to {first + count - 1} are not the instant's")

    writers = [threading.Thread(target=write, args=(which,)) for which in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(6):
            instants: list[bytes] = []

            @contextmanager
            def hold(instants: list[bytes] = instants) -> Iterator[None]:
                with gate.alone():
                    instants.append(content(image))
                    yield

            budget = rng.choice((3, CHUNKS, CHUNKS)) * CHUNK_BYTES
            store = FileStore(tmp_path, "s", budget) if kind == "file" else MemoryChunks(budget)
            taken = SnapshotSet.take([image], store, hold=hold(), release_on_read=rng.random() < 0.3)
            ended, view = threading.Event(), SnapshotImage(taken.snapshots[0])
            readers = [threading.Thread(target=read, args=(which, view, instants[0], ended)) for which in range(2)]
            for reader in readers:
                reader.start()
            for _ in range(5):
                threading.Event().wait(rng.random() / 50)
                first, count = a_range(rng)
                taken.snapshots[0].retire(first * SECTOR, count * SECTOR)
            if rng.random() < 0.5:
                taken.release()
            ended.set()
            for reader in readers:
                reader.join(60)
            taken.release()
            assert store.stored_bytes == 0
    finally:
        stop.set()
        for writer in writers:
            writer.join(60)
    assert not failures, failures[:3]
    assert image.before_change is None
    expected = b"".join(number.to_bytes(8, "little") * (SECTOR // 8) for number in written)
    assert content(image) == expected, f"seed {seed}: the disk lost a write"
    image.close()


# ---- kills -----------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys
from pathlib import Path
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import FileStore

image = DiskImage.open(Path(sys.argv[1]))
SnapshotSet.take([image], FileStore(Path(sys.argv[2]), "s", 1 << 20))
number = 0
while True:
    number += 1
    image.write(number.to_bytes(8, "little") * 64, number % 700 * 512, durable=True)
    os.write(1, number.to_bytes(8, "little"))
"""


@pytest.mark.parametrize("seed", range(2 * ROUNDS))
def test_a_kill_leaves_the_disk_whole_and_nothing_of_the_snapshot(tmp_path: Path, seed: int) -> None:
    DiskImage.create(tmp_path / "a.img", SIZE).close()
    store = tmp_path / "store"
    store.mkdir()
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "a.img", store], stdout=subprocess.PIPE)
    assert process.stdout is not None
    wanted = random.Random(seed).randrange(1, 400) * 8
    told = process.stdout.read(wanted)
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read()
    process.wait()
    process.stdout.close()
    last = int.from_bytes(told[len(told) // 8 * 8 - 8 :][:8], "little")
    image = DiskImage.open(tmp_path / "a.img")
    for number in range(max(1, last - 699), last + 1):
        held = int.from_bytes(content(image, number % 700, 1)[:8], "little")
        assert held == number or held == number + 700 == last + 1, f"seed {seed}"
    image.close()
    assert list(store.iterdir()) == []
