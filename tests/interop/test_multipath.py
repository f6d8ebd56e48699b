"""Two ways to one disk: what dm-multipath needs to know them for the same, to lose one, and to keep others out."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from datamover.initiator import InitiatorSession
from tests.interop import guest
from tests.interop.guest import HOST_ADDRESS, GuestRun, Step
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.host_calls import HostCalls
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.scsi import RESERVATION_CONFLICT, Device, read_10, write_10

pytestmark = pytest.mark.guest

MEBIBYTES = 128
DEVICES = 4  # changer and disk, on each way
OTHER = "iqn.2026-01.org.example:other"
KEY, OTHER_KEY = "0xabc", "0xdef"
# A way that is lost is reported as such, by everybody; dm-multipath and the file system on it must not notice.
LOST_WAY = r"connection\d+:0:|session recovery|device-mapper: multipath:|dev sd[ab]|\[sd[ab]\]|sd \d|rejecting I/O"


class TwoWays:
    """An appliance with two portals, in two portal groups, and a relay on the way to each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        port = free_port()
        self.appliance = stack.enter_context(
            Appliance(
                folder,
                disks=[Disk("disk", f"{MEBIBYTES} MiB")],
                drives=0,
                cartridges=0,
                more=f'[[portals]]\nlisten = "127.0.0.1:{port}"\ngroup = 2',
            )
        )
        self.relays = [stack.enter_context(Relay(("127.0.0.1", each))) for each in (self.appliance.port, port)]

    def what_other_may(self) -> str:
        """ "read", "write", or both, or neither: what another initiator can do to the disk. It logs in each time, as
        nobody would answer for it while a guest is busy."""
        with InitiatorSession(self.appliance.portal, self.appliance.target_name, initiator_name=OTHER) as session:
            disk = Device(session, self.appliance.lun("disk"))
            read = disk.command(read_10(0, 1), data_in_length=512).status
            write = disk.command(write_10(100, 1), bytes(512)).status
        assert {read, write} <= {0, RESERVATION_CONFLICT}
        return " ".join(name for name, status in (("read", read), ("write", write)) if status == 0) or "nothing"

    def run(self, steps: list[Step]) -> GuestRun:
        handlers = {
            "cut": lambda way: self.relays[int(way)].cut(),
            "mend": lambda way: self.relays[int(way)].mend(),
            "other": self.what_other_may,
        }
        with HostCalls(handlers) as calls:
            done = guest.run(
                [calls.step(), *self.log_in(), *steps, Step("logout", "iscsiadm -m node -T $TARGET --logout")],
                portal="",
                target=self.appliance.target_name,
            )
        done.require_quiet_kernel(allowed=LOST_WAY)
        return done

    def log_in(self) -> list[Step]:
        """Both ways; $A and $B are the disk's two names."""
        first, second = (f"{HOST_ADDRESS}:{relay.port}" for relay in self.relays)
        return [
            Step("start iscsid", "start_iscsid"),
            Step(
                "nodes",
                f"iscsiadm -m node -o new -T $TARGET -p {first},1 && iscsiadm -m node -o new -T $TARGET -p {second},2"
                # As multipath wants it: a way that is down fails soon what was sent on it.
                " && iscsiadm -m node -T $TARGET -o update -n node.session.timeo.replacement_timeout -v 1",
            ),
            *(
                Step(
                    f"login {number}",
                    f"iscsiadm -m node -T $TARGET -p {portal} --login && retry device_count {number * DEVICES // 2}",
                )
                for number, portal in ((1, first), (2, second))
            ),
            Step("ways", "read -r A B < <(lsscsi | awk '$2 == \"disk\" { print $NF }' | xargs); echo $A $B"),
        ]


@pytest.fixture
def ways(tmp_path: Path) -> Iterator[TwoWays]:
    packages.require(*guest.PACKAGES, "dmsetup", "sg3-utils", "libiscsi7", "e2fsprogs")
    with ExitStack() as stack:
        two = TwoWays(tmp_path, stack)
        yield two
    assert not two.appliance.problems(), two.appliance.log_text()


MAKE_MULTIPATH = r"""
modprobe -a dm-multipath dm-round-robin
# As dm-multipath schedules already. With mq-deadline on a way, Linux 6.1 sometimes warns at logout that it miscounted.
for way in $A $B; do echo none >/sys/class/block/${way#/dev/}/queue/scheduler; done
export DM_DISABLE_UDEV=1
number() { cat /sys/class/block/${1#/dev/}/dev; }
ways_up() { dmsetup status disk | grep -o "$(number $1) [AF]" | cut -d' ' -f2; }
is_way() { [ "$(ways_up $1)" = $2 ]; }
reads() { dd if=$1 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; }
# What multipathd does when its checker finds a way in order again.
reinstated() { reads $1 && dmsetup message disk 0 reinstate_path $(number $1); }
echo "0 $(blockdev --getsz $A) multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 1 $(number $A) 1 $(number $B) 1" |
	dmsetup create disk && is_way $A A && is_way $B A
look() { reads /dev/mapper/disk; reads /dev/mapper/disk; reads /dev/mapper/disk; reads /dev/mapper/disk; } # by each way
repeat() { local left; for left in {1..12}; do "$@" || return; done; }
put() { repeat append_durably /mnt/disk/$1; }
append_durably() { cat /tmp/data >>$1 && sync $1; }
"""


