"""Logical block protection of a drive (SSC-5 4.2.27): the page, writing, reading, verifying, and who notices."""

import dataclasses
import random

import pytest

from scsi_targets.devices.tape.models import DRIVE_MODELS, drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.t10 import spc, ssc
from scsi_targets.t10.ssc_pages import CRC32C, REED_SOLOMON_CRC
from tests.unit.devices.copying.support import Site, block_to_stream, content
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.encryption_support import set_encryption
from tests.unit.devices.tape.protection_support import EXTRA, METHODS, flipped, page, protect, sealed, select, unprotect
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    FILEMARK,
    INCORRECT_LENGTH,
    filemarks,
    good,
    loaded_drive,
    make_drive,
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
from tests.unit.devices.tape.test_compression import compress
from tests.unit.devices.tape.test_mode import allow_overwrite, append_only, mode_sense_10, page_of
from tests.unit.devices.tape.test_verify import verify
from vlib_images.cartridge.cartridge import Cartridge

GUARD_CHECK_FAILED = (4, 0x10, 0x01)
BLOCK = random.Random(1).randbytes(1000)


def inquire(drive, code):
    return data_of(send(drive, spc.Inquiry.encode(enable_vital_product_data=1, page_code=code, allocation_length=512)))


def read_all(drive, **kwargs):
    """Every block of a tape, without protection."""
    unprotect(drive)
    rewind(drive)
    found = []
    while (response := read(drive, 1 << 20, suppress_incorrect_length=1, **kwargs)).status == 0:
        found.append(moved(response))
    assert sense_of(response) == (8, 0, 5)
    return found


# ---- the page --------------------------------------------------------------------------------------------------------


def test_what_inquiry_says(drive):
    assert data_of(send(drive, spc.Inquiry.encode(allocation_length=96)))[5] & 1  # PROTECT
    assert inquire(drive, 0x86)[4] >> 3 & 7 == 1  # SPT
    assert inquire(drive, 0xB5) == bytes([1, 0xB5, 0, 12, 0, 0, 0, 0, 3, 1, 4, 0xC0, 3, 2, 4, 0xC0])
    assert inquire(drive, 0x87) == bytes([1, 0x87, 0, 8, 0x0A, 0xF0, 3, 0, 0x3F, 0xFF, 0, 0])


@pytest.mark.parametrize("model", DRIVE_MODELS.values(), ids=lambda model: model.name)
def test_every_model_takes_the_methods_that_it_tells(model):
    drive = make_drive(model.name)
    methods = inquire(drive, 0xB5)[9::4]
    assert methods == bytes([REED_SOLOMON_CRC, CRC32C])
    for method in range(256):
        assert (select(drive, page(method)).status == 0) is (method in b"\0" + methods), method
    drive.close()


def test_a_model_with_one_method(tmp_path):
    model = dataclasses.replace(drive_model("IBM ULT3580-TD5"), block_protection_methods=(REED_SOLOMON_CRC,))
    drive = TapeDrive(model, "TB00000001")
    assert inquire(drive, 0xB5)[8:] == bytes([3, 1, 4, 0xC0])
    good(select(drive, page(REED_SOLOMON_CRC)))
    assert sense_of(select(drive, page(CRC32C))) == (5, 0x26, 0)
    drive.close()


def test_the_page_shows_what_was_set(drive):
    before = page_of(drive, 0x0A, 0xF0)
    assert before == bytes([0x4A, 0xF0, 0, 28]) + bytes(28)
    assert page_of(drive, 0x0A, 0xF0, control=1)[4:7] == bytes([0xFF, 0x3F, 0xC0])
    protect(drive, CRC32C, reads=0)
    assert page_of(drive, 0x0A, 0xF0)[:8] == bytes([0x4A, 0xF0, 0, 28, 2, 4, 0x80, 0])
    for control in (2, 3):
        assert page_of(drive, 0x0A, 0xF0, control=control) == before
    assert mode_sense_10(drive, 0x3F, subpage=0xFF, length=4096).count(bytes([0x4A, 0xF0, 0, 28, 2, 4, 0x80])) == 1


