"""Writing files, against what Python reads of them."""

import errno
import os
import random
from pathlib import Path

import pytest

from datamover.engine import write_in_pieces

PIECE = 256 << 10


@pytest.fixture
def descriptor(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE + 77])
@pytest.mark.parametrize("offset", [0, 1, PIECE - 1, 3 * PIECE, 5 * PIECE + 512])
def test_the_whole_buffer_is_where_it_should_be(descriptor, length, offset):
    data = random.Random(length + offset).randbytes(length)
    write_in_pieces(descriptor, memoryview(data), offset)
    assert os.fstat(descriptor).st_size == (offset + length if length else 0)
    assert os.pread(descriptor, length, offset) == data
    assert not any(os.pread(descriptor, offset, 0))


def test_errors_are_the_systems(descriptor):
    with pytest.raises(OSError) as refused:
        write_in_pieces(-1, b"data", 0)
    assert refused.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="no byte -1"):
        write_in_pieces(descriptor, b"data", -1)
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError) as full_disk:
        write_in_pieces(full.fileno(), bytes(PIECE + 1), 0)
    assert full_disk.value.errno == errno.ENOSPC
