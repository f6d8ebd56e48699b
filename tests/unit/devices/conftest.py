"""Fixtures shared by the device tests."""

import pytest

from tests.unit.devices.disk import make_disk


@pytest.fixture
def disk(tmp_path):
    device = make_disk(tmp_path)
    yield device
    device.close()
