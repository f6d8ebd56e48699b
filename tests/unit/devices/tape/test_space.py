"""SPACE(6) and SPACE(16): where it stops, and the residual, which is never negative (SSC-3 6.6, 7.11)."""

import pytest

from scsi_targets.t10 import ssc
from tests.unit.devices.support import send, sense_of
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    FILEMARK,
    filemarks,
    good,
    moved,
    position,
    read,
    rewind,
    space,
    stream_sense,
    write,
)

BLOCKS, FILEMARKS, SEQUENTIAL, END_OF_DATA = range(4)


@pytest.fixture
def recorded(drive):
    """Objects 0-2 blocks, 3 a filemark, 4-5 blocks, 6-7 filemarks, 8 a block; rewound."""
    for part in (3, 2, 1):
        for n in range(part):
            good(write(drive, bytes([part * 16 + n])))
        if part > 1:
            good(filemarks(drive, 1 if part == 3 else 2))
    rewind(drive)
    return drive


def at(drive, block):
    good(send(drive, ssc.Locate10.encode(logical_object_identifier=block)))
    return drive


@pytest.mark.parametrize(
    ("start", "code", "count", "end"),
    [
        (0, BLOCKS, 2, 2), (0, BLOCKS, 3, 3), (2, BLOCKS, -2, 0), (6, BLOCKS, -2, 4), (0, FILEMARKS, 1, 4),
        (0, FILEMARKS, 3, 8), (9, FILEMARKS, -1, 7), (9, FILEMARKS, -3, 3), (4, FILEMARKS, -1, 3),
        (0, SEQUENTIAL, 2, 8), (9, SEQUENTIAL, -2, 6), (0, END_OF_DATA, 0, 9), (5, END_OF_DATA, -7, 9),
        (4, BLOCKS, 0, 4), (4, FILEMARKS, 0, 4), (4, SEQUENTIAL, 0, 4),
    ],
)  # fmt: skip
def test_space_that_arrives(recorded, start, code, count, end):
    good(space(at(recorded, start), code, count))
    assert position(recorded) == (0, end)
    good(send(at(recorded, start), ssc.Space16.encode(code=code, count=count & (1 << 64) - 1)))
    assert position(recorded) == (0, end)


@pytest.mark.parametrize(
    ("start", "code", "count", "flags", "sense", "residual", "end"),
    [
        # blocks: a filemark stops it on its far side, and is not counted
        (0, BLOCKS, 10, FILEMARK, (0, 0x00, 0x01), 7, 4),
        (5, BLOCKS, -4, FILEMARK, (0, 0x00, 0x01), 3, 3),
        (3, BLOCKS, 1, FILEMARK, (0, 0x00, 0x01), 1, 4),
        (8, BLOCKS, 5, 0, (8, 0x00, 0x05), 4, 9),
        (2, BLOCKS, -5, END_OF_MEDIUM, (0, 0x00, 0x04), 3, 0),
        # filemarks: end of data forwards, beginning of partition backwards
        (0, FILEMARKS, 5, 0, (8, 0x00, 0x05), 2, 9),
        (8, FILEMARKS, -4, END_OF_MEDIUM, (0, 0x00, 0x04), 1, 0),
        (0, FILEMARKS, -1, END_OF_MEDIUM, (0, 0x00, 0x04), 1, 0),
        (9, FILEMARKS, 1, 0, (8, 0x00, 0x05), 1, 9),
        (0, SEQUENTIAL, 3, 0, (8, 0x00, 0x05), 3, 9),
        (9, SEQUENTIAL, -3, END_OF_MEDIUM, (0, 0x00, 0x04), 3, 0),
    ],
)
def test_space_that_is_stopped(recorded, start, code, count, flags, sense, residual, end):
    for cdb in (
        ssc.Space6.encode(code=code, count=count & 0xFFFFFF),
        ssc.Space16.encode(code=code, count=count & (1 << 64) - 1),
    ):
        response = send(at(recorded, start), cdb)
        assert stream_sense(response) == (flags, *sense, residual)
        assert position(recorded) == (0, end)


@pytest.mark.parametrize("code", [4, 5, 6, 7, 15])
def test_setmarks_and_unknown_codes_are_refused(recorded, code):
    response = space(recorded, code, 1)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCB, 0, 1])
    assert position(recorded) == (0, 0)


def test_space_16_takes_counts_beyond_24_bits(recorded):
    response = send(recorded, ssc.Space16.encode(code=BLOCKS, count=1 << 40))
    assert stream_sense(response)[:4] == (FILEMARK, 0, 0, 1)
    # 2**40 - 3 does not fit the four bytes of fixed format, so VALID is zero (SPC-5 4.4.3).
    assert stream_sense(response)[4] is None
    assert sense_of(send(recorded, ssc.Space16.encode(code=BLOCKS, count=1, parameter_list_length=4))) == (5, 0x24, 0)


def test_reading_after_backward_space_over_a_filemark(recorded):
    good(space(at(recorded, 9), FILEMARKS, -1))
    assert stream_sense(read(recorded, 1)) == (FILEMARK, 0, 0, 1, 1)
    assert moved(good(read(recorded, 1))) == bytes([16])


def test_the_sequence_of_btape_append(drive):
    """Three files, then MTEOM must be file 3, and one more makes 4."""
    for n in range(3):
        good(write(drive, bytes([n]) * 100))
        good(filemarks(drive))
    rewind(drive)
    good(space(drive, END_OF_DATA))
    assert drive.medium.file_number == 3
    good(write(drive, b"fourth"))
    good(filemarks(drive))
    assert drive.medium.file_number == 4
    good(space(drive, FILEMARKS, -1))
    good(space(drive, BLOCKS, -1))
    assert moved(read(drive, 6)) == b"fourth"


def test_the_sequence_of_st_backspacing_files(recorded):
    """mt bsfm: back over n + 1 filemarks, forward over one."""
    good(space(at(recorded, 9), FILEMARKS, -3))
    good(space(recorded, FILEMARKS, 1))
    assert position(recorded) == (0, 4)
