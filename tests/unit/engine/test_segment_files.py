"""Blocks that go out of a file to a segment's log by two threads: what is there afterwards, against what append_many()
makes of the same bytes, and against another implementation of CRC32C. The file is in memory, where nothing of it has to
be waited for."""

from __future__ import annotations

import array
import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import crcmod.predefined
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamover.engine import (
    Segment,
    storage_fault,
    storage_faults_clear,
)

castagnoli = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
NOISE = random.Random(8).randbytes(3 << 20)
MEBIBYTE = 1 << 20
FOREVER = 10**9


class Buffers(NamedTuple):
    """What a run works with."""

    checksums: bytearray
    one: bytearray
    other: bytearray

    @property
    def made(self) -> array.array[int]:
        return array.array("I", bytes(self.checksums))


def buffers(count: int, one: int = MEBIBYTE, other: int = 0) -> Buffers:
    """For so many blocks; the working memory has so many bytes, the second as many as the first."""
    return Buffers(bytearray(4 * count), bytearray(one), bytearray(other or one))


def checksums_of(data: bytes, block_length: int) -> array.array[int]:
    return array.array("I", [castagnoli(data[at : at + block_length]) for at in range(0, len(data), block_length)])


@pytest.fixture(autouse=True)
def no_faults_left() -> Iterator[None]:
    yield
    storage_faults_clear()


@pytest.fixture(scope="module")
def noise() -> Iterator[int]:
    """A file of NOISE."""
    descriptor = os.memfd_create("noise")
    os.write(descriptor, NOISE)
    yield descriptor
    os.close(descriptor)


Make = Callable[..., Segment]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def create(name: str = "segment", limit_bytes: int = 64 * MEBIBYTE, limit_objects: int = 100_000) -> Segment:
        return Segment.create(str(tmp_path / name), bytes(128), limit_bytes, limit_objects)

    return create


def contents(segment: Segment) -> list[bytes]:
    """The blocks of a log, one by one."""
    into = bytearray(MEBIBYTE)
    return [bytes(into[: segment.read(number, into)]) for number in range(segment.objects)]


def blocks_of(data: bytes, block_length: int) -> list[bytes]:
    return [data[at : at + block_length] for at in range(0, len(data), block_length)]


# ---- whatever the sizes ----------------------------------------------------------------------------------------------

SIZES = [  # block length, blocks, the two buffers
    (1, 3000, 1, 1),
    (1, 3000, 700, 700),
    (511, 2000, 511, 511),
    (511, 2000, 100_000, 100_000),
    (10240, 150, MEBIBYTE, MEBIBYTE),
    (10240, 150, 10240, 300_000),
    (65536, 40, 65536 * 3 + 77, 65536 * 5),
    (256 << 10, 9, MEBIBYTE, MEBIBYTE),
    (256 << 10, 9, 256 << 10, 256 << 10),
]


@pytest.mark.parametrize(("block_length", "count", "one", "other"), SIZES)
def test_the_log_is_as_append_many_makes_it(
    make: Make, tmp_path: Path, noise: int, block_length: int, count: int, one: int, other: int
) -> None:
    segment, ordinary = make("segment"), make("ordinary")
    memory, data = buffers(count, one, other), NOISE[77 : 77 + count * block_length]
    assert segment.append_file(noise, 77, block_length, count, *memory) == (count, False)
    assert memory.made == checksums_of(data, block_length)
    assert ordinary.append_many(NOISE, 77, block_length, count) == count
    assert (segment.objects, segment.end, segment.used_bytes) == (count, ordinary.end, ordinary.used_bytes)
    for log in (segment, ordinary):
        log.seal()
        log.close()
    assert (tmp_path / "segment").read_bytes() == (tmp_path / "ordinary").read_bytes()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 100, 511, 4096, 70_000]), st.integers(0, 30), st.integers(0, 30), st.integers(0, 5000),
    st.tuples(st.integers(0, 200_000), st.integers(0, 200_000)), st.integers(1, 40), st.integers(1, 2_000_000),
)  # fmt: skip
def test_as_much_as_append_many_takes(
    tmp_path_factory: pytest.TempPathFactory, noise: int, block_length: int, before: int, count: int, offset: int,
    more: tuple[int, int], limit_objects: int, limit_bytes: int,
) -> None:  # fmt: skip
    """Whatever the lengths and limits: the same blocks, too."""
    folder = tmp_path_factory.mktemp("there")
    logs = [Segment.create(str(folder / name), bytes(128), limit_bytes, limit_objects) for name in ("run", "ordinary")]
    for log in logs:
        log.append_many(NOISE, 0, 1000, before)
    taken = logs[1].append_many(NOISE, offset, block_length, count)
    memory = buffers(count, *(block_length + room for room in more))
    assert logs[0].append_file(noise, offset, block_length, count, *memory) == (taken, taken < count)
    assert [log.end for log in logs] == [logs[1].end] * 2
    data = NOISE[offset : offset + taken * block_length]
    assert memory.made[:taken] == checksums_of(data, block_length)
    assert contents(logs[0]) == contents(logs[1])
    for log in logs:
        log.close()