@pytest.mark.parametrize(
    ("raw", "byte"),
    [
        (page(3), 4),
        (page(0xF0), 4),
        (page(CRC32C, length=0), 5),
        (page(CRC32C, length=8), 5),
        (page(REED_SOLOMON_CRC, rest=0x20), 6),  # RBDP
        (page(CRC32C)[:-1] + b"\1", 31),
    ],
)
def test_what_mode_select_refuses_and_where(drive, raw, byte):
    response = select(drive, raw)
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[15] & 0xC0 == 0x80
    assert int.from_bytes(response.sense[16:18], "big") == 8 + byte
    assert page_of(drive, 0x0A, 0xF0)[4:] == bytes(28)
    good(write(drive, b"unprotected"))


def test_method_zero_turns_it_off_whatever_the_rest_says(drive):
    protect(drive, CRC32C)
    protect(drive, 0, writes=1, reads=1, length=4)
    assert page_of(drive, 0x0A, 0xF0)[4:] == bytes(28)
    good(write(drive, BLOCK))
    assert read_all(drive) == [BLOCK]


def test_each_nexus_has_its_own(drive):
    """SSC-5 8.4.9: the mode page policy is per I_T nexus, so that no other host is surprised."""
    protect(drive, CRC32C)
    assert drive.take_unit_attention(BETA) is None
    assert page_of(drive, 0x0A, 0xF0)[4] == 2
    sensed = send(drive, spc.ModeSense10.encode(page_code=0x0A, subpage_code=0xF0, allocation_length=255), nexus=BETA)
    assert data_of(sensed)[20:23] == bytes(3)
    good(write(drive, sealed(BLOCK, CRC32C)))
    good(write(drive, BLOCK, nexus=BETA))
    protect(drive, REED_SOLOMON_CRC, nexus=BETA)
    good(write(drive, sealed(BLOCK, REED_SOLOMON_CRC), nexus=BETA))
    assert read_all(drive) == [BLOCK] * 3


def test_other_pages_in_the_same_list_still_tell_the_others(drive):
    compression = bytearray(page_of(drive, 0x0F))
    compression[0] &= 0x3F
    compression[2] |= 0x80
    good(select(drive, page(CRC32C) + compression))
    assert drive.take_unit_attention(BETA) == (6, 0x2A, 0x01)
    assert drive.take_unit_attention(ALPHA) is None


def test_it_survives_unloading_but_neither_a_reset_nor_the_nexus(drive):
    protect(drive, CRC32C)
    drive.load(drive.unload())
    quiet(drive)
    good(write(drive, sealed(BLOCK, CRC32C)))
    drive.reset()
    quiet(drive)
    assert page_of(drive, 0x0A, 0xF0)[4] == 0
    good(write(drive, BLOCK))
    protect(drive, CRC32C)
    drive.nexus_lost(ALPHA)
    drive.nexus_established(ALPHA)
    quiet(drive)
    assert page_of(drive, 0x0A, 0xF0)[4] == 0
    good(write(drive, BLOCK))
    assert read_all(drive) == [BLOCK] * 3


def test_it_is_not_saved(drive):
    data = bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + page(CRC32C)
    cdb = spc.ModeSelect10.encode(page_format=1, save_pages=1, parameter_list_length=len(data))
    good(send(drive, cdb, data=data))
    drive.store.put("/mode", {"0a/f0": page(0).hex()})  # as versions kept it that had no method
    again = make_drive(store=drive.store, state_key=drive.state_key)
    assert page_of(again, 0x0A, 0xF0)[4:] == bytes(28)
    again.close()


