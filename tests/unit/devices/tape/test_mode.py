"""Mode parameters of the tape drive: header, block descriptor, pages (SSC-3 8.3), as Linux st and LTFS use them."""

import pytest

from scsi_targets.t10 import spc, ssc
from tests.unit.devices.support import BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    good,
    loaded_drive,
    make_drive,
    moved,
    position,
    quiet,
    read,
    rewind,
    send_slow,
    set_block_length,
    space,
    stream_sense,
    write,
)


def mode_sense_6(drive, page=0, *, subpage=0, dbd=0, control=0, length=255):
    return send(
        drive,
        spc.ModeSense6.encode(
            page_code=page, subpage_code=subpage, disable_block_descriptors=dbd, page_control=control,
            allocation_length=length,
        ),
    )  # fmt: skip


def mode_sense_10(drive, page, *, subpage=0, length=255, control=0):
    cdb = spc.ModeSense10.encode(page_code=page, subpage_code=subpage, page_control=control, allocation_length=length)
    return data_of(send(drive, cdb))


def mode_select_10(drive, data, **kwargs):
    cdb = spc.ModeSelect10.encode(page_format=1, parameter_list_length=len(data))
    return send(drive, cdb, data=bytes(data), **kwargs)


def page_of(drive, page, subpage=0, control=0):
    return mode_sense_10(drive, page, subpage=subpage, control=control)[16:]


# ---- header and block descriptor -----------------------------------------------------------------------------------


def test_what_st_reads_when_it_opens_the_device(drive):
    """MODE SENSE(6), page 0, 12 bytes: density in byte 4, block length in bytes 9 to 11, WP in byte 2."""
    data = data_of(mode_sense_6(drive, length=12))
    assert data == bytes([11, 0x88, 0x10, 8, 0x5E, 0, 0, 0, 0, 0, 0, 0])
    good(set_block_length(drive, 1024))
    assert data_of(mode_sense_6(drive, length=12))[8:] == bytes([0, 0, 4, 0])
    drive.medium.write_protected = True
    assert data_of(mode_sense_6(drive, length=12))[2] == 0x90


@pytest.mark.parametrize(
    ("model", "medium", "medium_type", "density"),
    [
        ("IBM ULT3580-TD5", "LTO-5", 0x58, 0x58), ("IBM ULT3580-TD6", "LTO-6", 0x68, 0x5A),
        ("IBM ULT3580-TD7", "LTO-7", 0x78, 0x5C), ("IBM ULT3580-TD8", "LTO-8", 0x88, 0x5E),
        ("IBM ULT3580-TD9", "LTO-9", 0x98, 0x60), ("IBM ULT3580-TD8", "LTO-8 WORM", 0x8C, 0x5E),
        ("IBM ULT3580-TD8", "LTO-7 M8", 0x78, 0x5D), ("QUANTUM ULTRIUM-HH8", "LTO-7", 0x78, 0x5C),
        ("HP Ultrium 6-SCSI", "LTO-6", 0x00, 0x5A), ("HP Ultrium 6-SCSI", "LTO-6 WORM", 0x01, 0x5A),
    ],
)  # fmt: skip
def test_medium_type_and_density(tmp_path, model, medium, medium_type, density):
    """LTFS wants both to match in MODE SENSE(10) of page 3Fh; WORM must be told by the medium type."""
    drives = loaded_drive(tmp_path, model, medium=medium)
    data = mode_sense_10(next(drives), 0x3F)
    assert (data[2], data[8]) == (medium_type, density)
    drives.close()


def test_without_a_cartridge():
    drive = make_drive()
    data = mode_sense_10(drive, 0x3F)
    assert (data[2], data[3], data[8]) == (0, 0x10, 0)
    drive.close()


def test_a_medium_that_is_only_read_shows_as_write_protected(tmp_path):
    drives = loaded_drive(tmp_path, "IBM ULT3580-TD7", medium="LTO-5")
    assert data_of(mode_sense_6(next(drives), length=12))[2] == 0x90
    drives.close()


def test_mode_select_of_st(drive):
    good(set_block_length(drive, 512, density=0x5E))
    assert drive.block_length == 512
    good(set_block_length(drive, 0, density=0x7F))
    assert drive.block_length == 0
    assert sense_of(send(drive, bytes(6), nexus=BETA)) == (6, 0x2A, 0x01)


def test_another_density_is_refused_while_a_medium_is_loaded(drive):
    response = set_block_length(drive, 512, density=0x5C)
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[15:18] == bytes([0x80, 0, 4])
    assert drive.block_length == 0


