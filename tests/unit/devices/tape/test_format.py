"""ERASE, FORMAT MEDIUM with the Medium Partition mode page, SET CAPACITY (SSC-3 6.2, 7.1, 7.10, 8.3.4)."""

import pytest

from scsi_targets.devices.tape.format import partition_sizes
from scsi_targets.t10 import ssc
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import MediumPartitionPage4
from tests.unit.devices.support import BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import (
    filemarks,
    good,
    loaded_drive,
    moved,
    position,
    quiet,
    read,
    rewind,
    send_slow,
    space,
    stream_sense,
    write,
)

GIGABYTE = 10**9
CAPACITY = 1200 * GIGABYTE  # an LTO-8 medium's tenth: two wraps are 11.5 GB
SMALLEST = CAPACITY * 2 // 208


@pytest.fixture
def big(tmp_path):
    yield from loaded_drive(tmp_path, capacity_bytes=CAPACITY)


def sizes(drive):
    return [drive.medium.partition_capacity_bytes(n) for n in range(drive.medium.partition_count)]


def format_medium(drive, how=0, **fields):
    return send_slow(drive, ssc.FormatMedium.encode(format=how, **fields))


def mode_sense_11(drive):
    return bytearray(data_of(send(drive, bytes([0x5A, 0, 0x11, 0, 0, 0, 0, 0, 255, 0]))))


# ---- as clients do it ----------------------------------------------------------------------------------------------


