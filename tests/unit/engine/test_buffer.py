"""BufferPool and DataBuffer: bounds, reuse, and who keeps memory alive."""

import ctypes
import threading

import pytest

from datamover.engine import LIMIT_TRANSFER_BYTES, BufferPool, DataBuffer, PoolExhausted


def address(buffer: DataBuffer) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def test_a_buffer_is_writable_memory_of_exactly_the_length_asked_for() -> None:
    buffer = BufferPool(1 << 20).acquire(10_000)
    view = memoryview(buffer)
    assert len(buffer) == len(view) == 10_000
    assert not view.readonly
    view[9_990:] = b"0123456789"
    assert bytes(view[9_995:]) == b"56789"


@pytest.mark.parametrize("length, counted", [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (1 << 24, 1 << 24)])
def test_a_buffer_counts_with_its_size_class(length: int, counted: int) -> None:
    pool = BufferPool(1 << 24)
    buffer = pool.acquire(length)
    assert pool.in_use_bytes == counted
    del buffer
    assert pool.in_use_bytes == 0


def test_the_bound_holds_and_memory_comes_back() -> None:
    pool = BufferPool(64 << 10)
    held = [pool.acquire(4096) for _ in range(16)]
    with pytest.raises(PoolExhausted, match="65536 of 65536"):
        pool.acquire(0)
    held.pop()
    held.append(pool.acquire(1))
    assert pool.in_use_bytes == pool.capacity_bytes == 64 << 10


def test_stored_memory_of_one_size_makes_room_for_another() -> None:
    pool = BufferPool(1 << 20)
    for length in (4096, 1 << 20, 1 << 16, 1 << 20, 5000):
        held = [pool.acquire(length) for _ in range((1 << 20) // max(length, 8192 if length == 5000 else 0))]
        with pytest.raises(PoolExhausted):
            pool.acquire(length)
        del held
        assert pool.in_use_bytes == 0


def test_memory_is_reused_not_asked_for_again() -> None:
    pool = BufferPool(1 << 20)
    first = pool.acquire(1 << 18)
    where = address(first)
    del first
    assert address(pool.acquire((1 << 18) - 1)) == where


def test_every_buffer_is_page_aligned() -> None:
    pool = BufferPool(1 << 26)
    held = [pool.acquire(length) for length in (1, 5000, 100_000, 1 << 22)]
    assert all(address(buffer) % 4096 == 0 for buffer in held)


def test_a_view_keeps_the_memory_when_buffer_and_pool_are_gone() -> None:
    view = memoryview(BufferPool(1 << 20).acquire(100))
    view[:] = bytes(range(100))
    assert bytes(view) == bytes(range(100))


@pytest.mark.parametrize("length", [-1, LIMIT_TRANSFER_BYTES + 1, 1 << 62])
def test_impossible_lengths(length: int) -> None:
    with pytest.raises(ValueError, match=str(length)):
        BufferPool(1 << 30).acquire(length)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="positive"):
        BufferPool(0)
    with pytest.raises(TypeError):
        BufferPool(1 << 20).acquire("4096")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        DataBuffer()


def test_threads_share_a_pool_without_losing_count() -> None:
    pool = BufferPool(1 << 20)
    refused = []

    def churn(seed: int) -> None:
        held: list[DataBuffer] = []
        for i in range(2000):
            try:
                held.append(pool.acquire((i * 7919 * seed) % 200_000))
            except PoolExhausted:
                refused.append(i)
                held.clear()
            if i % 5 == 0:
                held = held[1:]
            assert pool.in_use_bytes <= pool.capacity_bytes

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused, "the bound was never reached: the test proves nothing"
    assert pool.in_use_bytes == 0
