"""Runs of blocks between a file and a segment, against what Python reads of both."""

import os
import random

import pytest

from datamover.engine import READ_END, Segment, crc32c

BLOCK = 64 << 10
BLOCKS = 50
CHECKSUM_BYTES = 4


@pytest.fixture
def segment(tmp_path):
    segment = Segment.create(str(tmp_path / "segment"), bytes(128), 64 << 20, 1000)
    yield segment
    segment.close()


@pytest.fixture
def descriptor(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def memory(room=BLOCK * 3):
    return memoryview(bytearray(BLOCKS * CHECKSUM_BYTES)), bytearray(room), bytearray(room)


def content(length):
    return random.Random(length).randbytes(length)


def append_all(segment, descriptor, offset, count, checksums, one, other):
    """By as many runs as it takes: one ends early where the file is not in memory."""
    done, full = 0, False
    while done < count and not full:
        os.pread(descriptor, BLOCK, offset + done * BLOCK)
        rest = checksums[done * CHECKSUM_BYTES :]
        taken, full = segment.append_file(descriptor, offset + done * BLOCK, BLOCK, count - done, rest, one, other)
        done += taken
    return done


def read_all(segment, descriptor, offset, count, checksums, one, other):
    """The same in the other direction, for blocks that are there."""
    done = 0
    while done < count:
        rest, at = checksums[done * CHECKSUM_BYTES :], offset + done * BLOCK
        taken, _ = segment.read_to_file(done, descriptor, at, BLOCK, BLOCKS - done, rest, one, other)
        assert taken
        done += taken
    return done


def blocks_of(segment, count):
    into = bytearray(BLOCK)
    for number in range(count):
        assert segment.read(number, into) == BLOCK
        yield bytes(into)


@pytest.mark.parametrize("room", [BLOCK, 3 * BLOCK + 7, BLOCK * BLOCKS])
@pytest.mark.parametrize("length", [0, BLOCK - 1, 7 * BLOCK, 7 * BLOCK + 1, BLOCK * BLOCKS])
def test_a_file_is_taken_as_far_as_it_has_whole_blocks(segment, descriptor, length, room):
    data = content(length)
    os.pwrite(descriptor, data, 512)
    checksums, one, other = memory(room)
    taken = length // BLOCK
    assert append_all(segment, descriptor, 512, taken, checksums, one, other) == taken
    behind = 512 + taken * BLOCK
    assert segment.append_file(descriptor, behind, BLOCK, BLOCKS, *memory(room)) == (0, False)
    assert b"".join(blocks_of(segment, taken)) == data[: taken * BLOCK]
    assert list(checksums.cast("I")[:taken]) == [crc32c(data[at : at + BLOCK]) for at in range(0, taken * BLOCK, BLOCK)]


def test_a_segment_takes_what_it_has_room_for(tmp_path, descriptor):
    segment = Segment.create(str(tmp_path / "small"), bytes(128), 64 << 20, 11)
    data = content(BLOCKS * BLOCK)
    os.pwrite(descriptor, data, 0)
    assert append_all(segment, descriptor, 0, BLOCKS, *memory()) == 11
    assert segment.append_file(descriptor, 0, BLOCK, BLOCKS, *memory()) == (0, True)
    assert b"".join(blocks_of(segment, 11)) == data[: 11 * BLOCK]
    segment.close()


@pytest.mark.parametrize("at", [0, 1, 20, BLOCKS])
def test_what_is_no_block_of_that_length_ends_a_run_into_a_file(segment, descriptor, at):
    data = content(BLOCKS * BLOCK)
    segment.append_many(data, 0, BLOCK, at)
    if at < BLOCKS:
        segment.append(data[: BLOCK - 1])
        segment.append_many(data, 0, BLOCK, BLOCKS - at - 1)
    checksums, one, other = memory()
    assert read_all(segment, descriptor, 512, at, checksums, one, other) == at
    behind = segment.read_to_file(at, descriptor, 512 + at * BLOCK, BLOCK, BLOCKS, *memory())
    assert behind == (0, BLOCK - 1 if at < BLOCKS else READ_END)
    assert os.pread(descriptor, BLOCKS * BLOCK, 512) == data[: at * BLOCK]
    assert list(checksums.cast("I")[:at]) == [crc32c(data[n * BLOCK : (n + 1) * BLOCK]) for n in range(at)]


def test_a_file_that_cannot_be_written_ends_a_run(segment):
    segment.append_many(content(BLOCKS * BLOCK), 0, BLOCK, BLOCKS)
    full = os.open("/dev/full", os.O_RDWR)
    assert segment.read_to_file(0, full, 0, BLOCK, BLOCKS, *memory())[0] == 0
    os.close(full)
