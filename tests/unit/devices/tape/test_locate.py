"""LOCATE and READ POSITION in all forms (SSC-3 6.3, 7.3, 7.6)."""

import pytest

from scsi_targets.t10 import ssc
from tests.unit.devices.support import data_of, send, sense_of
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    filemarks,
    good,
    loaded_drive,
    moved,
    position,
    read,
    rewind,
    stream_sense,
    write,
)

OBJECT, FILE, END_OF_DATA = 0, 1, 3


@pytest.fixture
def recorded(drive):
    for n in range(3):
        for block in range(4):
            good(write(drive, bytes([n * 4 + block]) * 10))
        good(filemarks(drive))
    return drive


@pytest.fixture
def partitioned(tmp_path):
    yield from loaded_drive(tmp_path, partitions=2)


def locate_16(drive, identifier, destination=OBJECT, **fields):
    return send(drive, ssc.Locate16.encode(destination_type=destination, logical_identifier=identifier, **fields))


def test_locate_10_and_16_by_object(recorded):
    for cdb in (ssc.Locate10.encode(logical_object_identifier=6), ssc.Locate16.encode(logical_identifier=6)):
        good(send(recorded, cdb))
        assert position(recorded) == (0, 6)
        assert moved(good(read(recorded, 10))) == bytes([5]) * 10


def test_destination_type_lies_in_bits_5_to_3(recorded):
    """File and end-of-data locate broke elsewhere because DEST_TYPE was read without its shift."""
    cdb = bytes([0x92, 0x01 << 3, 0, 0]) + (2).to_bytes(8, "big") + bytes(4)
    good(send(recorded, cdb))
    assert position(recorded) == (0, 10)
    cdb = bytes([0x92, 0x03 << 3, 0, 0]) + bytes(8) + bytes(4)
    good(send(recorded, cdb))
    assert position(recorded) == (0, 15)


@pytest.mark.parametrize(("file", "block"), [(0, 0), (1, 5), (2, 10), (3, 15)])
def test_locate_16_by_file(recorded, file, block):
    good(locate_16(recorded, file, FILE))
    assert position(recorded) == (0, block)


def test_locate_16_end_of_data_ignores_the_identifier(recorded):
    rewind(recorded)
    good(locate_16(recorded, 12345, END_OF_DATA))
    assert position(recorded) == (0, 15)


@pytest.mark.parametrize("destination", [2, 4, 7])
def test_other_destinations_are_refused(recorded, destination):
    response = locate_16(recorded, 0, destination)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCD, 0, 1])


def test_beyond_end_of_data_is_blank_check_at_end_of_data(recorded):
    rewind(recorded)
    for response in (
        send(recorded, ssc.Locate10.encode(logical_object_identifier=16)),
        locate_16(recorded, 1 << 63),
        locate_16(recorded, 4, FILE),
    ):
        assert stream_sense(response) == (0, 8, 0x00, 0x05, None)
        assert position(recorded) == (0, 15)


def test_the_end_of_data_itself_can_be_located(recorded):
    rewind(recorded)
    good(locate_16(recorded, 15))
    assert position(recorded) == (0, 15)


def test_change_partition(partitioned):
    good(write(partitioned, b"zero"))
    good(locate_16(partitioned, 0, change_partition=1, partition=1))
    good(write(partitioned, b"one"))
    good(send(partitioned, ssc.Locate10.encode(change_partition=1, partition=0)))
    assert moved(read(partitioned, 4)) == b"zero"
    good(locate_16(partitioned, 0, END_OF_DATA, change_partition=1, partition=1))
    assert position(partitioned) == (1, 1)
    good(send(partitioned, ssc.Locate10.encode(partition=0)))  # CP is zero: the partition stays
    assert position(partitioned) == (1, 0)
    rewind(partitioned)
    assert position(partitioned) == (1, 0)


def test_a_partition_that_is_not_there(partitioned):
    for cdb, byte in (
        (ssc.Locate10.encode(change_partition=1, partition=2), 8),
        (ssc.Locate16.encode(change_partition=1, partition=2), 3),
    ):
        response = send(partitioned, cdb)
        assert sense_of(response) == (5, 0x24, 0)
        assert response.sense[15:18] == bytes([0xCF, 0, byte])


def test_explicit_address_mode_is_refused(recorded):
    assert sense_of(send(recorded, ssc.Locate16.encode(block_address_mode=1))) == (5, 0x24, 0)


# ---- READ POSITION ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [0, 1])
def test_short_form(recorded, action):
    good(send(recorded, ssc.Locate10.encode(logical_object_identifier=7)))
    data = data_of(send(recorded, bytes([0x34, action, 0, 0, 0, 0, 0, 0, 0, 0])))
    assert data == bytes([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 7]) + bytes(8)
    rewind(recorded)
    assert data_of(send(recorded, bytes([0x34, action, 0, 0, 0, 0, 0, 0, 0, 0])))[0] == 0x80  # BOP


def test_short_form_counts_what_is_not_yet_durable(drive):
    good(write(drive, b"a"))
    good(filemarks(drive))
    for _ in range(3):
        good(write(drive, b"b"))
    data = data_of(send(drive, ssc.ReadPositionShort.encode()))
    assert data[0] == 0x10  # BYCU: how many bytes is not known
    assert data[4:16] == bytes([0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 3])
    good(filemarks(drive, 0))
    assert data_of(send(drive, ssc.ReadPositionShort.encode()))[4:16] == bytes([0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 0])


def test_long_form(partitioned):
    good(locate_16(partitioned, 0, change_partition=1, partition=1))
    for _ in range(2):
        good(write(partitioned, b"x"))
        good(filemarks(partitioned))
    data = data_of(send(partitioned, bytes([0x34, 0x06, 0, 0, 0, 0, 0, 0, 0, 0])))
    assert len(data) == 32
    assert data[0] == 0
    assert int.from_bytes(data[4:8], "big") == 1
    assert int.from_bytes(data[8:16], "big") == 4
    assert int.from_bytes(data[16:24], "big") == 2
    assert data[24:] == bytes(8)


def test_extended_form(recorded):
    good(send(recorded, ssc.Locate10.encode(logical_object_identifier=9)))
    cdb = ssc.ReadPositionExtended.encode(allocation_length=32)
    assert cdb[:2] == bytes([0x34, 0x08])
    data = data_of(send(recorded, cdb))
    assert data == bytes([0, 0, 0, 0x1C, 0, 0, 0, 0]) + (9).to_bytes(8, "big") * 2 + bytes(8)
    assert data_of(send(recorded, ssc.ReadPositionExtended.encode(allocation_length=16))) == data[:16]


@pytest.mark.parametrize("action", [2, 3, 4, 5, 7, 9, 31])
def test_other_forms_are_refused(drive, action):
    assert sense_of(send(drive, bytes([0x34, action, 0, 0, 0, 0, 0, 0, 0, 0]))) == (5, 0x24, 0)


def test_end_of_partition_is_told_behind_early_warning(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=100_000, early_warning_bytes=50_000)
    drive = next(drives)
    good(write(drive, bytes(40_000)))
    assert data_of(send(drive, ssc.ReadPositionLong.encode()))[0] == 0
    assert stream_sense(write(drive, bytes(20_000)))[0] == END_OF_MEDIUM
    assert data_of(send(drive, ssc.ReadPositionLong.encode()))[0] == 0x40
    assert data_of(send(drive, ssc.ReadPositionShort.encode()))[0] == 0x40
    drives.close()
