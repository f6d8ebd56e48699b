"""Snapshots of disk images: the instant stays what it was, whatever is done to the disk; and the disk never suffers."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import becomes, eventually
from vlib_images.disk.image import Image, Provisioning
from vlib_images.disk.memory import MemoryImage
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot import SnapshotEnded, SnapshotState
from vlib_images.disk.snapshot_image import SnapshotImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import CHUNK_BYTES, FileStore, MemoryChunks, SnapshotStore
from vlib_images.disk.wanted import WantedSectors

CHUNKS = 16
SIZE = CHUNKS * CHUNK_BYTES - 512  # the last chunk is not whole
BUDGET = CHUNKS * CHUNK_BYTES


@pytest.fixture(params=["file", "memory"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Image]:
    made: Image = DiskImage.create(tmp_path / "a.img", SIZE) if request.param == "file" else MemoryImage(SIZE)
    for chunk in range(CHUNKS):
        made.write(bytes([chunk + 1]) * min(CHUNK_BYTES, SIZE - chunk * CHUNK_BYTES), chunk * CHUNK_BYTES)
    yield made
    made.close()


@pytest.fixture(params=["file", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., SnapshotStore]:
    def make(budget: int = BUDGET) -> SnapshotStore:
        return FileStore(tmp_path, "s", budget) if request.param == "file" else MemoryChunks(budget)

    return make


@contextmanager
def taken(image: Image, store: SnapshotStore, **options: object) -> Iterator[SnapshotSet]:
    made = SnapshotSet.take([image], store, **options)
    try:
        yield made
    finally:
        made.release()
        made.join(60)
        assert store.stored_bytes == 0
        assert image.before_change is None


def content(image: Image, offset: int = 0, length: int = SIZE) -> bytes:
    buffer = bytearray(length)
    image.read_into(buffer, offset)
    return bytes(buffer)


def seen(snapshots: SnapshotSet, offset: int = 0, length: int = SIZE) -> bytes:
    return content(SnapshotImage(snapshots.snapshots[0]), offset, length)


def wanted(*ranges: tuple[int, int]) -> WantedSectors:
    made = WantedSectors(SIZE)
    for offset, length in ranges:
        made.add(offset, length)
    return made


def settled(snapshots: SnapshotSet) -> None:
    """A set that breaks has broken, and its thread has ended."""
    eventually(lambda: snapshots.state is not SnapshotState.HELD)
    assert snapshots._spill.join(60)


def test_every_way_to_change_the_disk_leaves_the_instant(
    image: Image, make_store: Callable[..., SnapshotStore]
) -> None:
    before = content(image)
    with taken(image, make_store()) as snapshots:
        image.write(b"w" * 1000, CHUNK_BYTES - 500)
        image.write_atomic(b"a" * 512, 3 * CHUNK_BYTES)
        image.deallocate(5 * CHUNK_BYTES, 2 * CHUNK_BYTES)
        image.anchor(8 * CHUNK_BYTES, CHUNK_BYTES)
        image.fill(b"f", 10 * CHUNK_BYTES + 7, 100)
        image.write(b"e" * 512, SIZE - 512)
        assert seen(snapshots) == before
        after = content(image)
        assert after != before
        figures = snapshots.figures()[0]
        assert figures.saved_bytes == snapshots.stored_bytes == 8 * CHUNK_BYTES
        assert (figures.state, snapshots.budget_bytes) == (SnapshotState.HELD, BUDGET)
    assert content(image) == after


def test_a_block_that_is_updated_twice_before_it_is_copied(
    image: Image, make_store: Callable[..., SnapshotStore]
) -> None:
    """The hard case: the second update finds the block saved, and must not save what the first one wrote."""
    before = content(image, 0, 4096)
    with taken(image, make_store()) as snapshots:
        image.write(b"first update", 0)
        image.write(b"second update", 0)
        assert seen(snapshots, 0, 4096) == before
        image.write(b"third update, after it was copied", 0)
        assert seen(snapshots, 0, 4096) == before
        assert snapshots.stored_bytes == CHUNK_BYTES


def test_zeros_take_no_room(make_store: Callable[..., SnapshotStore]) -> None:
    image = MemoryImage(SIZE)
    with taken(image, make_store(CHUNK_BYTES)) as snapshots:
        image.write(b"x" * SIZE, 0)
        assert snapshots.stored_bytes == 0
        assert seen(snapshots) == bytes(SIZE)


def test_retired_chunks_give_their_room_back_and_cannot_be_read(
    image: Image, make_store: Callable[..., SnapshotStore]
) -> None:
    with taken(image, make_store()) as snapshots:
        (snapshot,) = snapshots.snapshots
        image.write(b"x" * 4 * CHUNK_BYTES, 0)
        stored(snapshots)
        snapshot.retire(100, 3 * CHUNK_BYTES)  # only the chunks that lie in it as a whole: 1 and 2
        assert snapshots.stored_bytes == 2 * CHUNK_BYTES
        assert seen(snapshots, 0, 512) == b"\1" * 512
        with pytest.raises(SnapshotEnded, match=f"byte {CHUNK_BYTES} was given back"):
            seen(snapshots, CHUNK_BYTES, 512)
        snapshot.retire(8 * CHUNK_BYTES, SIZE)
        image.write(b"y" * (SIZE - 8 * CHUNK_BYTES), 8 * CHUNK_BYTES)
        assert snapshots.stored_bytes == 2 * CHUNK_BYTES


def test_a_budget_serves_a_disk_larger_than_it_when_chunks_are_retired(image: Image) -> None:
    with taken(image, MemoryChunks(2 * CHUNK_BYTES)) as snapshots:
        for chunk in range(CHUNKS - 1):
            at = chunk * CHUNK_BYTES
            image.write(b"new", at)
            stored(snapshots)
            assert seen(snapshots, at, CHUNK_BYTES) == bytes([chunk + 1]) * CHUNK_BYTES
            snapshots.snapshots[0].retire(at, CHUNK_BYTES)


def test_what_is_read_is_retired_where_space_is_short(image: Image) -> None:
    with taken(image, MemoryChunks(BUDGET), release_on_read=True) as snapshots:
        image.write(b"x" * 3 * CHUNK_BYTES, 0)
        stored(snapshots)
        seen(snapshots, 0, 1024)
        seen(snapshots, 512, CHUNK_BYTES)
        assert snapshots.stored_bytes == 2 * CHUNK_BYTES  # chunk 0 was read from end to end, in two pieces
        with pytest.raises(SnapshotEnded):
            seen(snapshots, 0, 512)
        assert seen(snapshots, CHUNK_BYTES, SIZE - CHUNK_BYTES)[:3] == b"\2\2\2"
        assert snapshots.stored_bytes == 0
        assert snapshots.figures()[0].live_bytes == 0


def test_only_what_a_list_names_is_kept(image: Image, make_store: Callable[..., SnapshotStore]) -> None:
    with taken(image, make_store()) as snapshots:
        image.write(b"x" * 2 * CHUNK_BYTES, 0)
        stored(snapshots)
        snapshots.snapshots[0].narrow(wanted((CHUNK_BYTES + 5, 10), (7 * CHUNK_BYTES - 1, 2)))
        assert snapshots.stored_bytes == CHUNK_BYTES
        image.write(b"z" * SIZE, 0)
        assert snapshots.stored_bytes == 3 * CHUNK_BYTES
        for chunk in (1, 6, 7):
            assert seen(snapshots, chunk * CHUNK_BYTES, 512) == bytes([chunk + 1]) * 512
        with pytest.raises(SnapshotEnded, match="not among the ranges"):
            seen(snapshots, 0, 512)


def test_a_budget_that_is_reached_breaks_the_snapshot_and_not_the_disk(
    image: Image, make_store: Callable[..., SnapshotStore]
) -> None:
    store = make_store(2 * CHUNK_BYTES)
    with taken(image, store) as snapshots:
        image.write(b"x" * 3 * CHUNK_BYTES, 0)
        assert content(image, 0, 3 * CHUNK_BYTES) == b"x" * 3 * CHUNK_BYTES
        assert snapshots.state is SnapshotState.BROKEN
        assert store.stored_bytes == 0
        for offset in (0, 8 * CHUNK_BYTES):  # for ever, and never live data
            with pytest.raises(SnapshotEnded, match="budget of 131072 bytes is reached"):
                seen(snapshots, offset, 512)
        settled(snapshots)
        assert image.before_change is None


def held_in_memory(snapshots: SnapshotSet) -> bool:
    saver, one = snapshots._spill._saver, memoryview(bytearray(1))
    return any(saver.read_into(one, slot, 0) for snapshot in snapshots.snapshots for slot in snapshot._slots.values())


def stored(snapshots: SnapshotSet) -> None:
    """What was saved is in the store, and no longer in memory."""
    eventually(lambda: not held_in_memory(snapshots))


class FailingStore(MemoryChunks):
    """fail: what happens at the next write."""

    def __init__(self, budget: int, fail: Callable[[], None]) -> None:
        super().__init__(budget)
        self.fail = fail

    def write(self, slot: int, data: memoryview) -> None:
        self.fail()
        super().write(slot, data)


def test_a_store_that_fails_breaks_the_snapshot_and_not_the_disk(image: Image) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    with taken(image, FailingStore(BUDGET, fail)) as snapshots:
        image.write(b"new", 0)
        assert content(image, 0, 3) == b"new"
        settled(snapshots)
        with pytest.raises(SnapshotEnded, match=r"its store failed.*Input/output error"):
            seen(snapshots, 0, 512)


def test_a_store_that_hangs_is_left_behind(image: Image) -> None:
    """What a write waits for is memory; when a store takes nothing that runs out, and then patience does."""
    hang = threading.Event()
    store = FailingStore(BUDGET, lambda: hang.wait(60) or None)
    snapshots = SnapshotSet.take([image], store, patience_seconds=1, buffers=2)
    try:
        image.write(b"new", 0)
        image.write(b"new", CHUNK_BYTES)
        assert seen(snapshots, 0, CHUNK_BYTES + 1) == b"\1" * CHUNK_BYTES + b"\2"  # from memory
        began = time.monotonic()
        image.write(b"new", 2 * CHUNK_BYTES)
        assert 1 <= time.monotonic() - began < 40
        assert content(image, 2 * CHUNK_BYTES, 3) == b"new"
        with pytest.raises(SnapshotEnded, match="waited 1 s"):
            seen(snapshots, 8 * CHUNK_BYTES, 512)
        image.write(b"newer", 0)
        assert store.stored_bytes == 0
        assert image.before_change is None
    finally:
        hang.set()
    settled(snapshots)


def test_a_hanging_file_store_gives_its_space_back_when_it_comes_to(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "s", BUDGET)
    assert list(tmp_path.iterdir()) == []  # no name: however the process ends, the space comes back
    store._enter()
    store.close()
    assert store._descriptor >= 0
    store._leave()
    assert store._descriptor < 0
    with pytest.raises(OSError, match="closed"):
        store.write(0, b"x")


class SlowImage(MemoryImage):
    """Reads wait for `go`; `reading` is set when one has begun."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.go, self.reading = threading.Event(), threading.Event()
        self.go.set()

    def read_into(self, buffer: object, offset: int) -> None:
        self.reading.set()
        self.go.wait(60)
        super().read_into(buffer, offset)  # type: ignore[arg-type]


