"""READ ATTRIBUTE and WRITE ATTRIBUTE with every service action (SPC-5 6.16, 6.48), as LTFS and sg_read_attr ask."""

import re

import pytest

from scsi_targets.t10 import ssc
from scsi_targets.t10.mam import MamAttribute, decode_attributes
from tests.unit.devices.support import data_of, send, sense_of
from tests.unit.devices.tape.support import (
    filemarks,
    good,
    loaded_drive,
    make_drive,
    quiet,
    read,
    rewind,
    send_slow,
    write,
)
from vlib_images.cartridge.codec import Encoder, Encryption, EncryptionKey

BINARY, ASCII, TEXT = 0, 1, 2


def read_values(drive, first=0, *, partition=0, length=65535):
    cdb = ssc.ReadAttributeValues.encode(
        partition_number=partition, first_attribute_identifier=first, allocation_length=length
    )
    return send(drive, cdb)


def values(drive, first=0, **kwargs):
    data = data_of(read_values(drive, first, **kwargs))
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return {attribute.identifier: attribute for _, attribute in decode_attributes(data[4:])}


def number(drive, identifier):
    return int.from_bytes(values(drive, identifier)[identifier].value, "big")


def write_attributes(drive, *attributes, partition=0, data_length=None):
    body = b"".join(MamAttribute(*attribute).encode() for attribute in attributes)
    data = (len(body) if data_length is None else data_length).to_bytes(4, "big") + body
    cdb = ssc.WriteAttribute.encode(write_through=1, partition_number=partition, parameter_list_length=len(data))
    return send(drive, cdb, data=data)


def test_values_are_in_order_and_begin_where_asked(drive):
    everything = list(values(drive))
    assert everything == sorted(everything)
    assert {0x0000, 0x0001, 0x0003, 0x0005, 0x0006, 0x0009, 0x0220, 0x0340, 0x0401, 0x0408} <= set(everything)
    assert list(values(drive, 0x0400 + 1)) == [i for i in everything if i >= 0x0401]


def test_what_the_medium_is(drive, tmp_path):
    found = values(drive)
    assert found[0x0006].value == b"\x5e"
    assert found[0x0005].value == b"LTO-CVE "
    assert found[0x0008].value == b"TAP001L8".ljust(32)
    assert found[0x0402].value == (960).to_bytes(4, "big")
    assert found[0x0408].value == b"\x00"
    assert all(attribute.read_only for identifier, attribute in found.items() if identifier < 0x0800)
    drives = loaded_drive(tmp_path, barcode="WRM001LY", medium="LTO-8 WORM")
    assert values(next(drives))[0x0408].value == b"\x80"
    drives.close()


def test_usage_is_counted(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=1 << 30)
    drive = next(drives)
    for _ in range(3):
        good(write(drive, bytes(1 << 20)))
    rewind(drive)
    assert number(drive, 0x0003) == 1
    assert number(drive, 0x0220) == 3
    assert number(drive, 0x0222) == 3
    drive.load(drive.unload())
    quiet(drive)
    assert number(drive, 0x0003) == 2
    assert number(drive, 0x0220) == 3
    assert number(drive, 0x0222) == 0
    assert values(drive)[0x020A].value == b"IBM     TB00000001".ljust(40)
    assert values(drive)[0x020B].value == b"IBM     TB00000001".ljust(40)
    history = values(drive)[0x0340].value
    assert len(history) == 90
    fields = [int.from_bytes(history[at : at + 6], "big") for at in range(0, 90, 6)]
    assert fields == [0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0]
    drives.close()


# What sg_read_attr lists of a real LTO-6 cartridge, and SPC-5's usage histories. id: length in bytes.
REAL = {
    0x0000: 8, 0x0001: 8, 0x0002: 8, 0x0003: 8, 0x0004: 8, 0x0005: 8, 0x0006: 1, 0x0007: 2, 0x0008: 32, 0x0009: 4,
    0x020A: 40, 0x020B: 40, 0x020C: 40, 0x020D: 40, 0x0220: 8, 0x0221: 8, 0x0222: 8, 0x0223: 8, 0x0224: 8, 0x0225: 8,
    0x0340: 90, 0x0341: 60, 0x0400: 8, 0x0401: 32, 0x0402: 4, 0x0403: 4, 0x0404: 8, 0x0405: 1, 0x0406: 8, 0x0407: 8,
    0x0408: 1, 0x0409: 2,
}  # fmt: skip


def test_every_attribute_of_a_real_cartridge(drive):
    found = values(drive)
    assert {identifier: len(attribute.value) for identifier, attribute in found.items()} == REAL
    assert re.fullmatch(rb"20[2-9]\d[01]\d[0-3]\d", found[0x0406].value)
    assert found[0x0224].value == found[0x0225].value == b"\xff" * 8


def test_where_the_partition_is_encrypted(drive):
    good(write(drive, b"clear"))
    drive.medium.encoder = Encoder(None, Encryption(EncryptionKey(bytes(32))))
    good(write(drive, b"secret"))
    drive.medium.encoder = None
    assert (number(drive, 0x0224), number(drive, 0x0225)) == (1, 2**64 - 1)
    good(write(drive, b"clear again"))
    assert (number(drive, 0x0224), number(drive, 0x0225)) == (1, 2)


