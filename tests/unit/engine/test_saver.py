"""ChunkSaver: what a file holds is in memory when save() comes back, and in the store soon after."""

import errno
import gc
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamover.engine import SAVER_CLOSED, SAVER_FAILED, SAVER_FULL, SAVER_STORED, SAVER_ZEROS, ChunkSaver
from tests.support.processes import open_files
from tests.support.waiting import eventually

CHUNK = 65536
CHUNKS = 32


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    """Chunk N is full of N + 1; the last is shorter, the one before it zeros."""
    content = b"".join(bytes([number + 1]) * CHUNK for number in range(CHUNKS)) + bytes(CHUNK) + b"e" * 512
    (tmp_path / "source").write_bytes(content)
    descriptor = os.open(tmp_path / "source", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "store", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def read(saver: ChunkSaver, store: int, slot: int, length: int = CHUNK) -> bytes:
    """From memory, or from the store."""
    buffer = bytearray(length)
    if not saver.read_into(buffer, slot, 0):
        return os.pread(store, length, slot * CHUNK)
    return bytes(buffer)


def test_what_is_saved_is_read_from_memory_or_the_store(source: int, store: int) -> None:
    saver = ChunkSaver(store, CHUNK, 4)
    for number in range(CHUNKS):
        assert saver.save(source, number * CHUNK, CHUNK, CHUNKS - 1 - number, 10) == SAVER_STORED
        assert read(saver, store, CHUNKS - 1 - number) == bytes([number + 1]) * CHUNK
    assert saver.save(source, (CHUNKS + 1) * CHUNK, 512, CHUNKS, 10) == SAVER_STORED
    assert read(saver, store, CHUNKS, 512) == b"e" * 512
    assert eventually(lambda: os.fstat(store).st_size == CHUNKS * CHUNK + 512)
    assert eventually(lambda: saver.forget(CHUNKS))
    assert os.pread(store, CHUNK, 0) == bytes([CHUNKS]) * CHUNK


def test_zeros_need_no_slot_and_nothing_else_goes_without(source: int, store: int) -> None:
    saver = ChunkSaver(store, CHUNK, 1)
    assert saver.save(source, CHUNKS * CHUNK, CHUNK, -1, 10) == SAVER_ZEROS
    assert saver.save(source, CHUNKS * CHUNK, CHUNK, 3, 10) == SAVER_ZEROS
    assert saver.save(source, 0, CHUNK, -1, 10) == SAVER_FULL
    assert not saver.read_into(bytearray(1), 3, 0)


def test_what_cannot_be_read_is_an_error_and_the_next_goes_on(source: int, store: int) -> None:
    saver = ChunkSaver(store, CHUNK, 1)
    with pytest.raises(OSError, match="Input/output") as ended:
        saver.save(source, (CHUNKS + 1) * CHUNK, CHUNK, 0, 10)  # the file is shorter
    assert ended.value.errno == errno.EIO
    with pytest.raises(OSError, match="Bad file"):
        saver.save(-1, 0, CHUNK, 0, 10)
    assert saver.save(source, 0, CHUNK, 0, 10) == SAVER_STORED


def test_a_store_that_fails_is_said_and_what_is_in_memory_stays(source: int, tmp_path: Path) -> None:
    (tmp_path / "read only").write_bytes(b"")
    descriptor = os.open(tmp_path / "read only", os.O_RDONLY)
    saver = ChunkSaver(descriptor, CHUNK, 4)
    os.close(descriptor)  # it has its own
    assert saver.save(source, 0, CHUNK, 0, 10) == SAVER_STORED
    assert eventually(lambda: saver.failure == errno.EBADF)
    assert saver.save(source, CHUNK, CHUNK, 1, 10) == SAVER_FAILED
    buffer = bytearray(CHUNK)
    assert saver.read_into(buffer, 0, 0)
    assert buffer == b"\1" * CHUNK
    assert saver.forget(0)
    assert not saver.read_into(buffer, 0, 0)


def test_nobody_waits_longer_than_told(source: int, store: int) -> None:
    """Whatever was under way then leaves nothing behind: its slot and buffer can be used by others. How many are late
    is the machine's affair."""
    saver, rng = ChunkSaver(store, CHUNK, 2), random.Random(1)
    for round_ in range(600):
        number, slot = rng.randrange(CHUNKS), round_ % 8
        assert eventually(lambda slot=slot: saver.forget(slot))  # type: ignore[misc]
        try:
            assert saver.save(source, number * CHUNK, CHUNK, slot, rng.choice((0, 1e-5, 1e-4, 10))) == SAVER_STORED
        except TimeoutError:
            continue
        assert read(saver, store, slot) == bytes([number + 1]) * CHUNK


def test_close_lets_everybody_go(source: int, store: int) -> None:
    saver, outcomes = ChunkSaver(store, CHUNK, 1), list[int]()
    go = threading.Event()

    def save(first: int) -> None:
        while not go.is_set():
            outcomes.append(saver.save(source, first % CHUNKS * CHUNK, CHUNK, first, 30))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(outcomes) > 50)
    saver.close()
    assert eventually(lambda: SAVER_CLOSED in outcomes)
    go.set()
    for thread in threads:
        thread.join(60)
    assert set(outcomes) == {SAVER_STORED, SAVER_CLOSED}
    assert eventually(lambda: saver.threads == 0)
    saver.close()
    assert saver.save(source, 0, CHUNK, 0, 10) == SAVER_CLOSED


def test_an_object_that_dies_at_work_leaves_no_descriptor(source: int, store: int) -> None:
    gc.collect()
    before = len(open_files())
    for _ in range(20):
        saver = ChunkSaver(store, CHUNK, 8)
        for slot in range(8):
            saver.save(source, slot * CHUNK, CHUNK, slot, 10)
        del saver
    gc.collect()
    assert eventually(lambda: len(open_files()) <= before)


def test_nonsense_is_refused(source: int, store: int) -> None:
    for chunk, buffers in ((0, 1), (512, 1), (CHUNK, 0), (CHUNK, 1 << 20), (1 << 30, 1)):
        with pytest.raises(ValueError, match="buffers of"):
            ChunkSaver(store, chunk, buffers)
    with pytest.raises(OSError, match="Bad file"):
        ChunkSaver(-1, CHUNK, 1)
    saver = ChunkSaver(store, CHUNK, 1)
    for offset, length, seconds in ((-1, CHUNK, 1), (0, 0, 1), (0, CHUNK + 1, 1), (0, CHUNK, -1), (0, CHUNK, 1e9)):
        with pytest.raises(ValueError, match="no chunk"):
            saver.save(source, offset, length, 0, seconds)
    saver.save(source, (CHUNKS + 1) * CHUNK, 512, 0, 10)
    for _ in range(100):  # while it is in memory
        try:
            if not saver.read_into(bytearray(513), 0, 0):
                break
        except ValueError as error:
            assert "does not hold" in str(error)