def test_ltfs_makes_two_partitions(big):
    """MODE SENSE(10) of 28 bytes, MODE SELECT(10) of all 32 with IDP and unit 09h, FORMAT MEDIUM with FORMAT 2."""
    data = bytearray(data_of(send(big, bytes([0x5A, 0, 0x11, 0, 0, 0, 0, 0, 28, 0]))))
    length = int.from_bytes(data[0:2], "big") + 2
    assert length == 32
    data = data.ljust(length, b"\0")
    data[0:2] = bytes(2)
    data[16] &= 0x7F
    data[19] = 1
    data[20] = 0x20 | data[20] & 0x1F
    assert data[20] & 0x18 == 0x18  # PSUM 11b: PARTITION UNITS count
    data[22] = 9
    data[24:28] = bytes([0, 1, 0xFF, 0xFF])
    good(send(big, bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, length, 0]), data=bytes(data)))
    good(format_medium(big, 2))
    assert sizes(big) == [SMALLEST, CAPACITY - SMALLEST]  # 1 GB is rounded up to what a medium can do
    page = mode_sense_11(big)[16:]
    assert page[3] == 1
    assert page[8:16] == bytes([0, 11]) + ((CAPACITY - SMALLEST) // GIGABYTE).to_bytes(2, "big") + bytes(4)
    good(format_medium(big, 0))
    assert sizes(big) == [CAPACITY]
    assert mode_sense_11(big)[16 + 3] == 0


def test_st_makes_two_partitions(big):
    """mt mkpartition 50000: MODE SENSE(6), MODE SELECT(6) of a page with two descriptors only, FORMAT MEDIUM 1."""
    data = bytearray(data_of(send(big, bytes([0x1A, 0, 0x11, 0, 255, 0]))))
    page = 4 + data[3]
    assert data[page + 4] & 0x04  # POFM: st sends FORMAT MEDIUM
    assert data[page + 2] == 3
    data[page + 8 : page + 12] = bytes([0xFF, 0xFF]) + (50).to_bytes(2, "big")
    data[page + 3] = 1
    data[page + 4] = 0x20 | 0x18 | data[page + 4] & 0x07
    data[page + 6 : page + 8] = bytes([9, 0])
    data[page + 1] = 6 + 2 * 2
    data[0] = data[1] = 0
    data[2] &= 0x7F
    data[page] &= 0x3F
    length = page + data[page + 1] + 2
    good(send(big, bytes([0x15, 0x10, 0, 0, length, 0]), data=bytes(data[:length])))
    good(format_medium(big, 1))
    assert sizes(big) == [CAPACITY - 50 * GIGABYTE, 50 * GIGABYTE]


def test_data_of_both_partitions_is_apart(big):
    test_st_makes_two_partitions(big)
    good(write(big, b"zero"))
    good(send(big, ssc.Locate10.encode(change_partition=1, partition=1)))
    good(write(big, b"one"))
    good(filemarks(big))
    good(send(big, ssc.Locate10.encode(change_partition=1, partition=0)))
    assert moved(read(big, 4)) == b"zero"
    assert stream_sense(read(big, 4))[:4] == (0, 8, 0, 5)


# ---- the page's own arithmetic -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [CAPACITY]),
        ({"additional_partitions_defined": 1, "fixed_data_partitions": 1}, [CAPACITY - SMALLEST, SMALLEST]),
        ({"additional_partitions_defined": 2, "select_data_partitions": 1}, [CAPACITY // 3] * 3),
        (
            {"additional_partitions_defined": 1, "initiator_defined_partitions": 1, "partition_size_0": 100,
             "partition_size_1": 200},
            [100 * GIGABYTE, 200 * GIGABYTE],
        ),
        (
            {"additional_partitions_defined": 3, "initiator_defined_partitions": 1, "partition_size_0": 20,
             "partition_size_1": 0xFFFF, "partition_size_2": 30, "partition_size_3": 40},
            [20 * GIGABYTE, CAPACITY - 90 * GIGABYTE, 30 * GIGABYTE, 40 * GIGABYTE],
        ),
        (
            {"additional_partitions_defined": 1, "initiator_defined_partitions": 1, "partition_size_0": 0xFFFF,
             "partition_size_1": 20_000, "partition_size_unit_of_measure": 2},
            [CAPACITY - 20 * GIGABYTE, 20 * GIGABYTE],
        ),
    ],
)  # fmt: skip
def test_partition_sizes(big, fields, wanted):
    page = MediumPartitionPage4(MediumPartitionPage4.encode(**fields))
    assert partition_sizes(page, big.medium) == wanted
    big.medium.format(wanted)


@pytest.mark.parametrize(
    ("descriptors", "at_fault"),
    [([1000, 500], 1), ([0xFFFF, 0xFFFF], 1), ([0xFFFF, 1200], 1), ([1200, 0xFFFF], 1), ([1201, 0xFFFF], 0),
     ([1201, 1], 0), ([600, 599, 1], 2), ([300, 300, 300, 301], 3), ([0xFFFF, 100, 100, 0xFFFF], 3),
     ([100, 0xFFFF, 1100, 1], 2)],
    ids=str,
)  # fmt: skip
def test_partitions_that_do_not_fit(big, descriptors, at_fault):
    """The sense-key specific field pointer is at the size that has no room."""
    fields = {f"partition_size_{n}": size for n, size in enumerate(descriptors)}
    additional = len(descriptors) - 1
    page = MediumPartitionPage4.encode(
        maximum_additional_partitions=3, additional_partitions_defined=additional, initiator_defined_partitions=1,
        **fields,
    )  # fmt: skip
    with pytest.raises(CheckCondition):
        partition_sizes(MediumPartitionPage4(page), big.medium)
    before = mode_sense_11(big)
    response = send(big, bytes([0x15, 0x10, 0, 0, 20, 0]), data=bytes([0, 0, 0x10, 0]) + page)
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[15:18] == bytes([0x80, 0, 4 + 8 + 2 * at_fault])
    assert mode_sense_11(big) == before


@pytest.mark.parametrize("descriptor", [bytes(8), b""], ids=["with a block descriptor", "without"])
def test_the_field_pointer_counts_what_lies_before_the_page(big, descriptor):
    page = MediumPartitionPage4.encode(
        maximum_additional_partitions=3, additional_partitions_defined=1, initiator_defined_partitions=1,
        partition_size_0=0xFFFF, partition_size_1=1200,
    )  # fmt: skip
    data = bytes([0, 0, 0, 0x10, 0, 0, 0, len(descriptor)]) + descriptor + page
    response = send(big, bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, len(data), 0]), data=data)
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[15:18] == bytes([0x80, 0, 8 + len(descriptor) + 10])