@pytest.mark.parametrize(("at", "value", "pointer"), [(2, 0x20, 2), (2, 0x11, 2), (7, 1, 5)])
def test_refused_parameters_change_nothing(drive, at, value, pointer):
    data = bytearray([0, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 2, 0])
    data[at] = value
    response = send(drive, bytes([0x15, 0x10, 0, 0, 12, 0]), data=bytes(data))
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[16:18] == pointer.to_bytes(2, "big")
    assert (drive.block_length, drive.buffered_mode) == (0, 1)


def test_changeable_and_default_values(drive):
    good(set_block_length(drive, 512))
    assert data_of(mode_sense_6(drive, length=12, control=1))[4:] == bytes([0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF])
    assert data_of(mode_sense_6(drive, length=12, control=2))[9:] == bytes(3)


def test_a_reset_brings_variable_blocks_and_buffering_back(drive):
    good(set_block_length(drive, 512, buffered=0))
    drive.reset()
    quiet(drive)
    assert data_of(mode_sense_6(drive, length=12)) == bytes([11, 0x88, 0x10, 8, 0x5E, 0, 0, 0, 0, 0, 0, 0])


# ---- pages ---------------------------------------------------------------------------------------------------------


def test_every_page_is_listed_with_its_length(drive):
    data = mode_sense_10(drive, 0x3F, subpage=0xFF, length=4096)
    at, found = 16, []
    while at < len(data):
        page, long = data[at] & 0x3F, bool(data[at] & 0x40)
        found.append((page, data[at + 1] if long else 0))
        at += 4 + int.from_bytes(data[at + 2 : at + 4], "big") if long else 2 + data[at + 1]
    assert at == len(data)
    assert found == [
        (0x01, 0), (0x02, 0), (0x0A, 0), (0x0A, 0x01), (0x0A, 0xF0), (0x0F, 0), (0x10, 0), (0x10, 0x01), (0x11, 0),
        (0x18, 0), (0x19, 0), (0x1C, 0), (0x1D, 0), (0x24, 0), (0x25, 0),
    ]  # fmt: skip


def test_the_lengths_that_ltfs_expects(drive):
    sizes = {(0x10, 0x01): 48, (0x0A, 0xF0): 48, (0x0F, 0): 32, (0x11, 0): 32}
    for (page, subpage), size in sizes.items():
        assert len(mode_sense_10(drive, page, subpage=subpage)) == size


def test_compression_as_st_switches_it(drive):
    """MTCOMPRESSION: DCC must be set; off clears DCE and the algorithm, on sets both again."""
    page = page_of(drive, 0x0F)
    assert page[2] == 0x40
    assert page[3] & 0x80
    for dce, algorithm in ((1, page[7]), (0, 0), (1, page[7])):
        data = bytearray(8) + bytearray(8) + bytearray(page)
        data[3], data[7] = 0x10, 8
        data[16] = 0x0F
        data[18] = 0x40 | dce << 7
        data[23] = algorithm
        good(mode_select_10(drive, data))
        assert page_of(drive, 0x0F)[2] == 0x40 | dce << 7


def test_what_ltfs_sends_to_turn_protection_off(drive):
    data = bytearray(mode_sense_10(drive, 0x0A, subpage=0xF0, length=48))
    data[0:2] = bytes(2)
    data[16] &= 0x7F
    data[20:23] = bytes(3)
    good(mode_select_10(drive, data))
    data[20] = 2  # CRC32C, but without a length
    assert sense_of(mode_select_10(drive, data)) == (5, 0x26, 0)


def test_a_page_that_is_not_there(drive):
    response = mode_sense_6(drive, 0x23)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCD, 0, 2])
    response = mode_sense_6(drive, 0x10, subpage=2)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCF, 0, 3])


def test_active_partition(tmp_path):
    drives = loaded_drive(tmp_path, partitions=2)
    drive = next(drives)
    good(send(drive, bytes([0x2B, 0x02, 0, 0, 0, 0, 0, 0, 1, 0])))
    assert page_of(drive, 0x10)[3] == 1
    drives.close()


def test_worm_is_told_by_page_1d_and_vpd_b0(tmp_path, drive):
    assert page_of(drive, 0x1D)[2] == 0
    drives = loaded_drive(tmp_path, barcode="WRM001LY", medium="LTO-8 WORM")
    assert page_of(next(drives), 0x1D)[2:6] == bytes([1, 0, 0, 3])
    drives.close()
    assert data_of(send(drive, bytes([0x12, 1, 0xB0, 0, 255, 0]))) == bytes([1, 0xB0, 0, 2, 1, 0])


