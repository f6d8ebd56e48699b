"""Early warning, programmable early warning, end of partition (SSC-3 4.2.7, 6.8; SSC-4 4.2.8)."""

import pytest

from scsi_targets.t10 import ssc
from tests.unit.devices.support import data_of, send
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    filemarks,
    good,
    loaded_drive,
    moved,
    position,
    quiet,
    read,
    rewind,
    set_block_length,
    space,
    stream_sense,
    write,
    write_fixed,
)
from vlib_images.cartridge.segments import SegmentLimits

CAPACITY, EARLY = 200_000, 60_000
BLOCK = 10_000


@pytest.fixture
def short(tmp_path):
    yield from loaded_drive(tmp_path, capacity_bytes=CAPACITY, early_warning_bytes=EARLY)


def fill(drive, block=b"f" * BLOCK):
    """Writes until the first response that is not GOOD: (blocks answered GOOD, that response)."""
    for count in range(1000):
        if (response := write(drive, block)).status:
            return count, response
    raise AssertionError("the medium has no end")


def test_early_warning_comes_with_the_block_written(short):
    count, response = fill(short)
    assert stream_sense(response) == (END_OF_MEDIUM, 0, 0x00, 0x02, 0)
    assert position(short) == (0, count + 1)
    rewind(short)
    for _ in range(count + 1):
        assert moved(good(read(short, BLOCK))) == b"f" * BLOCK


def test_every_write_behind_early_warning_says_so_until_the_end(short):
    fill(short)
    while stream_sense(response := write(short, b"f" * BLOCK))[1] == 0:
        assert stream_sense(response) == (END_OF_MEDIUM, 0, 0x00, 0x02, 0)
        written = position(short)[1]
    assert stream_sense(response) == (END_OF_MEDIUM, 0xD, 0x00, 0x02, BLOCK)
    assert position(short) == (0, written)


def test_volume_overflow_tells_how_many_blocks_were_not_written(short):
    good(set_block_length(short, 1000))
    blocks = CAPACITY // 1000
    response = write_fixed(short, b"x" * 1000 * blocks, 1000)
    flags, key, asc, ascq, residual = stream_sense(response)
    assert (flags, key, asc, ascq) == (END_OF_MEDIUM, 0xD, 0x00, 0x02)
    assert position(short) == (0, blocks - residual)
    assert 0 < residual < blocks
    rewind(short)
    assert moved(good(read(short, blocks - residual, fixed=1))) == b"x" * 1000 * (blocks - residual)


def test_a_filemark_behind_early_warning_is_written_and_durable(short):
    """st takes NO SENSE with EOM on a filemark as success."""
    fill(short)
    before = position(short)[1]
    response = filemarks(short)
    assert stream_sense(response) == (END_OF_MEDIUM, 0, 0x00, 0x02, 0)
    assert position(short) == (0, before + 1)
    assert short.buffered_from is None


def test_a_filemark_still_fits_when_no_block_does(short):
    fill(short)
    while stream_sense(response := write(short, b"f" * BLOCK))[1] == 0:
        pass
    assert stream_sense(response)[1] == 0xD
    assert stream_sense(filemarks(short)) == (END_OF_MEDIUM, 0, 0x00, 0x02, 0)


def test_synchronize_at_early_warning(short):
    fill(short)
    assert short.buffered_from is None
    page = bytearray(data_of(send(short, bytes([0x1A, 8, 0x10, 0, 255, 0]))))
    page[0] = 0
    page[4 + 10] &= ~0x08  # SEW
    page[4] &= 0x3F
    good(send(short, bytes([0x15, 0x10, 0, 0, len(page), 0]), data=bytes(page)))
    assert stream_sense(write(short, b"f"))[0] == END_OF_MEDIUM
    assert short.buffered_from is not None


def test_reading_does_not_warn(short):
    count, _ = fill(short)
    rewind(short)
    for _ in range(count + 1):
        good(read(short, BLOCK))
    assert stream_sense(read(short, BLOCK))[:4] == (END_OF_MEDIUM, 8, 0x00, 0x05)


def select_extension(drive, *, write_mode=0, warning_megabytes=0):
    """MODE SELECT(10) of page 10h/01h as LTFS sends it: 48 bytes, read before."""
    data = bytearray(data_of(send(drive, bytes([0x5A, 0, 0x10, 0x01, 0, 0, 0, 0, 48, 0]))))
    assert len(data) == 48
    data[0:2] = bytes(2)
    data[16] &= 0x7F
    data[16 + 5] = write_mode << 4
    data[16 + 6 : 16 + 8] = warning_megabytes.to_bytes(2, "big")
    return send(drive, bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, 48, 0]), data=bytes(data))