# ---- what ends a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"limit_objects": 700}, {"limit_bytes": 128 + 700 * 544}])
@pytest.mark.parametrize("memory", [512, 10_000, MEBIBYTE])
def test_a_segment_that_gets_full_in_mid_run(make: Make, noise: int, limits: dict[str, int], memory: int) -> None:
    segment, following = make(**limits), make("following")
    done, full = segment.append_file(noise, 0, 512, 1000, *buffers(1000, memory))
    assert full
    assert segment.append_many(NOISE, done * 512, 512, 1) == 0
    assert segment.append_file(noise, done * 512, 512, 1000, *buffers(1000, memory)) == (0, True)
    rest = buffers(1000 - done, memory)
    assert following.append_file(noise, done * 512, 512, 1000 - done, *rest) == (1000 - done, False)
    assert abs(done - 700) <= 1
    assert contents(segment) + contents(following) == blocks_of(NOISE[: 512 * 1000], 512)


@pytest.mark.parametrize("memory", [1000, 30_000, MEBIBYTE])
@pytest.mark.parametrize("missing", [1, 999, 1000, 250_000])
def test_a_file_that_ends(make: Make, noise: int, memory: int, missing: int) -> None:
    segment, offset = make(), len(NOISE) - 300_000 + missing
    there = (300_000 - missing) // 1000
    taken = buffers(300, memory)
    assert segment.append_file(noise, offset, 1000, 300, *taken) == (there, False)
    data = NOISE[offset : offset + there * 1000]
    assert taken.made[:there] == checksums_of(data, 1000)
    assert segment.append_many(b"more", 0, 4, 1) == 1
    assert contents(segment) == [*blocks_of(data, 1000), b"more"]


def test_nothing_to_read(make: Make, noise: int, tmp_path: Path) -> None:
    segment = make()
    folder = os.open(tmp_path, os.O_RDONLY)
    written = os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT)
    try:
        for descriptor, offset in ((-1, 0), (folder, 0), (written, 0), (noise, 1 << 40), (noise, (1 << 63) - 1)):
            assert segment.append_file(descriptor, offset, 512, 100, *buffers(100, 5000)) == (0, False)
    finally:
        os.close(folder)
        os.close(written)
    assert segment.append_file(noise, 0, 512, 0, *buffers(0, 512)) == (0, False)
    assert segment.objects == 0
    assert segment.append(b"fine")


@pytest.mark.parametrize("operation", ["write", "allocate"])
@pytest.mark.parametrize(("block_length", "memory"), [(700, 700), (5000, 20_000), (300_000, MEBIBYTE)])
@pytest.mark.parametrize("after", range(5))
def test_storage_that_fails_in_mid_run(
    make: Make, tmp_path: Path, noise: int, operation: str, block_length: int, memory: int, after: int
) -> None:
    """What is returned is in the log, and nothing else; the next block tells what it was; then it goes on."""
    count = (len(NOISE) - 10) // block_length
    segment = make()
    segment.append(b"before")
    storage_fault(operation, errno.ENOSPC, after=after, times=FOREVER, partial=17, path="segment")
    done, full = segment.append_file(noise, 10, block_length, count, *buffers(count, memory))
    assert (done < count, full) == (True, False) or (done, full) == (count, False)
    assert segment.objects == 1 + done
    if done < count:
        with pytest.raises(OSError) as told:
            segment.append_many(NOISE, 10 + done * block_length, block_length, 1)
        assert told.value.errno == errno.ENOSPC
    storage_faults_clear()
    assert segment.append_many(NOISE, 10 + done * block_length, block_length, count - done) == count - done
    expected = [b"before", *blocks_of(NOISE[10 : 10 + count * block_length], block_length)]
    assert contents(segment) == expected
    segment.seal()
    segment.close()
    seed = 0  # the header's last bytes
    again = Segment.recover(str(tmp_path / "segment"), seed, 1 << 30, 1 << 20, False, b"", 0, 0, 0, 0)
    assert (again.complete, again.damaged, again.cut_bytes) == (True, 0, 0)
    assert contents(again) == expected
    again.close()


