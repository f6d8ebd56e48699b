"""A file system on the disk LUN of a Linux guest, down to the bytes of the image on the host."""

import hashlib

import pytest

from tests.interop.conftest import DISK_MEBIBYTES
from tests.interop.guest import Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import Appliance

pytestmark = pytest.mark.guest


def test_ext4_keeps_files(appliance: Appliance) -> None:
    packages.require("e2fsprogs", "sg3-utils")
    done = run_in_guest(
        appliance,
        [
            Step("size", "blockdev --getsize64 $DISK; blockdev --getss $DISK"),
            Step("mkfs", "mkfs.ext4 -q $DISK"),
            Step("mount", "mount -t ext4 $DISK /mnt/disk"),
            Step("files", "mkdir /mnt/disk/bin && cp /usr/bin/{bash,ls,tar,dd} /mnt/disk/bin"),
            Step("many files", "cd /mnt/disk && split -n 200 /usr/bin/bash part. && cd /"),
            Step("random", "dd if=/dev/urandom of=/mnt/disk/random bs=1M count=24 conv=fsync"),
            Step("delete", "rm /mnt/disk/part.a?"),
            Step("sums", "cd /mnt/disk && find . -type f | sort | xargs sha256sum >/tmp/sums; cd /; wc -l </tmp/sums"),
            Step("unmount", "umount /mnt/disk"),
            Step("fsck", "e2fsck -fn $DISK"),
            Step("mount again", "mount -t ext4 $DISK /mnt/disk"),
            Step("same", "cd /mnt/disk && sha256sum --quiet -c /tmp/sums && cmp bin/bash /usr/bin/bash; cd /"),
            Step("unmount again", "umount /mnt/disk"),
            Step("direct", "dd if=$DISK of=/dev/null bs=1M iflag=direct 2>/dev/null && blockdev --flushbufs $DISK"),
            Step("image", "sha256sum <$DISK"),
        ],
    )
    assert done["size"].split() == [str(DISK_MEBIBYTES << 20), "512"]
    assert int(done["sums"]) == 4 + 200 - 26 + 1
    assert done["image"].split()[0] == hashlib.sha256(appliance.image("disk").read_bytes()).hexdigest()