def test_programmable_early_warning_is_told_once(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=3_000_000, early_warning_bytes=100_000)
    drive = next(drives)
    good(select_extension(drive, warning_megabytes=1))
    count, response = fill(drive, b"p" * 100_000)
    assert stream_sense(response) == (END_OF_MEDIUM, 0, 0x00, 0x07, 0)
    assert position(drive) == (0, count + 1)
    assert 18 <= count <= 19  # 3 MB - 0.1 MB - 1 MB
    assert data_of(send(drive, ssc.ReadPositionLong.encode()))[0] == 0x01  # BPEW
    good(write(drive, b"p"))
    good(space(drive, 0, -1))
    assert stream_sense(write(drive, b"p"))[3] == 0x07  # moved out and in again
    _, response = fill(drive, b"p" * 100_000)
    assert stream_sense(response) == (END_OF_MEDIUM, 0, 0x00, 0x02, 0)
    drives.close()


# ---- READ POSITION between early warning and the end ----------------------------------------------------------------

END_OF_PARTITION, BEYOND_PROGRAMMABLE = 0x40, 0x01  # the same bits of byte 0 in all forms
FORMS = (ssc.ReadPositionShort, ssc.ReadPositionLong, ssc.ReadPositionExtended)


def zones(drive):
    """(EOP, BPEW), which every form of READ POSITION tells alike."""
    found = {data_of(send(drive, form.encode(**length)))[0] & (END_OF_PARTITION | BEYOND_PROGRAMMABLE)
             for form, length in zip(FORMS, ({}, {}, {"allocation_length": 32}), strict=True)}  # fmt: skip
    assert len(found) == 1, found
    flags = found.pop()
    return bool(flags & END_OF_PARTITION), bool(flags & BEYOND_PROGRAMMABLE)


def fill_and_note(drive, lengths):
    """Writes until nothing fits: for each position behind a block or filemark, (EOP, BPEW) as the write told it."""
    told, programmable = {0: (False, False)}, False
    for number in range(10_000):
        length = lengths[number % len(lengths)]
        response = write(drive, b"z" * length) if length else filemarks(drive)
        code = None
        if response.status:
            _, key, _, code, _ = stream_sense(response)
            if key == 0xD:
                return told
        programmable = programmable or code is not None  # PROGRAMMABLE EARLY WARNING is told once
        told[position(drive)[1]] = (code == 0x02, programmable)
    raise AssertionError("the medium has no end")


@pytest.mark.parametrize("segment_bytes", [256 << 20, 300_000], ids=["one segment", "many"])
@pytest.mark.parametrize("lengths", [(70_000,), (50_000, 0, 3, 120_000)], ids=["equal", "mixed"])
def test_read_position_tells_where_the_warnings_were(tmp_path, lengths, segment_bytes):
    limits = SegmentLimits(segment_bytes=segment_bytes, disk_low_bytes=0)
    drives = loaded_drive(tmp_path, capacity_bytes=3_000_000, early_warning_bytes=500_000, limits=limits)
    drive = next(drives)
    good(select_extension(drive, warning_megabytes=1))
    told = fill_and_note(drive, lengths)
    assert {(False, False), (False, True), (True, True)} == set(told.values())
    for block in (*told, *reversed(told)):
        good(send(drive, ssc.Locate10.encode(logical_object_identifier=block)))
        assert (block, zones(drive)) == (block, told[block])
    rewind(drive)
    for block, expected in told.items():  # reading, and spacing back, comes by the same places
        assert zones(drive) == expected, block
        read(drive, 1)
    good(send(drive, ssc.Locate10.encode(logical_object_identifier=len(told) - 2)))
    assert zones(drive) == told[len(told) - 2]
    drives.close()


def test_zones_of_a_partition_after_unload_and_load(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=6_000_000, early_warning_bytes=500_000, partitions=2)
    drive = next(drives)
    good(send(drive, ssc.Locate10.encode(change_partition=1, partition=1)))
    told = fill_and_note(drive, (100_000,))
    drive.load(drive.unload())
    quiet(drive)
    for block, (early, _) in told.items():
        good(send(drive, ssc.Locate10.encode(change_partition=1, partition=1, logical_object_identifier=block)))
        assert zones(drive) == (early, False), block  # without PEWS there is no programmable zone
    good(send(drive, ssc.Locate10.encode(change_partition=1, partition=0)))
    assert zones(drive) == (False, False)
    drives.close()
