"""What fsync promised to a guest is on its disk, whatever happened to the appliance or to the power.

The load reports each file to the host once fsync has returned (file_load.py). Then the image is looked at: after the
guest lived through killed appliances, and as it would have been had the power failed at one moment or another.
"""

import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import guest
from tests.interop.file_ledger import Ledger, check_file_system, differences
from tests.interop.guest import HOST_ADDRESS, Step
from tests.interop.session import LOGIN, LOGOUT
from tests.support import packages, storage_log
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance, Disk
from tests.support.host_calls import HostCalls
from tests.support.storage_log import StorageLog

pytestmark = pytest.mark.guest

SEED = 20261123
MEBIBYTES = 64
WORKERS = 3
KILLS = 2
REPORTS_AFTER = 200
CUTS = 16
REPORTS = 900
# A killed target is a lost connection and nothing more: no I/O error gets through to the file system.
LOST_CONNECTION = (
    r"connection\d+:0: (detected conn error|ping timeout)|session recovery|Synchronizing|timing out command"
)


def load_steps(calls: HostCalls) -> list[Step]:
    """mkfs, the load in several processes beside data that nobody synchronises, unmount."""
    # The interpreter behind a virtual environment's link: the environment may lie in /tmp, which is the guest's own.
    program = f"{Path(sys.executable).resolve()} -I /mnt/share/file_load.py"
    workers = "; ".join(
        f"{program} /mnt/disk/worker{n} {HOST_ADDRESS}:{calls.port} {SEED + n} & workers+=($!)" for n in range(WORKERS)
    )
    return [
        calls.step(),
        Step("mkfs", "mkfs.ext4 -q -b 4096 $DISK"),
        Step("mount", "mount -t ext4 -o discard,errors=remount-ro $DISK /mnt/disk"),
        Step("mounted", "sync -f /mnt/disk; host mounted"),
        Step(
            "background",
            "until [ -e /tmp/enough ]; do for n in 1 2 3; do head -c 3M /dev/urandom >/mnt/disk/noise$n; done; "
            "rm -f /mnt/disk/noise*; done & background=$!",
        ),
        Step("load", f"workers=(); {workers}; for worker in ${{workers[@]}}; do wait $worker || exit 1; done"),
        Step("end of background", "touch /tmp/enough; wait $background"),
        Step("unmount", "umount /mnt/disk"),
        Step("fsck", "e2fsck -fn $DISK"),
    ]


def run_load(appliance: Appliance, calls: HostCalls) -> guest.GuestRun:
    return guest.run(
        [*LOGIN, *load_steps(calls), *LOGOUT],
        portal=f"{GUEST_SEES_HOST_AS}:{appliance.port}",
        target=appliance.target_name,
        files=[Path(__file__).with_name("file_load.py")],
    )


def assert_image_keeps(image: Path, ledger: Ledger, folder: Path, moment: int, said: str) -> None:
    assert (damage := check_file_system(image)) is None, f"{said}: {damage}"
    folder.mkdir()
    assert differences(image, ledger.durable(moment), folder) == [], said


@pytest.fixture(autouse=True)
def needs() -> None:
    packages.require(*guest.PACKAGES, "e2fsprogs")


class Axe:
    """Kills the appliance after given numbers of reports and starts it again, on a thread of its own: the load goes on
    meanwhile, and some of its writes are on their way.
    """

    def __init__(self, appliance: Appliance, due: list[int]) -> None:
        self.ledger = Ledger(clock=lambda: 0, enough=self._enough)
        self.kills: list[int] = []
        self._appliance = appliance
        self._due = due
        self._threads: list[threading.Thread] = []

    def _enough(self, ledger: Ledger) -> bool:
        if self._due and len(ledger.reports) >= self._due[0]:
            self._due.pop(0)
            self._threads.append(threading.Thread(target=self._fall, name="axe"))
            self._threads[-1].start()
        return len(self.kills) == KILLS and len(ledger.reports) >= self.kills[-1] + REPORTS_AFTER

    def _fall(self) -> None:
        self._appliance.kill()
        self._appliance.start()
        self.kills.append(len(self.ledger.reports))

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_a_guest_lives_through_killed_appliances(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    disks = [Disk("disk", f"{MEBIBYTES} MiB")]
    with Appliance(tmp_path, disks=disks, advertise=GUEST_SEES_HOST_AS) as appliance:
        axe = Axe(appliance, [rng.randint(100, 300), rng.randint(400, 600)])
        with HostCalls({**axe.ledger.handlers(), "mounted": lambda: None}) as calls:
            done = run_load(appliance, calls)
        axe.join()
        assert len(axe.kills) == KILLS
    done.require_quiet_kernel(allowed=LOST_CONNECTION)
    assert sum("detected conn error" in line for line in done.kernel_log) >= KILLS
    said = f"seed {SEED}, started again after {axe.kills} reports"
    assert_image_keeps(appliance.image("disk"), axe.ledger, tmp_path / "files", 0, said)


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[tuple[Appliance, StorageLog]]:
    """An appliance whose disk's storage is logged."""
    library = storage_log.build(tmp_path)
    log = StorageLog(tmp_path / "storage.log", tmp_path / "disks" / "disk.img")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in log.environment(library).items():
            environment.setenv(name, value)
        disks = [Disk("disk", f"{MEBIBYTES} MiB")]
        appliance = Appliance(tmp_path, disks=disks, advertise=GUEST_SEES_HOST_AS)
    with appliance:
        yield appliance, log


def test_a_power_cut_loses_nothing_that_was_synchronised(logged: tuple[Appliance, StorageLog], tmp_path: Path) -> None:
    appliance, log = logged
    mounted: list[int] = []
    ledger = Ledger(clock=log.now, enough=lambda ledger: len(ledger.reports) >= REPORTS)
    with HostCalls({**ledger.handlers(), "mounted": lambda: mounted.append(log.now())}) as calls:
        run_load(appliance, calls).require_quiet_kernel()
    rng = random.Random(SEED)
    # Moments right after a promise are the hardest; the others are in the middle of anything.
    promises = [report.moment for report in ledger.reports if report.kind != "will"]
    moments = [rng.choice(promises) if number % 2 else rng.randint(mounted[0], promises[-1]) for number in range(CUTS)]
    image = tmp_path / "cut.img"
    for number, moment in enumerate(moments):
        image.write_bytes(log.power_cut(MEBIBYTES << 20, moment, rng))
        folder = tmp_path / f"files{number}"
        assert_image_keeps(image, ledger, folder, moment, f"seed {SEED}, cut {number} at {moment}")
    # The check itself: storage that synchronises nothing has to be found out.
    for number, moment in enumerate(moments):
        image.write_bytes(log.power_cut(MEBIBYTES << 20, moment, rng, honest=False))
        if check_file_system(image) is not None:
            return
        folder = tmp_path / f"lost{number}"
        folder.mkdir()
        if differences(image, ledger.durable(moment), folder):
            return
    raise AssertionError("storage that lies is not told from storage that does not")