def test_software_write_protection(drive):
    page = bytearray(page_of(drive, 0x10))
    page[10] |= 0x04
    page[0] &= 0x3F
    good(mode_select_10(drive, bytes(8) + page))
    assert sense_of(write(drive, b"x")) == (7, 0x27, 0x02)
    assert data_of(mode_sense_6(drive, length=12))[2] & 0x80
    page[10] &= ~0x04
    good(mode_select_10(drive, bytes(3) + b"\x10" + bytes(4) + page))
    good(write(drive, b"x"))


# ---- append-only mode ----------------------------------------------------------------------------------------------


def append_only(drive, mode=1):
    data = bytearray(mode_sense_10(drive, 0x10, subpage=0x01, length=48))
    data[0:2] = bytes(2)
    data[16] &= 0x7F
    data[21] = mode << 4
    return mode_select_10(drive, data)


def allow_overwrite(drive, partition, block, how=1):
    return send(drive, bytes([0x82, 0, how, partition]) + block.to_bytes(8, "big") + bytes(4))


def test_append_only_mode_writes_at_end_of_data_only(drive):
    for n in range(3):
        good(write(drive, bytes([n])))
    good(append_only(drive))
    good(write(drive, b"appended"))
    rewind(drive)
    assert sense_of(write(drive, b"lost")) == (7, 0x30, 0x0C)
    assert moved(read(drive, 1)) == b"\0"
    good(space(drive, 3))
    good(write(drive, b"again"))
    assert position(drive) == (0, 5)


def test_allow_overwrite_opens_one_position_once(drive):
    for n in range(3):
        good(write(drive, bytes([n])))
    assert sense_of(allow_overwrite(drive, 0, 3)) == (5, 0x2C, 0)  # not in append-only mode
    good(append_only(drive))
    good(send(drive, bytes([0x2B, 0, 0, 0, 0, 0, 1, 0, 0, 0])))
    assert sense_of(allow_overwrite(drive, 0, 2)) == (5, 0x3B, 0)
    good(allow_overwrite(drive, 0, 1))
    good(write(drive, b"new"))
    rewind(drive)
    assert sense_of(write(drive, b"x")) == (7, 0x30, 0x0C)
    assert sense_of(allow_overwrite(drive, 0, 0, how=3)) == (5, 0x24, 0)


DESTRUCTIVE = {
    "erase": ssc.Erase6.encode(),
    "long erase": ssc.Erase6.encode(long=1),
    "format": ssc.FormatMedium.encode(),
    "set capacity": ssc.SetCapacity.encode(capacity_proportion_value=0x8000),
}


@pytest.mark.parametrize("name", DESTRUCTIVE)
def test_append_only_mode_refuses_what_destroys(drive, name):
    good(write(drive, b"kept"))
    good(append_only(drive))
    rewind(drive)
    assert sense_of(send_slow(drive, DESTRUCTIVE[name])) == (7, 0x30, 0x0C)
    assert moved(read(drive, 4)) == b"kept"
    good(send_slow(drive, ssc.Erase6.encode()))  # at the end of data nothing is lost
    rewind(drive)
    good(allow_overwrite(drive, 0, 0, how=1 if "erase" in name else 2))
    good(send_slow(drive, DESTRUCTIVE[name]))
    assert drive.medium.end_of_data(0) == 0
    good(write(drive, b"new"))
    rewind(drive)
    assert sense_of(send_slow(drive, DESTRUCTIVE[name])) == (7, 0x30, 0x0C)  # once


def test_append_only_mode_lets_an_empty_medium_be_formatted(drive):
    good(append_only(drive))
    good(send_slow(drive, ssc.FormatMedium.encode()))


def test_append_only_mode_ends_with_the_mount(drive):
    good(append_only(drive))
    good(write(drive, b"x"))
    drive.load(drive.unload())
    quiet(drive)
    good(write(drive, b"over"))
    assert page_of(drive, 0x10, 0x01)[5] == 0


def test_an_unknown_write_mode_is_refused(drive):
    assert sense_of(append_only(drive, 2)) == (5, 0x26, 0)


# ---- WORM ----------------------------------------------------------------------------------------------------------


def test_worm_media_take_data_once(tmp_path):
    drives = loaded_drive(tmp_path, medium="LTO-8 WORM")
    drive = next(drives)
    good(write(drive, b"for ever"))
    good(send(drive, bytes([0x10, 0, 0, 0, 2, 0])))
    rewind(drive)
    assert sense_of(write(drive, b"never")) == (7, 0x30, 0x0C)
    assert moved(read(drive, 8)) == b"for ever"
    good(space(drive, 1, 1))
    good(write(drive, b"the second filemark may go"))
    assert END_OF_MEDIUM not in stream_sense(read(drive, 1))[:1]
    drives.close()