def test_block_limits_leave_room_for_it(drive):
    """TRANSFER LENGTH counts it, and has 24 bits."""
    limits = ssc.ReadBlockLimits.encode()
    protect(drive, CRC32C, writes=0)
    assert data_of(send(drive, limits)) == bytes([0, 0xFF, 0xFF, 0xFB, 0, 1])
    assert data_of(send(drive, limits, nexus=BETA)) == bytes([0, 0xFF, 0xFF, 0xFF, 0, 1])


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 4, 5, 511, 100_000])
def test_a_variable_block(drive, method, length):
    data = random.Random(length).randbytes(length)
    protect(drive, method, reads=0)
    response = good(write(drive, sealed(data, method)))
    assert response.data_length == length + EXTRA
    assert drive.medium.usage.bytes_written == length
    assert read_all(drive) == [data]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bit", [0, 4000, 8000, 8031])
def test_a_damaged_variable_block(drive, method, bit):
    good(write(drive, b"before"))
    protect(drive, method)
    damaged = flipped(sealed(BLOCK, method), bit)
    response = write(drive, damaged)
    assert stream_sense(response) == (0, *GUARD_CHECK_FAILED, len(damaged))
    assert position(drive) == (0, 1)
    assert drive.medium.at_eod
    assert drive.alerts.bits() == 0
    good(write(drive, sealed(BLOCK, method)))
    assert read_all(drive) == [b"before", BLOCK]


def test_a_block_without_protection_information_is_refused(drive):
    """As SSC-5 warns: the last four bytes are taken for it."""
    protect(drive, CRC32C)
    assert sense_of(write(drive, BLOCK)) == GUARD_CHECK_FAILED
    assert sense_of(write(drive, sealed(BLOCK, REED_SOLOMON_CRC))) == GUARD_CHECK_FAILED
    backwards = sealed(BLOCK, CRC32C)
    assert sense_of(write(drive, backwards[:-4] + backwards[:-5:-1])) == GUARD_CHECK_FAILED


@pytest.mark.parametrize("length", [1, 3, 4])
def test_nothing_is_left_of_a_block(drive, length):
    protect(drive, CRC32C)
    response = write(drive, bytes(length))
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCF, 0, 2])
    good(set_block_length(drive, length))
    response = write_fixed(drive, bytes(length), length)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xC8, 0, 1])
    assert sense_of(read(drive, 1, fixed=1)) == (5, 0x24, 0)


@pytest.mark.parametrize("method", METHODS)
def test_fixed_blocks(drive, method):
    """The block length of the mode parameter block descriptor counts the protection information."""
    blocks = [random.Random(n).randbytes(512) for n in range(6)]
    protect(drive, method)
    good(set_block_length(drive, 516))
    good(write_fixed(drive, b"".join(sealed(data, method) for data in blocks), 516))
    assert position(drive) == (0, 6)
    rewind(drive)
    assert moved(good(read(drive, 6, fixed=1))) == b"".join(sealed(data, method) for data in blocks)
    good(set_block_length(drive, 0))
    assert read_all(drive) == blocks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [0, 2, 5])
def test_a_damaged_block_among_fixed_ones(drive, method, bad):
    blocks = [random.Random(n).randbytes(512) for n in range(6)]
    protect(drive, method)
    good(set_block_length(drive, 516))
    data = b"".join(sealed(data, method) for data in blocks)
    response = write_fixed(drive, flipped(data, (516 * bad + 100) * 8), 516)
    assert stream_sense(response) == (0, *GUARD_CHECK_FAILED, 6 - bad)
    assert position(drive) == (0, bad)
    good(write_fixed(drive, data[516 * bad :], 516))
    good(set_block_length(drive, 0))
    assert read_all(drive) == blocks


def test_a_damaged_block_over_old_data_destroys_nothing(drive):
    for n in range(4):
        good(write(drive, bytes([n]) * 100))
    protect(drive, CRC32C)
    good(send(drive, bytes([0x2B, 0, 0, 0, 0, 0, 1, 0, 0, 0])))
    assert sense_of(write(drive, bytes(104))) == GUARD_CHECK_FAILED
    assert position(drive) == (0, 1)
    assert read_all(drive) == [bytes([n]) * 100 for n in range(4)]