def test_a_write_waits_for_a_reader_of_the_live_chunk() -> None:
    image = SlowImage(SIZE)
    image.write(b"old", 0)
    with taken(image, MemoryChunks(BUDGET), patience_seconds=60) as snapshots:
        image.go.clear()
        image.reading.clear()
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(seen(snapshots, 0, 3)))
        reader.start()
        assert image.reading.wait(60)
        writer = threading.Thread(target=image.write, args=(b"new", 0))
        writer.start()
        image.go.set()
        reader.join(60)
        writer.join(60)
        assert found == [b"old"]
        assert content(image, 0, 3) == b"new"
        assert seen(snapshots, 0, 3) == b"old"


def test_a_reader_that_hangs_on_the_disk_ends_with_an_error_and_not_with_new_data() -> None:
    image = SlowImage(SIZE)
    image.write(b"old", 0)
    with taken(image, MemoryChunks(BUDGET), patience_seconds=0.05) as snapshots:
        image.go.clear()
        image.reading.clear()
        ended: list[BaseException | bytes] = []

        def read() -> None:
            try:
                ended.append(seen(snapshots, 0, 3))
            except SnapshotEnded as error:
                ended.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert image.reading.wait(60)
        image.write(b"new", 0)  # goes through after its patience
        image.go.set()
        reader.join(60)
        assert isinstance(ended[0], SnapshotEnded)