@pytest.mark.parametrize(
    ("model", "medium"),
    [(f"IBM ULT3580-TD{n}", f"LTO-{n}") for n in range(5, 10)] + [("IBM ULT3580-TD8", "LTO-7 M8")],
)
@pytest.mark.parametrize(("capacity", "fits"), [(1_600_000_000, True), (600 << 20, False)])
def test_the_least_capacity_that_ltfs_formats(tmp_path, model, medium, capacity, fits):
    """docs/drives.md: 1.6 GB. mkltfs asks for 1 GB and the rest."""
    drives = loaded_drive(tmp_path, model, medium=medium, capacity_bytes=capacity)
    drive = next(drives)
    data = bytearray(data_of(send(drive, bytes([0x5A, 0, 0x11, 0, 0, 0, 0, 0, 28, 0])))).ljust(32, b"\0")
    length = int.from_bytes(data[0:2], "big") + 2
    data[0:2], data[16], data[19], data[20], data[22] = bytes(2), data[16] & 0x7F, 1, 0x20 | data[20] & 0x1F, 9
    data[24:28] = bytes([0, 1, 0xFF, 0xFF])
    cdb = bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, length, 0])
    response = send(drive, cdb, data=bytes(data[:length]))
    if fits:
        good(response)
        good(format_medium(drive, 2))
        first, second = sizes(drive)
        assert first >= GIGABYTE and second >= 500_000_000 and first + second == capacity
    else:
        assert sense_of(response) == (5, 0x26, 0)
        assert response.sense[15:18] == bytes([0x80, 0, 24])
    drives.close()


@pytest.mark.parametrize(
    ("fields", "byte"),
    [
        ({"additional_partitions_defined": 4}, 3),
        ({"additional_partitions_defined": 1, "fixed_data_partitions": 1, "initiator_defined_partitions": 1}, 4),
    ],
)
def test_pages_that_contradict_themselves(big, fields, byte):
    page = MediumPartitionPage4.encode(maximum_additional_partitions=3, **fields)
    response = send(big, bytes([0x15, 0x10, 0, 0, 20, 0]), data=bytes([0, 0, 0x10, 0]) + page)
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[15:18] == bytes([0x80, 0, 4 + byte])


def test_an_lto_5_drive_knows_two_partitions(tmp_path):
    drives = loaded_drive(tmp_path, "IBM ULT3580-TD5", medium="LTO-5")
    page = mode_sense_11(next(drives))[16:]
    assert (page[1], page[2]) == (0x0A, 1)
    drives.close()


# ---- FORMAT MEDIUM -------------------------------------------------------------------------------------------------


def test_format_wants_the_beginning_of_the_medium(drive):
    good(write(drive, b"x"))
    assert sense_of(format_medium(drive)) == (5, 0x3B, 0x0C)
    rewind(drive)
    good(format_medium(drive))
    assert stream_sense(read(drive, 1))[:4] == (0, 8, 0, 5)


@pytest.mark.parametrize(("fields", "byte"), [({"transfer_length": 1}, 3), ({"how": 3}, 2)])
def test_format_refuses_what_it_does_not_know(drive, fields, byte):
    response = format_medium(drive, **fields)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[17] == byte


def test_format_tells_the_others_and_keeps_the_attributes(drive):
    attribute = bytes([8, 6, 1, 0, 32]) + b"TAP001L8".ljust(32)
    cdb = bytes([0x8D, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4 + len(attribute), 0, 0])
    good(send(drive, cdb, data=len(attribute).to_bytes(4, "big") + attribute))
    good(format_medium(drive))
    assert sense_of(send(drive, bytes(6), nexus=BETA)) == (6, 0x2A, 0x01)
    cdb = bytes([0x8C, 0, 0, 0, 0, 0, 0, 0, 8, 6, 0, 0, 1, 0, 0, 0])
    assert data_of(send(drive, cdb))[4:].startswith(attribute)