def test_a_damaged_block_does_not_use_up_allow_overwrite(drive):
    for n in range(3):
        good(write(drive, bytes([n]) * 100))
    good(append_only(drive))
    protect(drive, CRC32C)
    good(send(drive, bytes([0x2B, 0, 0, 0, 0, 0, 1, 0, 0, 0])))
    whole = sealed(BLOCK, CRC32C)
    assert sense_of(write(drive, whole)) == (7, 0x30, 0x0C)
    good(allow_overwrite(drive, 0, 1))
    assert sense_of(write(drive, flipped(whole, 5))) == GUARD_CHECK_FAILED
    good(write(drive, whole))
    rewind(drive)
    assert sense_of(write(drive, whole)) == (7, 0x30, 0x0C)
    assert read_all(drive) == [bytes(100), BLOCK]


def test_less_data_than_the_cdb_says(drive):
    protect(drive, CRC32C)
    response = send(drive, ssc.Write6.encode(transfer_length=1004), data=sealed(BLOCK, CRC32C)[:-1])
    assert sense_of(response) == (5, 0x24, 0)


def test_no_data_is_no_block(drive):
    protect(drive, CRC32C)
    good(send(drive, ssc.Write6.encode(), data=None))
    assert position(drive) == (0, 0)


def test_early_warning_and_the_end(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=100_000, early_warning_bytes=40_000)
    drive = next(drives)
    data = sealed(bytes(20_000), CRC32C)
    protect(drive, CRC32C)
    for _ in range(2):
        good(write(drive, data))
    assert stream_sense(write(drive, data)) == (END_OF_MEDIUM, 0, 0, 2, 0)
    assert stream_sense(write(drive, data)) == (END_OF_MEDIUM, 0, 0, 2, 0)
    assert stream_sense(write(drive, data)) == (END_OF_MEDIUM, 0xD, 0, 2, 20_004)
    drives.close()


def test_write_protection_comes_first(drive):
    protect(drive, CRC32C)
    drive.medium.write_protected = True
    assert sense_of(write(drive, bytes(100))) == (7, 0x27, 0)


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("asked", [1, 990, 1000, 1001, 1003, 1004, 1005, 2000])
@pytest.mark.parametrize("suppress", [0, 1])
def test_lengths_count_it(drive, method, asked, suppress):
    good(write(drive, BLOCK))
    rewind(drive)
    protect(drive, method, writes=0)
    response = read(drive, asked, suppress_incorrect_length=suppress)
    assert moved(response) == sealed(BLOCK, method)[:asked]
    if suppress or asked == 1004:
        good(response)
    else:
        assert stream_sense(response) == (INCORRECT_LENGTH, 0, 0, 0, asked - 1004)
    assert position(drive) == (0, 1)


def test_an_overlong_block_is_told_where_a_block_length_is_set(drive):
    good(write(drive, BLOCK))
    rewind(drive)
    protect(drive, CRC32C)
    good(set_block_length(drive, 1000))
    response = read(drive, 1000, suppress_incorrect_length=1)
    assert stream_sense(response) == (INCORRECT_LENGTH, 0, 0, 0, -4)


def test_filemarks_and_the_end_of_data(drive):
    good(filemarks(drive))
    rewind(drive)
    protect(drive, CRC32C)
    assert stream_sense(read(drive, 1004)) == (FILEMARK, 0, 0, 1, 1004)
    assert stream_sense(read(drive, 1004)) == (0, 8, 0, 5, 1004)
    good(set_block_length(drive, 1004))
    rewind(drive)
    assert stream_sense(read(drive, 3, fixed=1)) == (FILEMARK, 0, 0, 1, 3)
    assert stream_sense(read(drive, 3, fixed=1)) == (0, 8, 0, 5, 3)


