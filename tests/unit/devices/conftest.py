"""Fixtures shared by the device tests."""

import pytest

from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.tape.support import loaded_drive


@pytest.fixture
def disk(tmp_path):
    device = make_disk(tmp_path)
    yield device
    device.close()


@pytest.fixture
def drive(tmp_path):
    """An LTO-8 drive with a small writable cartridge in it, every unit attention taken."""
    yield from loaded_drive(tmp_path)