def history(drive, identifier, partition=0):
    value, width = values(drive, partition=partition)[identifier].value, {0x0340: 6, 0x0341: 4}[identifier]
    return [int.from_bytes(value[at : at + width], "big") for at in range(0, len(value), width)]


def test_usage_of_each_partition(tmp_path):
    """Writes and reads count where they happened, switches where they went, erasures from the beginning."""
    drives = loaded_drive(tmp_path, partitions=2, capacity_bytes=1 << 30)
    drive = next(drives)
    for partition, blocks in ((0, 2), (1, 3), (0, 1)):
        good(send(drive, ssc.Locate16.encode(change_partition=1, partition=partition, destination_type=3)))
        for _ in range(blocks):
            good(write(drive, bytes(1 << 20)))
    rewind(drive)
    good(read(drive, 1 << 20))
    assert history(drive, 0x0341, 0) == [3, 0, 1, 0, 0, 0, 0, 0, 3, 0, 1, 0, 1, 1, 0]
    assert history(drive, 0x0341, 1) == [3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 1, 0]
    assert history(drive, 0x0340) == [6, 0, 1, 0, 0, 0, 0, 0, 6, 0, 1, 0, 1, 2, 0]
    drive.load(drive.unload())
    quiet(drive)
    good(send_slow(drive, ssc.Erase6.encode()))
    assert history(drive, 0x0341, 0) == [0, 0, 0, 0, 3, 0, 1, 0, 3, 0, 1, 0, 2, 1, 1]
    good(send_slow(drive, ssc.FormatMedium.encode()))
    assert history(drive, 0x0340) == [0] * 15
    assert (number(drive, 0x0220), number(drive, 0x0003), number(drive, 0x0007)) == (6, 2, 1)  # over life
    drives.close()


def test_amounts_are_those_behind_compression(drive):
    """SPC-5 7.4.2.2.7: transferred to the medium after any data compression has been applied."""
    drive.medium.encoder = Encoder(1)
    for _ in range(3):
        good(write(drive, bytes(1 << 20)))
    assert (number(drive, 0x0220), number(drive, 0x0222)) == (0, 0)


def test_capacity_follows_what_is_written(drive):
    before = number(drive, 0x0000)
    for _ in range(2):
        good(write(drive, bytes(1 << 20)))
    assert before - number(drive, 0x0000) in (2, 3)


def test_host_attributes_persist_over_mounts(drive):
    good(write_attributes(drive, (0x0800, ASCII, b"TAPEBAY "), (0x0806, ASCII, b"TAP001L8".ljust(32))))
    good(write_attributes(drive, (0x080C, BINARY, bytes(range(70)))))
    good(write_attributes(drive, (0x1623, BINARY, b"\0")))
    drive.load(drive.unload())
    quiet(drive)
    assert values(drive, 0x0800)[0x0800].value == b"TAPEBAY "
    assert values(drive, 0x080C)[0x080C].value == bytes(range(70))
    assert 0x1623 in values(drive)


def test_ltfs_counts_the_header_in_the_data_length(drive):
    coherency = (0x080C, BINARY, bytes(70))
    good(write_attributes(drive, coherency, data_length=4 + 5 + 70))
    assert values(drive, 0x080C)[0x080C].value == bytes(70)


def test_attributes_belong_to_a_partition(tmp_path):
    drives = loaded_drive(tmp_path, partitions=2)
    drive = next(drives)
    good(write_attributes(drive, (0x080C, BINARY, b"zero")))
    good(write_attributes(drive, (0x080C, BINARY, b"one"), partition=1))
    assert values(drive, 0x080C)[0x080C].value == b"zero"
    assert values(drive, 0x080C, partition=1)[0x080C].value == b"one"
    response = read_values(drive, partition=2)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[17] == 7
    drives.close()


def test_an_attribute_that_is_not_there(drive):
    response = read_values(drive, 0x080C)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCF, 0, 8])


def test_length_zero_deletes(drive):
    good(write_attributes(drive, (0x0801, ASCII, b"app".ljust(32))))
    good(write_attributes(drive, (0x0801, ASCII, b"")))
    assert 0x0801 not in values(drive)


# Host attributes of one length only (SPC-5 table 7.4.2.4): identifier, format, bytes.
FIXED = [
    (0x0800, ASCII, 8), (0x0801, ASCII, 32), (0x0802, ASCII, 8), (0x0803, TEXT, 160), (0x0804, ASCII, 12),
    (0x0805, BINARY, 1), (0x0806, ASCII, 32), (0x0807, TEXT, 80), (0x0808, TEXT, 160), (0x0809, ASCII, 16),
    (0x080A, BINARY, 1), (0x080B, ASCII, 16), (0x0820, BINARY, 36), (0x0821, BINARY, 36),
]  # fmt: skip


