"""READ(6) and WRITE(6): fixed and variable blocks, residuals, incorrect lengths (SSC-3 6.4, 6.8)."""

import pytest

from scsi_targets.t10 import ssc
from tests.unit.devices.support import send, sense_of
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    FILEMARK,
    INCORRECT_LENGTH,
    filemarks,
    good,
    moved,
    position,
    read,
    rewind,
    set_block_length,
    stream_sense,
    write,
    write_fixed,
)


def blocks(count, length, seed=1):
    return bytes((seed + n // length * 7 + n) & 0xFF for n in range(count * length))


def test_variable_block_comes_back_whole(drive):
    data = blocks(1, 10240)
    good(write(drive, data))
    rewind(drive)
    response = good(read(drive, len(data)))
    assert moved(response) == data
    assert response.data_length == len(data)


@pytest.mark.parametrize("length", [1, 511, 65536, 1 << 20])
def test_any_block_length(drive, length):
    data = blocks(1, length)
    good(write(drive, data))
    rewind(drive)
    assert moved(good(read(drive, length))) == data


def test_short_block_reports_incorrect_length_with_the_residual(drive):
    good(write(drive, b"x" * 100))
    rewind(drive)
    response = read(drive, 512)
    assert stream_sense(response) == (INCORRECT_LENGTH, 0, 0, 0, 412)
    assert moved(response) == b"x" * 100
    assert len(memoryview(response.data_in)) == 100  # nothing of the buffer's past leaves
    assert position(drive) == (0, 1)


def test_long_block_reports_a_negative_residual_and_the_position_passes_it(drive):
    good(write(drive, b"y" * 1000))
    rewind(drive)
    response = read(drive, 512)
    assert stream_sense(response) == (INCORRECT_LENGTH, 0, 0, 0, 512 - 1000)
    assert response.sense[3:7] == (512 - 1000 & 0xFFFFFFFF).to_bytes(4, "big")
    assert moved(response) == b"y" * 512
    assert position(drive) == (0, 1)


def test_sili_suppresses_both_when_the_block_length_is_zero(drive):
    good(write(drive, b"a" * 100))
    good(write(drive, b"b" * 1000))
    rewind(drive)
    assert moved(good(read(drive, 512, suppress_incorrect_length=1))) == b"a" * 100
    assert moved(good(read(drive, 512, suppress_incorrect_length=1))) == b"b" * 512


def test_sili_with_a_block_length_suppresses_only_the_short_block(drive):
    good(write(drive, b"a" * 100))
    good(write(drive, b"b" * 1000))
    good(set_block_length(drive, 512))
    rewind(drive)
    assert moved(good(read(drive, 512, suppress_incorrect_length=1))) == b"a" * 100
    assert stream_sense(read(drive, 512, suppress_incorrect_length=1)) == (INCORRECT_LENGTH, 0, 0, 0, -488)


def test_fixed_blocks_come_back(drive):
    good(set_block_length(drive, 512))
    data = blocks(20, 512)
    good(write_fixed(drive, data, 512))
    assert position(drive) == (0, 20)
    rewind(drive)
    response = good(read(drive, 20, fixed=1))
    assert moved(response) == data
    rewind(drive)
    assert moved(good(read(drive, 512))) == data[:512]  # one block each on the medium


def test_fixed_read_stops_at_a_filemark_with_the_residual_in_blocks(drive):
    good(set_block_length(drive, 512))
    data = blocks(3, 512)
    good(write_fixed(drive, data, 512))
    good(filemarks(drive))
    rewind(drive)
    response = read(drive, 10, fixed=1)
    assert stream_sense(response) == (FILEMARK, 0, 0x00, 0x01, 7)
    assert moved(response) == data
    assert position(drive) == (0, 4)


def test_variable_read_at_a_filemark_reports_all_bytes_as_residual(drive):
    good(filemarks(drive))
    rewind(drive)
    response = read(drive, 4096)
    assert stream_sense(response) == (FILEMARK, 0, 0x00, 0x01, 4096)
    assert moved(response) == b""
    assert position(drive) == (0, 1)


def test_read_at_end_of_data_is_blank_check(drive):
    good(write(drive, b"z"))
    response = read(drive, 4096)
    assert stream_sense(response) == (0, 8, 0x00, 0x05, 4096)
    assert position(drive) == (0, 1)
    good(set_block_length(drive, 1))
    rewind(drive)
    response = read(drive, 5, fixed=1)
    assert stream_sense(response) == (0, 8, 0x00, 0x05, 4)
    assert moved(response) == b"z"


def test_fixed_read_of_a_block_of_another_length(drive):
    good(write(drive, b"a" * 512))
    good(write(drive, b"b" * 400))
    good(write(drive, b"c" * 512))
    good(set_block_length(drive, 512))
    rewind(drive)
    response = read(drive, 3, fixed=1)
    # The residual does not count the incorrect-length block as read; the position is behind it (SSC-3 6.4).
    assert stream_sense(response) == (INCORRECT_LENGTH, 0, 0, 0, 2)
    assert moved(response) == b"a" * 512
    assert position(drive) == (0, 2)
    assert moved(good(read(drive, 1, fixed=1))) == b"c" * 512


def test_fixed_with_block_length_zero_is_refused(drive):
    for response in (read(drive, 1, fixed=1), write_fixed(drive, b"x" * 512, 512)):
        assert sense_of(response) == (5, 0x24, 0)
        assert response.sense[15:18] == bytes([0xC8, 0, 1])  # SKSV, C/D, BPV, bit 0 of byte 1
    assert position(drive) == (0, 0)


def test_sili_with_fixed_is_refused(drive):
    good(set_block_length(drive, 512))
    response = read(drive, 1, fixed=1, suppress_incorrect_length=1)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xC9, 0, 1])


