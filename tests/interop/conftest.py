"""A live appliance that a guest can reach, for each test its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.guest import PACKAGES
from tests.support import packages
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance, Disk

DISK_MEBIBYTES = 128


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    """Two drives, a changer with four cartridges in its first slots, a disk.

    Discovery answers what a guest can reach.
    """
    packages.require(*PACKAGES)
    disks = [Disk("disk", f"{DISK_MEBIBYTES} MiB")]
    with Appliance(tmp_path, disks=disks, advertise=GUEST_SEES_HOST_AS) as running:
        yield running
    assert not running.problems(), running.log_text()