def test_protected_media_are_not_formatted(tmp_path, drive):
    drive.medium.write_protected = True
    assert sense_of(format_medium(drive)) == (7, 0x27, 0)
    drives = loaded_drive(tmp_path, barcode="WRM001LY", medium="LTO-8 WORM")
    worm = next(drives)
    good(write(worm, b"x"))
    rewind(worm)
    assert sense_of(format_medium(worm)) == (7, 0x30, 0x0C)
    assert sense_of(send_slow(worm, ssc.Erase6.encode(long=1))) == (7, 0x30, 0x0C)
    drives.close()


# ---- ERASE and SET CAPACITY ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"long": 1}, {"long": 1, "immediate": 1}])
def test_erase_from_the_position_on(drive, fields):
    for n in range(4):
        good(write(drive, bytes([n])))
    good(filemarks(drive))
    rewind(drive)
    good(space(drive, 0, 2))
    good(send_slow(drive, ssc.Erase6.encode(**fields)))
    assert position(drive) == (0, 2)
    assert stream_sense(read(drive, 1))[:4] == (0, 8, 0, 5)
    rewind(drive)
    assert [moved(read(drive, 1)) for _ in range(2)] == [b"\0", b"\1"]


def test_erase_of_a_protected_medium(drive):
    drive.medium.write_protected = True
    assert sense_of(send_slow(drive, ssc.Erase6.encode(long=1))) == (7, 0x27, 0)


def test_set_capacity(big):
    good(send_slow(big, ssc.SetCapacity.encode(capacity_proportion_value=0x7FFF)))
    assert sizes(big) == [CAPACITY * 0x7FFF // 0xFFFF]
    good(send_slow(big, ssc.SetCapacity.encode(capacity_proportion_value=0xFFFF)))
    assert sizes(big) == [CAPACITY]
    quiet(big)
    good(write(big, b"x"))
    assert sense_of(send_slow(big, ssc.SetCapacity.encode(capacity_proportion_value=0xFFFF))) == (5, 0x3B, 0x0C)
    rewind(big)
    assert sense_of(send_slow(big, ssc.SetCapacity.encode())) == (5, 0x24, 0)


def select_sizes(drive, *gigabytes):
    page = MediumPartitionPage4.encode(
        maximum_additional_partitions=3, additional_partitions_defined=len(gigabytes) - 1,
        initiator_defined_partitions=1, **{f"partition_size_{n}": size for n, size in enumerate(gigabytes)},
    )  # fmt: skip
    good(send(drive, bytes([0x15, 0x10, 0, 0, 20, 0]), data=bytes([0, 0, 0x10, 0]) + page))


@pytest.mark.parametrize("proportion", [0xFFFF, 0x7FFF])
def test_what_small_partitions_left_of_the_medium_is_there_for_the_next_format(big, proportion):
    usable = CAPACITY * proportion // 0xFFFF
    good(send_slow(big, ssc.SetCapacity.encode(capacity_proportion_value=proportion)))
    for _ in range(2):
        select_sizes(big, 20, 30)
        good(format_medium(big, 1))
        assert sizes(big) == [20 * GIGABYTE, 30 * GIGABYTE]
    big.load(big.unload())
    quiet(big)
    select_sizes(big, 20, 0xFFFF)
    good(format_medium(big, 1))
    assert sizes(big) == [20 * GIGABYTE, usable - 20 * GIGABYTE]
    good(format_medium(big))
    assert sizes(big) == [usable]
    good(send_slow(big, ssc.SetCapacity.encode(capacity_proportion_value=0xFFFF)))
    good(format_medium(big))
    assert sizes(big) == [CAPACITY]


def test_set_capacity_leaves_something_of_the_smallest_medium(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=60_000)
    drive = next(drives)
    assert sense_of(send_slow(drive, ssc.SetCapacity.encode(capacity_proportion_value=1))) == (5, 0x24, 0)
    assert sizes(drive) == [60_000]
    drives.close()
