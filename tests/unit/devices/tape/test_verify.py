"""VERIFY(6), and damaged blocks wherever they are met (SSC-3 6.7, 6.4)."""

import pytest

from scsi_targets.t10 import ssc
from tests.unit.devices.support import sense_of
from tests.unit.devices.tape.support import (
    FILEMARK,
    INCORRECT_LENGTH,
    filemarks,
    good,
    loaded_drive,
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
    write_fixed,
)
from vlib_images.cartridge.cartridge import Cartridge


def verify(drive, length=0, **fields):
    return send_slow(drive, ssc.Verify6.encode(verification_length=length, **fields))


@pytest.fixture
def recorded(drive):
    for n in range(4):
        good(write(drive, bytes([n]) * 512))
    good(filemarks(drive))
    good(write(drive, b"x" * 100))
    rewind(drive)
    return drive


def test_verify_moves_over_what_it_checks(recorded):
    good(set_block_length(recorded, 512))
    good(verify(recorded, 3, fixed=1))
    assert position(recorded) == (0, 3)
    assert stream_sense(verify(recorded, 3, fixed=1)) == (FILEMARK, 0, 0, 1, 2)
    assert stream_sense(verify(recorded, 1, fixed=1)) == (INCORRECT_LENGTH, 0, 0, 0, 1)
    assert stream_sense(verify(recorded, 1, fixed=1)) == (0, 8, 0, 5, 1)


def test_verify_variable(recorded):
    good(verify(recorded, 512))
    assert stream_sense(verify(recorded, 600)) == (INCORRECT_LENGTH, 0, 0, 0, 88)
    assert position(recorded) == (0, 2)
    good(verify(recorded, 0))
    good(space(recorded, 1, 1))
    good(verify(recorded, 100))
    assert stream_sense(verify(recorded, 100)) == (0, 8, 0, 5, 100)


def test_verify_by_filemarks_and_to_end_of_data(recorded):
    good(verify(recorded, 1, verify_by_filemarks=1))
    assert position(recorded) == (0, 5)
    assert stream_sense(verify(recorded, 2, verify_by_filemarks=1)) == (0, 8, 0, 5, 2)
    rewind(recorded)
    good(verify(recorded, verify_to_end_of_data=1))
    assert position(recorded) == (0, 6)


@pytest.mark.parametrize(
    "fields",
    [
        {"byte_compare": 1}, {"verify_logical_block_protection_method": 1}, {"fixed": 1},
        {"verify_to_end_of_data": 1, "verify_by_filemarks": 1}, {"verify_to_end_of_data": 1, "fixed": 1},
    ],
)  # fmt: skip
def test_what_verify_does_not_do(recorded, fields):
    assert sense_of(verify(recorded, 1, **fields)) == (5, 0x24, 0)
    assert position(recorded) == (0, 0)


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """Six blocks of 40,000 bytes, the third of them with a flipped bit."""
    drives = loaded_drive(tmp_path)
    drive = next(drives)
    for n in range(6):
        good(write(drive, bytes([n + 1]) * 40_000))
    good(filemarks(drive))
    directory = drive.medium.storage.files.path
    drive.unload().close()
    segment = next((directory / "p0").glob("*.seg"))
    raw = bytearray(segment.read_bytes())
    raw[raw.index(b"\3" * 1000) + 500] ^= 0x10
    segment.write_bytes(raw)
    cartridge = Cartridge.open(directory)
    drive.load(cartridge)
    quiet(drive)
    yield drive
    drive.unload().close()
    drive.close()


@pytest.mark.cartridge_directory
def test_a_damaged_block_is_a_medium_error_and_the_next_one_reads(damaged):
    for n in range(2):
        assert moved(good(read(damaged, 40_000))) == bytes([n + 1]) * 40_000
    response = read(damaged, 65_536)
    assert stream_sense(response) == (0, 3, 0x11, 0x00, 65_536)
    assert moved(response) == b""
    assert position(damaged) == (0, 3)
    assert moved(good(read(damaged, 40_000))) == b"\4" * 40_000


@pytest.mark.cartridge_directory
def test_a_damaged_block_in_a_fixed_read(damaged):
    good(set_block_length(damaged, 40_000))
    response = read(damaged, 5, fixed=1)
    assert stream_sense(response) == (0, 3, 0x11, 0x00, 3)
    assert moved(response) == b"\1" * 40_000 + b"\2" * 40_000
    assert position(damaged) == (0, 3)
    assert moved(good(read(damaged, 3, fixed=1))) == b"".join(bytes([n]) * 40_000 for n in (4, 5, 6))


@pytest.mark.cartridge_directory
def test_verify_finds_the_damage(damaged):
    response = verify(damaged, verify_to_end_of_data=1)
    assert stream_sense(response)[1:4] == (3, 0x11, 0x00)
    assert position(damaged) == (0, 3)
    good(verify(damaged, verify_to_end_of_data=1))


@pytest.mark.cartridge_directory
def test_hard_errors_are_counted(damaged):
    verify(damaged, verify_to_end_of_data=1)
    assert damaged.usage.life.hard_read_errors == 1
    assert damaged.usage.mount_read_errors == 1
    assert damaged.alerts.bits() >> (64 - 5) & 1


@pytest.mark.cartridge_directory
def test_spacing_over_damage_works(damaged):
    good(space(damaged, 1, 1))
    assert position(damaged) == (0, 7)
    good(space(damaged, 0, 0))
    good(set_block_length(damaged, 10))
    good(write_fixed(damaged, b"y" * 20, 10))