def test_a_write_that_fails_once(make: Make, noise: int) -> None:
    """The run ends there, though the next block would have been written."""
    segment = make()
    storage_fault("write", errno.EIO, after=3, path="segment")
    done, full = segment.append_file(noise, 0, 65536, 40, *buffers(40, 200_000))
    assert (0 < done < 40, full) == (True, False)
    assert segment.append_file(noise, done * 65536, 65536, 40 - done, *buffers(40, 200_000)) == (40 - done, False)
    assert contents(segment) == blocks_of(NOISE[: 40 * 65536], 65536)


# ---- what it must not do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "block_length", "count", "room"),
    [
        (-1, 512, 4, buffers(4, 512)),
        (0, 0, 4, buffers(4, 512)),
        (0, -512, 4, buffers(4, 512)),
        (0, 1 << 24, 1, buffers(1, 1 << 24)),
        (0, 512, -1, buffers(4, 512)),
        (0, 512, 5, buffers(4, 512)),
        (0, 512, 4, buffers(4, 511, 512)),
        (0, 512, 4, buffers(4, 512, 511)),
        (0, 512, 1, Buffers(bytearray(3), bytearray(512), bytearray(512))),
    ],
)
def test_arguments_that_cannot_be(
    make: Make, noise: int, offset: int, block_length: int, count: int, room: Buffers
) -> None:
    segment = make()
    segment.append_many(NOISE, 0, 512, 8)
    with pytest.raises(ValueError, match="block"):
        segment.append_file(noise, offset, block_length, count, *room)
    with pytest.raises(OverflowError):
        segment.append_file(noise, 1 << 64, 512, 4, *buffers(4, 512))
    assert contents(segment) == blocks_of(NOISE[:4096], 512)  # and it is nobody's any more


@pytest.mark.parametrize("constant", range(3))
def test_memory_that_is_constant(make: Make, noise: int, constant: int) -> None:
    room = [bytes(buffer) if number == constant else buffer for number, buffer in enumerate(buffers(4, 512))]
    with pytest.raises(TypeError):
        make().append_file(noise, 0, 512, 4, *room)


def test_a_segment_that_is_sealed_or_closed(make: Make, noise: int) -> None:
    segment = make()
    segment.append_many(NOISE, 0, 512, 8)
    segment.seal()
    with pytest.raises(ValueError, match="sealed"):
        segment.append_file(noise, 0, 512, 4, *buffers(4, 512))
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        segment.append_file(noise, 0, 512, 4, *buffers(4, 512))


WITHOUT_THREADS = """
import os, resource, sys, threading
from datamover.engine import Segment
noise = os.memfd_create("noise")
os.write(noise, sys.stdin.buffer.read())
segment = Segment.create(sys.argv[1], bytes(128), 64 << 20, 100_000)
memory = bytearray(4 * 3000), bytearray(4096), bytearray(4096)
segment.append(b"first")  # which takes the log's own buffer
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 20),) * 2)  # no room for a stack
try:
    threading.Thread(target=int).start()
except RuntimeError:
    print("no thread", end=" ")
print(segment.append_file(noise, 0, 1000, 3000, *memory))
segment.close()
"""


def test_without_a_thread_one_does_everything(tmp_path: Path) -> None:
    program = [sys.executable, "-c", WITHOUT_THREADS, str(tmp_path / "segment")]
    done = subprocess.run(program, check=True, capture_output=True, input=NOISE)
    assert done.stdout == b"no thread (3000, False)\n"
