"""Compression: mode pages 0Fh and 10h decide, the log pages tell the truth (SSC-3 8.3.2, 8.3.3, 8.2)."""

import random

import pytest

from scsi_targets.devices.unit.state_store import MemoryStore
from scsi_targets.t10 import spc
from tests.unit.devices.support import sense_of
from tests.unit.devices.tape.support import (
    good,
    make_cartridge,
    make_drive,
    moved,
    quiet,
    read,
    rewind,
    send,
    set_block_length,
    write,
    write_fixed,
)
from tests.unit.devices.tape.test_logs import numbers, parameters
from tests.unit.devices.tape.test_mode import mode_select_10, page_of

TEXT = b"a line of text that is like the line before it\n" * 2000
NOISE = random.Random(3).randbytes(100_000)
MIXED = TEXT + NOISE[:50_000]


def select_page(drive, number, at, value, *, save=False, **more):
    page = bytearray(page_of(drive, number))
    page[0] &= 0x3F
    page[at] = value
    for where, byte in more.items():
        page[int(where[1:])] = byte
    data = bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + page
    cdb = spc.ModeSelect10.encode(page_format=1, save_pages=save, parameter_list_length=len(data))
    return send(drive, cdb, data=data)


def compress(drive, on=True):
    return select_page(drive, 0x0F, 2, 0x40 | 0x80 * on)


def stored(drive):
    return drive.medium.usage.stored_bytes_written


def test_off_until_somebody_turns_it_on(drive):
    good(write(drive, TEXT))
    assert stored(drive) == len(TEXT)
    good(compress(drive))
    good(write(drive, TEXT))
    assert stored(drive) < len(TEXT) * 1.1
    good(compress(drive, on=False))
    good(write(drive, TEXT))
    assert stored(drive) > len(TEXT) * 2
    rewind(drive)
    for _ in range(3):  # decompressing does not depend on the switch
        assert moved(read(drive, len(TEXT))) == TEXT


def test_incompressible_blocks_are_stored_as_they_are(drive):
    good(compress(drive))
    good(write(drive, NOISE))
    assert stored(drive) == len(NOISE)
    rewind(drive)
    assert moved(read(drive, len(NOISE))) == NOISE


def test_fixed_blocks(drive):
    good(compress(drive))
    good(set_block_length(drive, 1000))
    data = TEXT[:5000] + NOISE[:5000]
    good(write_fixed(drive, data, 1000))
    assert stored(drive) < 7000
    rewind(drive)
    assert moved(send(drive, bytes([0x08, 1, 0, 0, 10, 0]))) == data


def test_the_two_handles_are_one_switch(drive):
    assert page_of(drive, 0x10)[14] == 0
    good(compress(drive))
    assert page_of(drive, 0x10)[14] == 1
    good(select_page(drive, 0x10, 14, 0))
    assert page_of(drive, 0x0F)[2] == 0x40
    good(write(drive, TEXT))
    assert stored(drive) == len(TEXT)
    good(select_page(drive, 0x10, 14, 1))
    assert page_of(drive, 0x0F)[2] == 0xC0
    good(select_page(drive, 0x10, 10, 0x18))  # another field: nothing follows
    assert page_of(drive, 0x0F)[2] == 0xC0


def test_no_algorithm_is_no_compression(drive):
    good(select_page(drive, 0x0F, 2, 0xC0, b7=0))
    good(write(drive, TEXT))
    assert stored(drive) == len(TEXT)


@pytest.mark.parametrize(("page", "at", "value"), [(0x0F, 7, 2), (0x0F, 3, 0x00), (0x10, 14, 2), (0x10, 14, 0x80)])
def test_what_is_not_there_is_refused(drive, page, at, value):
    assert sense_of(select_page(drive, page, at, value)) == (5, 0x26, 0)
    assert page_of(drive, 0x0F)[2:4] == bytes([0x40, 0x80])


def test_the_configured_default(tmp_path):
    drive, cartridge = make_drive(compression=True, compression_level=5), make_cartridge(tmp_path)
    assert page_of(drive, 0x0F, control=2)[2] == 0xC0
    drive.load(cartridge)
    quiet(drive)
    good(write(drive, TEXT))
    assert stored(drive) < len(TEXT) / 10
    good(compress(drive, on=False))
    drive.reset()
    quiet(drive)
    assert page_of(drive, 0x0F)[2] == 0xC0
    assert page_of(drive, 0x10)[14] == 1
    drive.close()
    cartridge.close()


def test_a_saved_choice_outlives_a_restart():
    store = MemoryStore()
    first = make_drive(store=store, state_key="d")
    good(select_page(first, 0x0F, 2, 0xC0, save=True))
    first.close()
    second = make_drive(store=store, state_key="d")
    assert page_of(second, 0x0F)[2] == 0xC0
    assert page_of(second, 0x10)[14] == 1
    second.close()


def test_the_choice_stays_with_the_drive(drive, tmp_path):
    good(compress(drive))
    first = drive.unload()
    assert first.encoder is None
    drive.load(make_cartridge(tmp_path, "TAP002L8"))
    quiet(drive)
    good(write(drive, TEXT))
    assert stored(drive) < len(TEXT) / 10
    drive.unload().close()
    drive.load(first)
    quiet(drive)


def test_log_pages_tell_the_ratio_and_the_bytes(drive):
    good(compress(drive))
    for _ in range(20):
        good(write(drive, MIXED))
    written, kept = 20 * len(MIXED), stored(drive)
    rewind(drive)
    for _ in range(20):
        good(read(drive, len(MIXED)))
    ratio = written * 100 // kept
    assert 120 < ratio < 1000
    for code in (0x1B, 0x32):
        page = numbers(drive, code)
        assert (page[0], page[1]) == (ratio, ratio)
        amounts = [page[n] * 10**6 + page[n + 1] for n in (2, 4, 6, 8)]
        assert amounts == [written, kept, written, kept]
    assert parameters(drive, 0x1B)[0x0100] == bytes([0, 1])
    assert 0x0100 not in parameters(drive, 0x32)
    page = numbers(drive, 0x0C)
    assert (page[0], page[1], page[2], page[3]) == (written, kept, kept, written)
    page = numbers(drive, 0x17)
    assert (page[0x12], page[0x13]) == (ratio, ratio)
    assert parameters(drive, 0x11)[0][0] & 0x10  # CMPR


def test_early_warning_counts_what_is_stored(drive):
    """A compressed cartridge takes more than its capacity."""
    good(compress(drive))
    for _ in range(drive.medium.capacity_bytes // len(TEXT) * 3):
        good(write(drive, TEXT))


def test_select_without_a_cartridge():
    drive = make_drive()
    good(
        mode_select_10(
            drive, bytes([0, 0, 0, 0x10, 0, 0, 0, 0, 0x0F, 14, 0xC0, 0x80]) + bytes([0, 0, 0, 1] * 2) + bytes(4)
        )
    )
    assert page_of(drive, 0x0F)[2] == 0xC0
    drive.close()