def test_a_fixed_read_that_stops(drive):
    for length in (1000, 1000, 999, 1000):
        good(write(drive, BLOCK[:length]))
    rewind(drive)
    protect(drive, REED_SOLOMON_CRC)
    good(set_block_length(drive, 1004))
    response = read(drive, 4, fixed=1)
    assert stream_sense(response) == (INCORRECT_LENGTH, 0, 0, 0, 2)
    assert moved(response) == sealed(BLOCK, REED_SOLOMON_CRC) * 2
    assert position(drive) == (0, 3)


@pytest.mark.parametrize("writing", METHODS)
@pytest.mark.parametrize("reading", METHODS)
def test_compressed_and_encrypted_blocks(drive, writing, reading):
    texts = [b"text that compresses well, " * n * 100 for n in (1, 2, 3)] + [BLOCK]
    protect(drive, writing)
    good(compress(drive))
    for text in texts[:2]:
        good(write(drive, sealed(text, writing)))
    good(set_encryption(drive))
    for text in texts[2:]:
        good(write(drive, sealed(text, writing)))
        assert sense_of(write(drive, flipped(sealed(text, writing), 77))) == GUARD_CHECK_FAILED
    good(set_encryption(drive, decryption=3))
    protect(drive, reading)
    rewind(drive)
    for text in texts:
        assert moved(good(read(drive, len(text) + EXTRA))) == sealed(text, reading)
    assert read_all(drive) == texts


@pytest.mark.parametrize("method", METHODS)
def test_raw_blocks_travel_protected_too(drive, method):
    """RAW decryption and EXTERNAL encryption: the protection is that of what travels, the encrypted block."""
    good(set_encryption(drive))
    good(write(drive, BLOCK))
    rewind(drive)
    good(set_encryption(drive, 0, 1, b"", flags=0x40))
    protect(drive, method)
    raw = moved(read(drive, 4096, suppress_incorrect_length=1))
    assert raw == sealed(raw[:-4], method)
    assert BLOCK[:50] not in raw
    good(set_encryption(drive, 1, 1, b"", flags=0x40))
    assert sense_of(write(drive, flipped(raw, 3000))) == GUARD_CHECK_FAILED
    good(write(drive, raw))
    rewind(drive)
    assert moved(good(read(drive, len(raw)))) == raw
    again = moved(read(drive, 4096, suppress_incorrect_length=1))  # says also that it came encrypted
    assert again == sealed(again[:-4], method)
    good(set_encryption(drive))
    rewind(drive)
    for _ in range(2):
        assert moved(good(read(drive, len(BLOCK) + EXTRA))) == sealed(BLOCK, method)


@pytest.mark.cartridge_directory
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("compressing", [False, True])
def test_a_block_that_is_damaged_on_the_medium(drive, method, compressing):
    """It is the medium's error, with or without protection, and no protection information is made for it."""
    good(compress(drive, compressing))
    blocks = [bytes([n + 1]) * 20_000 if compressing else random.Random(n).randbytes(20_000) for n in range(3)]
    protect(drive, method)
    for data in blocks:
        good(write(drive, sealed(data, method)))
    good(filemarks(drive))
    cartridge = drive.unload()
    cartridge.close()
    with Cartridge.open(cartridge.storage.files.path, read_only=True) as readable:
        offset = readable.storage.partitions[0].segments.at(1)[0].describe(1)[5]
    segment = next((cartridge.storage.files.path / "p0").glob("*.seg"))
    raw = bytearray(segment.read_bytes())
    raw[offset + 40] ^= 1
    segment.write_bytes(raw)
    drive.load(Cartridge.open(cartridge.storage.files.path))
    quiet(drive)
    assert moved(good(read(drive, 20_004))) == sealed(blocks[0], method)
    response = read(drive, 20_004)
    assert stream_sense(response) == (0, 3, 0x11, 0x00, 20_004)
    assert moved(response) == b""
    assert moved(good(read(drive, 20_004))) == sealed(blocks[2], method)
    good(set_block_length(drive, 20_004))
    rewind(drive)
    response = read(drive, 3, fixed=1)
    assert stream_sense(response) == (0, 3, 0x11, 0x00, 2)
    assert moved(response) == sealed(blocks[0], method)