def test_transfer_length_zero_does_nothing(drive):
    good(write(drive, b"data"))
    rewind(drive)
    good(read(drive, 0))
    good(write(drive, b""))
    assert position(drive) == (0, 0)
    assert moved(good(read(drive, 4))) == b"data"


def test_less_data_out_than_the_cdb_says_writes_nothing(drive):
    response = send(drive, ssc.Write6.encode(transfer_length=100), data=b"x" * 99)
    assert sense_of(response) == (5, 0x24, 0)
    good(set_block_length(drive, 10))
    response = send(drive, ssc.Write6.encode(fixed=1, transfer_length=10), data=b"x" * 99)
    assert sense_of(response) == (5, 0x24, 0)
    assert position(drive) == (0, 0)


def test_more_data_out_than_the_cdb_says_is_left_alone(drive):
    good(send(drive, ssc.Write6.encode(transfer_length=3), data=b"abcdef"))
    rewind(drive)
    assert moved(read(drive, 10)) == b"abc"


def test_a_fixed_read_beyond_one_transfer_is_refused(drive):
    good(set_block_length(drive, 65536))
    assert sense_of(read(drive, 257, fixed=1)) == (5, 0x24, 0)


def test_an_initiator_that_takes_less_gets_less_but_hears_the_truth(drive):
    good(write(drive, b"q" * 1000))
    rewind(drive)
    response = send(drive, ssc.Read6.encode(transfer_length=2000), limit=300)
    assert stream_sense(response) == (INCORRECT_LENGTH, 0, 0, 0, 1000)
    assert bytes(response.data_in) == b"q" * 300
    assert response.data_length == 1000


def test_writing_in_the_middle_truncates(drive):
    for n in range(5):
        good(write(drive, bytes([n]) * 10))
    good(send(drive, ssc.Locate10.encode(logical_object_identifier=2)))
    good(write(drive, b"new"))
    rewind(drive)
    assert [moved(read(drive, 10)) for _ in range(3)] == [bytes(10), b"\1" * 10, b"new"]
    assert stream_sense(read(drive, 10))[:4] == (0, 8, 0, 5)


def test_read_reverse_is_not_supported(drive):
    assert sense_of(send(drive, bytes([0x0F, 0, 0, 0, 1, 0]))) == (5, 0x20, 0)


def test_write_protected_cartridge(drive):
    drive.medium.write_protected = True
    for response in (write(drive, b"x"), filemarks(drive)):
        assert sense_of(response) == (7, 0x27, 0)
    good(filemarks(drive, 0))  # only synchronizes
    assert END_OF_MEDIUM not in stream_sense(read(drive, 1))[:1]