def test_a_chunk_that_is_retired_on_its_way_to_the_store_leaves_nothing_behind(image: Image) -> None:
    saving, go = threading.Event(), threading.Event()

    def wait() -> None:
        saving.set()
        go.wait(60)

    store = FailingStore(2 * CHUNK_BYTES, wait)
    with taken(image, store) as snapshots:
        image.write(b"new", 0)
        assert saving.wait(60)
        image.write(b"new", CHUNK_BYTES)  # in memory, behind the first one
        snapshots.snapshots[0].retire(0, 2 * CHUNK_BYTES)
        assert snapshots.stored_bytes == CHUNK_BYTES  # the one that is being written
        go.set()
        becomes(0, lambda: snapshots.stored_bytes)
        image.write(b"n" * 2 * CHUNK_BYTES, 4 * CHUNK_BYTES)  # it has room again for others
        assert seen(snapshots, 4 * CHUNK_BYTES, 2 * CHUNK_BYTES) == b"\5" * CHUNK_BYTES + b"\6" * CHUNK_BYTES


def test_a_chunk_that_is_retired_while_it_is_read_is_given_back_after_that(image: Image) -> None:
    reading, go = threading.Event(), threading.Event()

    class SlowStore(MemoryChunks):
        def read_into(self, buffer: object, slot: int, offset: int) -> None:
            reading.set()
            go.wait(60)
            super().read_into(buffer, slot, offset)  # type: ignore[arg-type]

    with taken(image, SlowStore(CHUNK_BYTES)) as snapshots:
        image.write(b"new", 0)
        stored(snapshots)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(seen(snapshots, 0, 3)))
        reader.start()
        assert reading.wait(60)
        snapshots.snapshots[0].retire(0, CHUNK_BYTES)
        assert snapshots.stored_bytes == CHUNK_BYTES  # still in use
        go.set()
        reader.join(60)
        assert found == [b"\1\1\1"]
        assert snapshots.stored_bytes == 0