def test_reads_and_writes_are_switched_apart(drive):
    protect(drive, CRC32C, reads=0)
    good(write(drive, sealed(BLOCK, CRC32C)))
    rewind(drive)
    assert moved(good(read(drive, 1000))) == BLOCK
    protect(drive, CRC32C, writes=0)
    good(write(drive, BLOCK))
    rewind(drive)
    for _ in range(2):
        assert moved(good(read(drive, 1004))) == sealed(BLOCK, CRC32C)
    protect(drive, CRC32C, writes=0, reads=0)
    good(write(drive, BLOCK))
    rewind(drive)
    assert moved(good(read(drive, 1000))) == BLOCK


def test_a_block_of_the_largest_length_that_can_be_protected(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=50_000_000)
    drive = next(drives)
    length = (1 << 24) - 1
    whole = sealed(random.Random(2).randbytes(length - EXTRA), CRC32C)
    protect(drive, CRC32C)
    good(write(drive, whole))
    rewind(drive)
    response = good(send(drive, ssc.Read6.encode(transfer_length=length), limit=length))
    assert memoryview(response.data_in)[: response.data_length] == whole
    drives.close()


# ---- VERIFY ----------------------------------------------------------------------------------------------------------


def test_verify_counts_it_as_read_does(drive):
    for _ in range(3):
        good(write(drive, BLOCK))
    good(filemarks(drive))
    rewind(drive)
    protect(drive, CRC32C)
    good(verify(drive, 1004))
    assert stream_sense(verify(drive, 1000)) == (INCORRECT_LENGTH, 0, 0, 0, -4)
    rewind(drive)
    good(set_block_length(drive, 1004))
    good(verify(drive, 3, fixed=1))
    rewind(drive)
    good(verify(drive, 1, verify_by_filemarks=1))
    good(space(drive, 3))
    good(verify(drive, verify_to_end_of_data=1))


def test_vlbpm_is_refused(drive):
    protect(drive, CRC32C)
    response = verify(drive, 1, verify_logical_block_protection_method=1)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCC, 0, 1])


# ---- others ----------------------------------------------------------------------------------------------------------


def test_extended_copy_knows_nothing_of_it(tmp_path):
    site = Site(tmp_path)
    protect(site.tape, CRC32C)
    good(set_block_length(site.tape, 0))
    good(site.copy(block_to_stream(4096, 8)))
    assert site.written() == [content(4096)]
    site.close()


def test_what_ltfs_does(drive):
    """sg_tape.c, _set_lbp(), sg_write() and sg_read(): MODE SENSE(10) of 48 bytes, the same bytes back with three
    changed, then blocks with four bytes more; SILI off, and a short block is found by the residual."""
    data = bytearray(mode_sense_10(drive, 0x0A, subpage=0xF0, length=48))
    data[0:2] = bytes(2)
    data[16] &= 0x7F
    data[20:23] = bytes([2, 4, 0xC0])
    good(send(drive, bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, 48, 0]), data=bytes(data)))
    label, records = b"VOL1" + b" " * 76, [random.Random(n).randbytes(n) for n in (524_288, 524_288, 1234)]
    for block in (label, *records):
        good(write(drive, sealed(block, CRC32C)))
    good(filemarks(drive))
    rewind(drive)
    for block in (label, *records):
        response = read(drive, 524_288 + 4)
        length = 524_288 + 4 - (stream_sense(response)[4] if response.status else 0)
        assert moved(response)[:length] == sealed(block, CRC32C)
    data[20:23] = bytes(3)
    good(send(drive, bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, 48, 0]), data=bytes(data)))
    rewind(drive)
    assert moved(good(read(drive, 80))) == label
