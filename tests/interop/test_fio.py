"""fio writes the disk at random, eight commands deep, and reads every block back by its CRC32C, while the appliance is
killed and started again under it."""

import threading
from pathlib import Path

import pytest

from tests.interop import guest
from tests.interop.guest import Step
from tests.interop.session import LOGIN, LOGOUT
from tests.interop.test_disk_power_cut import LOST_CONNECTION
from tests.support import packages
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance, Disk
from tests.support.host_calls import HostCalls
from tests.support.waiting import eventually

pytestmark = pytest.mark.guest

MEBIBYTES = 48
KILL_AFTER_BYTES = 8 << 20
FIO = (
    f"fio --name=verified --filename=$DISK --size={MEBIBYTES}M --rw=randwrite --bsrange=4k-64k --direct=1 "
    "--ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=20261123 --minimal"
)


def allocated_bytes(image: Path) -> int:
    return image.stat().st_blocks * 512


def test_fio_finds_every_block_as_it_wrote_it(tmp_path: Path) -> None:
    packages.require(*guest.PACKAGES, "fio")
    killed = threading.Event()
    with Appliance(tmp_path, disks=[Disk("disk", f"{MEBIBYTES} MiB")], advertise=GUEST_SEES_HOST_AS) as appliance:

        def kill() -> None:
            eventually(lambda: allocated_bytes(appliance.image("disk")) >= KILL_AFTER_BYTES)
            appliance.kill()
            appliance.start()
            killed.set()

        with HostCalls({"kill": kill}) as calls:
            steps = [calls.step(), Step("fio", f"{FIO} & fio=$!; host kill && wait $fio")]
            done = guest.run(
                [*LOGIN, *steps, *LOGOUT],
                portal=f"{GUEST_SEES_HOST_AS}:{appliance.port}",
                target=appliance.target_name,
            )
    assert killed.is_set()
    assert ";verified;" in done["fio"]
    done.require_quiet_kernel(allowed=LOST_CONNECTION)
    assert any("detected conn error" in line for line in done.kernel_log), "the kill came after fio's end"