@pytest.mark.parametrize(("identifier", "kind", "length"), FIXED)
def test_each_host_attribute_has_its_length(drive, identifier, kind, length):
    value = bytes(range(0x41, 0x41 + 36))[:length].ljust(length, b" ")
    good(write_attributes(drive, (identifier, kind, value)))
    assert values(drive, identifier)[identifier].value == value


@pytest.mark.parametrize(
    ("attributes", "pointer"),
    [
        ([(0x0000, BINARY, bytes(8))], 4),  # a device's
        ([(0x0401, ASCII, b"serial")], 4),  # a medium's
        ([(0x0700, BINARY, b"x")], 4),  # nobody's
        ([(0x0801, BINARY, bytes(32))], 4 + 2),  # wrong format
        ([(0x0803, ASCII, bytes(160))], 4 + 2),
        ([(0x1400, 3, b"x")], 4 + 2),  # a reserved format, of an attribute that may have any other
        ([(0x0805, 0x80 | BINARY, b"\0")], 4 + 2),  # READ ONLY is not an initiator's to set
        ([(0x0800, ASCII, bytes(9))], 4 + 3),  # too long
        ([(0x1400, BINARY, bytes(1025))], 4 + 3),
        ([(0x080C, BINARY, bytes(1024))], 4 + 3),
        *[([(identifier, kind, bytes(length - 1))], 4 + 3) for identifier, kind, length in FIXED if length > 1],
        *[([(identifier, kind, bytes(length + 1))], 4 + 3) for identifier, kind, length in FIXED],
        ([(0x0800, ASCII, bytes(8)), (0x0805, BINARY, bytes(2))], 4 + 13 + 3),  # the second one
        ([(0x0801, ASCII, bytes(32)), (0x0800, ASCII, bytes(8))], 4 + 37),  # descending
        ([(0x0800, ASCII, bytes(8)), (0x0800, ASCII, bytes(8))], 4 + 13),  # twice
    ],
)
def test_what_cannot_be_written_changes_nothing(drive, attributes, pointer):
    before = values(drive)
    response = write_attributes(drive, *attributes)
    assert sense_of(response) == (5, 0x26, 0)
    assert int.from_bytes(response.sense[16:18], "big") == pointer
    assert values(drive) == before


def test_a_list_cut_off_inside_an_attribute(drive):
    data = (20).to_bytes(4, "big") + bytes([8, 0, 1, 0, 8]) + b"TAP"
    cdb = ssc.WriteAttribute.encode(parameter_list_length=len(data))
    assert sense_of(send(drive, cdb, data=data)) == (5, 0x1A, 0)


def test_the_memory_is_finite(drive):
    response = None
    for identifier in range(0x1400, 0x1430):
        response = write_attributes(drive, (identifier, BINARY, bytes(1000)))
        if response.status:
            break
    assert sense_of(response) == (5, 0x55, 0x06)
    assert number(drive, 0x0004) < 1005


def test_lists(drive):
    good(write_attributes(drive, (0x0803, TEXT, b"label".ljust(160, b"\0"))))
    data = data_of(send(drive, ssc.ReadAttributeList.encode(allocation_length=65535)))
    listed = [int.from_bytes(data[at : at + 2], "big") for at in range(4, len(data), 2)]
    assert listed == list(values(drive))
    data = data_of(send(drive, ssc.ReadSupportedAttributes.encode(allocation_length=65535)))
    supported = [int.from_bytes(data[at : at + 2], "big") for at in range(4, len(data), 2)]
    assert set(listed) < set(supported)
    assert {0x0800, 0x0806, 0x080C} <= set(supported)
    assert data_of(send(drive, ssc.ReadLogicalVolumeList.encode(allocation_length=4))) == bytes([0, 2, 0, 1])
    assert data_of(send(drive, ssc.ReadPartitionList.encode(allocation_length=4))) == bytes([0, 2, 0, 1])
    assert sense_of(send(drive, bytes([0x8C, 4]))) == (5, 0x24, 0)
    assert sense_of(send(drive, ssc.ReadPartitionList.encode(logical_volume_number=1))) == (5, 0x24, 0)


def test_the_memory_of_an_unloaded_cartridge_and_of_none(drive):
    good(send(drive, ssc.LoadUnload.encode()))
    assert number(drive, 0x0003) == 1
    empty = make_drive()
    assert sense_of(read_values(empty)) == (2, 0x3A, 0)
    empty.close()


def test_the_volume_change_reference_changes_with_the_data(drive):
    """LTFS keeps 0009h in its coherency attribute and trusts its index while the number is the same."""
    seen = [number(drive, 0x0009)]
    assert number(drive, 0x0009) == seen[0]
    for change in (lambda: write(drive, b"x"), lambda: write(drive, b"y"), lambda: filemarks(drive)):
        good(change())
        seen.append(number(drive, 0x0009))
    rewind(drive)
    assert number(drive, 0x0009) == seen[-1]
    drive.load(drive.unload())
    quiet(drive)
    assert number(drive, 0x0009) == seen[-1]
    assert len(set(seen)) == 4