def test_several_disks_at_one_instant_and_one_end(image: Image) -> None:
    other = MemoryImage(SIZE, name="other")
    entered: list[str] = []

    @contextmanager
    def hold() -> Iterator[None]:
        assert image.before_change is other.before_change is None
        yield
        assert image.before_change is not None
        assert other.before_change is not None
        entered.append("held")

    store = MemoryChunks(CHUNK_BYTES)
    snapshots = SnapshotSet.take([image, other], store, hold=hold())
    assert entered == ["held"]
    image.write(b"x", 0)
    other.write(b"y" * 512, 0)
    assert snapshots.state is SnapshotState.HELD  # zeros take no room
    other.write(b"z" * 512, CHUNK_BYTES)
    image.write(b"x", CHUNK_BYTES)
    settled(snapshots)
    assert [snapshot.state for snapshot in snapshots.snapshots] == [SnapshotState.BROKEN] * 2
    assert "another disk of its set is broken" in snapshots.snapshots[1].reason
    assert image.before_change is other.before_change is None
    assert store.stored_bytes == 0
    with pytest.raises(ValueError, match="once"):
        SnapshotSet.take([image, image], MemoryChunks(BUDGET))


def test_two_snapshots_of_one_disk(image: Image) -> None:
    first = SnapshotSet.take([image], MemoryChunks(BUDGET))
    image.write(b"between", 0)
    second = SnapshotSet.take([image], MemoryChunks(BUDGET))
    image.write(b"after..", 0)
    assert seen(first, 0, 7) == b"\1" * 7
    assert seen(second, 0, 7) == b"between"
    first.release()
    image.write(b"later..", CHUNK_BYTES)
    assert seen(second, CHUNK_BYTES, 7) == b"\2" * 7
    second.release()
    second.release()
    assert image.before_change is None
    with pytest.raises(SnapshotEnded, match="released"):
        seen(second, 0, 7)


def test_what_is_behind_a_snapshot(tmp_path: Path) -> None:
    image = DiskImage.create(tmp_path / "a.img", SIZE)
    image.write(b"x" * CHUNK_BYTES, 2 * CHUNK_BYTES)
    image.synchronize()
    with taken(image, MemoryChunks(BUDGET)) as snapshots:
        view = SnapshotImage(snapshots.snapshots[0])
        states = [(extent.offset, extent.length, extent.state) for extent in view.extents(0, SIZE)]
        assert sum(length for _, length, _ in states) == SIZE
        mapped = [(offset, length) for offset, length, state in states if state is Provisioning.MAPPED]
        assert mapped == [(2 * CHUNK_BYTES, CHUNK_BYTES)]
        image.deallocate(2 * CHUNK_BYTES, CHUNK_BYTES)
        image.write(b"y" * CHUNK_BYTES, 0)  # zeros were saved: they hold nothing still
        mapped = [extent for extent in view.extents(0, SIZE) if extent.state is Provisioning.MAPPED]
        assert [(extent.offset, extent.length) for extent in mapped] == [(2 * CHUNK_BYTES, CHUNK_BYTES)]
    image.close()


def test_a_snapshot_is_only_read(image: Image) -> None:
    with taken(image, MemoryChunks(BUDGET)) as snapshots:
        view = SnapshotImage(snapshots.snapshots[0])
        for change in (
            lambda: view.write(b"x", 0),
            lambda: view.write_atomic(b"x", 0),
            lambda: view.deallocate(0, 1),
            lambda: view.anchor(0, 1),
            lambda: view.fill(b"x", 0, 1),
        ):
            with pytest.raises(OSError, match="only read"):
                change()


def test_a_disk_that_grew_is_as_long_as_it_was(image: Image) -> None:
    with taken(image, MemoryChunks(BUDGET)) as snapshots:
        image.grow(SIZE + 2 * CHUNK_BYTES)
        image.write(b"beyond", SIZE)
        view = SnapshotImage(snapshots.snapshots[0])
        assert view.size_bytes == SIZE
        assert seen(snapshots, SIZE - 512, 512) == bytes([CHUNKS]) * 512
        with pytest.raises(OSError, match="shorter"):
            content(view, SIZE - 512, 1024)


def test_a_full_file_system_refuses_a_snapshot(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space|too large"):
        FileStore(tmp_path, "s", 1 << 55)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="holds no chunk"):
        MemoryChunks(CHUNK_BYTES - 1)