def test_writing_goes_on_when_a_way_is_lost(ways: TwoWays) -> None:
    done = ways.run(
        [
            Step("names", "for way in $A $B; do cat /sys/class/block/${way#/dev/}/device/wwid; done"),
            Step("ports", "for way in $A $B; do sg_vpd --page=di_port $way | grep 'Relative target port:'; done"),
            Step("multipath", MAKE_MULTIPATH),
            Step("mkfs", "mkfs.ext4 -q /dev/mapper/disk && mount -t ext4 /dev/mapper/disk /mnt/disk"),
            Step("data", "head -c 1M /dev/urandom >/tmp/data"),
            Step("write", "put a"),
            Step("writes of each", "for way in $A $B; do awk '{ print $5 }' /sys/class/block/${way#/dev/}/stat; done"),
            Step("cut while writing", "put b & host cut 0; look; wait $!"),
            Step("first is down", "retry is_way $A F; is_way $B A"),
            Step("mend the first", "host mend 0; retry reinstated $A; is_way $A A"),
            Step("cut the second while writing", "put c & host cut 1; look; wait $!"),
            Step("second is down", "retry is_way $B F; is_way $A A"),
            Step("write on the first", "put d"),
            Step("mend the second", "host mend 1; retry reinstated $B"),
            Step(
                "cut both while writing",
                "put e & writing=$!; host cut 0; host cut 1; look & retry is_way $A F; retry is_way $B F",
            ),
            Step("mend one", "host mend 1; retry reinstated $B; wait $writing"),
            Step("mend the other", "host mend 0; retry reinstated $A"),
            Step("mount again", "umount /mnt/disk; mount -t ext4 /dev/mapper/disk /mnt/disk"),
            Step("read", "for name in a b c d e; do repeat cat /tmp/data | cmp - /mnt/disk/$name || exit; done"),
            Step("end", "umount /mnt/disk; e2fsck -fn /dev/mapper/disk && dmsetup remove disk"),
        ]
    )
    first, second = done["names"].split()
    assert first == second
    assert first.startswith("naa.")
    assert [line.split()[-1] for line in done["ports"].splitlines() if "0x" in line] == ["0x1", "0x2"]
    assert all(int(sectors) > 0 for sectors in done["writes of each"].split())


PERSIST = "sg_persist --no-inquiry"


def test_persistent_reservations_know_the_ways_apart(ways: TwoWays) -> None:
    write = "dd if=/dev/zero of=%s bs=4k count=1 oflag=direct"
    done = ways.run(
        [
            Step("register the first", f"{PERSIST} --out --register --param-sark={KEY} $A"),
            Step("keys", f"{PERSIST} --in --read-keys $B"),
            # SPC-4 5.12: a registration is one I_T nexus's; sg_persist ends with 24 for RESERVATION CONFLICT.
            Step("reserve without", f"{PERSIST} --out --reserve --prout-type=1 --param-rk={KEY} $B", status=24),
            Step("write exclusive", f"{PERSIST} --out --reserve --prout-type=1 --param-rk={KEY} $A"),
            Step("the first may write", write % "$A"),
            Step("the second may not", write % "$B", status=1),
            Step("but read", "dd if=$B of=/dev/null bs=4k count=1 iflag=direct"),
            Step("other 1", "host other"),
            Step("release", f"{PERSIST} --out --release --prout-type=1 --param-rk={KEY} $A"),
            Step("other 2", "host other"),
            Step("register the second", f"{PERSIST} --out --register --param-sark={OTHER_KEY} $B"),
            Step("registrants only", f"{PERSIST} --out --reserve --prout-type=5 --param-rk={KEY} $A"),
            Step("both may write", f"{write % '$A'} && {write % '$B'}"),
            Step("other 3", "host other"),
            Step("full status", f"{PERSIST} --in --read-full-status $B"),
            Step("the holder's way is lost", "host cut 0"),
            Step("the second still may", write % "$B"),
            Step("other 4", "host other"),
            Step("keys then", f"{PERSIST} --in --read-keys $B"),
            Step("holder then", f"{PERSIST} --in --read-reservation $B"),
            # What a cluster does to a node that is gone.
            Step("preempt", f"{PERSIST} --out --preempt --prout-type=5 --param-rk={OTHER_KEY} --param-sark={KEY} $B"),
            Step("holder at last", f"{PERSIST} --in --read-reservation $B"),
            Step("mend", "host mend 0; retry dd if=$A of=/dev/null bs=4k count=1 iflag=direct"),
            Step("the first may no longer", write % "$A", status=1),
            Step("clear", f"{PERSIST} --out --clear --param-rk={OTHER_KEY} $B"),
            Step("the first may again", write % "$A"),
            Step("other 5", "host other"),
        ]
    )
    assert [done[f"other {n}"].strip() for n in range(1, 6)] == ["read", "read write", "read", "read", "read write"]
    assert (KEY in done["keys"], OTHER_KEY in done["keys"]) == (True, False)
    assert (KEY in done["keys then"], OTHER_KEY in done["keys then"]) == (True, True)
    assert f"Key={KEY}" in done["holder then"]
    assert f"Key={OTHER_KEY}" in done["holder at last"]
    for port in (1, 2):
        assert f"Relative port address: 0x{port}" in done["full status"]
