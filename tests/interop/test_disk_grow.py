"""A disk that grows under a running guest."""

import hashlib

import pytest

from tests.interop.conftest import DISK_MEBIBYTES
from tests.interop.guest import Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import Appliance
from tests.support.host_calls import HostCalls

pytestmark = pytest.mark.guest

GROWN = (2 * DISK_MEBIBYTES) << 20
READ = "dd if=$DISK of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null"
LAST = GROWN // 4096 - 1
WRITE_LAST = f"head -c 4096 /dev/zero | tr '\\0' '\\245' | dd of=$DISK bs=4k seek={LAST} iflag=fullblock oflag=direct"


def test_a_file_system_grows_with_its_disk(appliance: Appliance) -> None:
    packages.require("e2fsprogs", "sg3-utils")
    with HostCalls({"grow": lambda: appliance.call("disk.grow", name="disk", size=str(GROWN))["size_bytes"]}) as calls:
        done = run_in_guest(
            appliance,
            [
                calls.step(),
                Step("mount", "mkfs.ext4 -q $DISK && mount -t ext4 $DISK /mnt/disk; name=${DISK#/dev/}"),
                Step("before", "blockdev --getsize64 $DISK"),
                Step("grow", "host grow"),
                # Whatever comes next meets the unit attention, once: the kernel says so, sends a uevent and goes on.
                Step("told", f"{READ} && {READ}; dmesg | grep -c 'Capacity data has changed'"),
                Step("rescan", "echo 1 >/sys/class/block/$name/device/rescan; blockdev --getsize64 $DISK"),
                Step("grow the file system", "resize2fs -f $DISK"),
                Step("fill", f"head -c {DISK_MEBIBYTES + 50}M /dev/urandom >/mnt/disk/large && sync /mnt/disk/large"),
                Step("unmount", "sum=$(sha256sum </mnt/disk/large); umount /mnt/disk; e2fsck -fn $DISK"),
                Step("same", 'mount -t ext4 $DISK /mnt/disk; [ "$(sha256sum </mnt/disk/large)" = "$sum" ]'),
                Step("unmount again", "umount /mnt/disk"),
                Step("last block", WRITE_LAST),
                Step("image", "sha256sum <$DISK"),
            ],
            allowed="Capacity data has changed",
        )
    assert int(done["before"]) == DISK_MEBIBYTES << 20
    assert int(done["told"].splitlines()[-1]) == 1
    assert int(done["rescan"]) == GROWN
    content = appliance.image("disk").read_bytes()
    assert (len(content), content[-4096:]) == (GROWN, b"\xa5" * 4096)
    assert done["image"].split()[0] == hashlib.sha256(content).hexdigest()
