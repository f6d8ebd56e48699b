"""Snapshots and a real Linux: its logical unit on the host that has the disk itself, and a store that hangs."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.guest import INITIATOR_NAME, PACKAGES, Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance, Disk
from tests.support.host_calls import HostCalls
from tests.support.waiting import becomes

pytestmark = pytest.mark.guest

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging" / "snapshots" / "59-tapebay-snapshot.rules"
GATE = "iqn.2026-11.io.tapebay:gate"

FUNCTIONS = r"""
log_in_to_gate() { # with the user and secret that follow; SNAPSHOT, SNAPSHOT_SG are its unit
	iscsiadm -m node -o new -T $GATE -p $PORTAL,1 >/dev/null || return
	local setting
	for setting in authmethod=CHAP username=$1 password=$2; do
		iscsiadm -m node -T $GATE -p $PORTAL -o update -n node.session.auth.${setting%%=*} -v ${setting#*=}
	done
	iscsiadm -m node -T $GATE -p $PORTAL --login >/dev/null && retry device_count 5 || return
	read -r SNAPSHOT SNAPSHOT_SG < <(lsscsi -g | awk '/DISK SNAPSHOT/ { print $(NF-1), $NF }')
}
links() { # of a disk, as udev would make them
	udevadm test --action=add /sys/block/${1#/dev/} 2>/dev/null | sed -n 's/^DEVLINKS=//p' | tr ' ' '\n' | sort
}
"""


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Appliance]:
    packages.require(*PACKAGES, "e2fsprogs", "sg3-utils")
    more = f'[gate]\ntarget = "{GATE}"'
    with Appliance(tmp_path, disks=[Disk("disk", "64 MiB")], advertise=GUEST_SEES_HOST_AS, more=more) as running:
        yield running


def test_it_is_mounted_beside_its_disk_and_shows_the_instant(gated: Appliance) -> None:
    made: dict[str, str] = {}

    def snapshot() -> str:
        made["name"] = gated.call("snapshot.create", disks="disk")["snapshot"]
        device = f"disk@{made['name']}"
        request = gated.call("request.create", initiator=INITIATOR_NAME, device=[device])["request"]
        becomes("granted", lambda: gated.call("request.show", request=request)["state"])
        shown = gated.call("request.show", request=request)
        return f"{shown['grant']['user']} {shown['grant']['secret']}"

    def release() -> str:
        return str(gated.call("snapshot.release", snapshot=made["name"])["state"])

    with HostCalls({"snapshot": snapshot, "release": release}) as calls:
        done = run_in_guest(
            gated,
            [
                calls.step(),
                Step("functions", f"GATE={GATE}\n{FUNCTIONS}"),
                Step("fill", "mkfs.ext4 -q $DISK && mount -t ext4 $DISK /mnt/disk && mkdir /mnt/disk/files"),
                Step("files", "cd /mnt/disk/files; for n in {1..17}; do head -c $((n * 9999)) /dev/urandom >$n; done"),
                Step("freeze", "cd / && fsfreeze -f /mnt/disk && sums=$(cd /mnt/disk/files && sha256sum *)"),
                Step("instant", "grant=$(host snapshot)"),
                Step("thaw", "fsfreeze -u /mnt/disk"),
                Step("go on", "cd /mnt/disk/files && rm 1 2 3 && head -c 9M /dev/urandom | tee 4 5 >6 && sync && cd /"),
                Step("log in", "log_in_to_gate $grant"),
                Step("inquiry", "sg_inq $SNAPSHOT_SG"),
                Step("identification", "sg_inq -p di $DISK_SG; echo; sg_inq -p di $SNAPSHOT_SG"),
                Step("read-only", "cat /sys/block/${SNAPSHOT#/dev/}/ro"),
                Step("a write", "sg_raw -s 512 -i /dev/zero $SNAPSHOT_SG 2a 00 00 00 00 00 00 00 01 00", None),
                Step("links without the rule", "links $DISK; echo; links $SNAPSHOT"),
                Step("rule", f"mkdir -p /run/udev/rules.d && cp {RULES} /run/udev/rules.d/"),
                Step("links", "links $DISK; echo; links $SNAPSHOT"),
                Step("mount", "mkdir -p /mnt/instant && mount -t ext4 -o ro,noload $SNAPSHOT /mnt/instant"),
                Step("same", '[ "$(cd /mnt/instant/files && sha256sum *)" = "$sums" ]'),
                Step("superblock", "dumpe2fs -h $SNAPSHOT 2>/dev/null | grep features"),
                Step("unmount", "umount /mnt/instant /mnt/disk && e2fsck -fn $DISK"),
                Step("release", "host release"),
                Step("reads", "dd if=$SNAPSHOT of=/dev/null bs=4k count=1 iflag=direct", None),
                Step("log out", "iscsiadm -m node -T $GATE -p $PORTAL --logout"),
            ],
            allowed=r"UNKNOWN\(0x2003\)|Sense Key : 0x5|I/O error, dev sdb",
        )
    assert "Vendor identification: TAPEBAY" in done["inquiry"]
    assert "Product identification: DISK SNAPSHOT" in done["inquiry"]
    disk, snapshot_unit = done["identification"].split("\n\n", 1)
    assert naa(disk) != naa(snapshot_unit)
    assert done["read-only"].strip() == "1"
    assert "Write protected" in done["a write"]
    before, alike = (set(part.split()) for part in done["links without the rule"].split("\n\n"))
    uuid = {link for link in before if "by-uuid" in link}
    assert uuid
    assert uuid <= alike  # which is what the rule is for
    same, apart = (set(part.split()) for part in done["links"].split("\n\n"))
    assert uuid <= same
    assert not any("by-uuid" in link or "by-label" in link for link in apart)
    assert {link for link in apart if "tapebay-snapshot-naa." in link}
    assert "needs_recovery" not in done["superblock"]
    assert "error" in done["reads"]


def naa(page: str) -> str:
    found = re.search(r"\b(0x)?3[0-9a-f]{15}\b", page)
    assert found, page
    return found[0]


# ---- LVM and md, by their own tools ----------------------------------------------------------------------------------

FILTER = RULES.with_name("lvm-tapebay-snapshot.conf")
LVM = r"""
links() { udevadm test --action=add /sys/block/${1#/dev/} 2>/dev/null | sed -n 's/^DEVLINKS=//p' | tr ' ' '\n' | sort; }
acts() { # what udev would do about a disk beside naming it
	udevadm test --action=add /sys/block/${1#/dev/} 2>&1 | grep -oE "ID_FS_TYPE=.*|LVM_VG_NAME|mdadm .*" | sort -u
}
with_filter() { LVM_SYSTEM_DIR=/tmp/filtered "$@"; }
mkdir -p /tmp/filtered /run/lock/lvm
printf 'activation {\n udev_sync=0\n udev_rules=0\n}\n' | tee /etc/lvm/lvm.conf >/tmp/filtered/lvm.conf
cat FILTER >>/tmp/filtered/lvm.conf
modprobe -a dm_mod raid1
"""


@pytest.fixture
def two_disks(tmp_path: Path) -> Iterator[Appliance]:
    packages.require(*PACKAGES, "e2fsprogs", "lvm2", "mdadm")
    with Appliance(
        tmp_path, disks=[Disk("disk", "64 MiB")], advertise=GUEST_SEES_HOST_AS, more=f'[gate]\ntarget = "{GATE}"'
    ) as running:
        yield running


@pytest.mark.parametrize("kind", ["lvm", "md"])
def test_lvm_and_md_leave_a_snapshot_of_their_disk_alone(two_disks: Appliance, kind: str) -> None:
    gated = two_disks

    def snapshot() -> str:
        name = gated.call("snapshot.create", disks="disk")["snapshot"]
        request = gated.call("request.create", initiator=INITIATOR_NAME, device=[f"disk@{name}"])["request"]
        becomes("granted", lambda: gated.call("request.show", request=request)["state"])
        shown = gated.call("request.show", request=request)
        return f"{shown['grant']['user']} {shown['grant']['secret']}"

    make = {
        "lvm": "pvcreate -q $DISK && vgcreate -q data $DISK && lvcreate -q -y -L 16M -n one data",
        "md": "mdadm --create /dev/md0 --run --force --metadata=1.2 --level=1 --raid-devices=1 $DISK",
    }[kind]
    look = {
        "lvm": "pvs --noheadings -o pv_name,vg_name 2>&1; echo; with_filter pvs --noheadings -o pv_name,vg_name 2>&1; "
        "readlink -f $(with_filter pvs --noheadings -o pv_name)",
        "md": "mdadm --examine --scan --verbose 2>&1",
    }[kind]
    with HostCalls({"snapshot": snapshot}) as calls:
        done = run_in_guest(
            gated,
            [
                calls.step(),
                Step("functions", f"GATE={GATE}\n{FUNCTIONS}\n{LVM.replace('FILTER', str(FILTER))}"),
                Step("make", make),
                Step("instant", "grant=$(host snapshot)"),
                Step("log in", "log_in_to_gate $grant"),
                Step("without the rule", "acts $DISK; echo; acts $SNAPSHOT"),
                Step("rule", f"mkdir -p /run/udev/rules.d && cp {RULES} /run/udev/rules.d/"),
                Step("with the rule", "acts $DISK; echo; acts $SNAPSHOT"),
                Step(
                    "names", "for n in $(links $SNAPSHOT); do mkdir -p ${n%/*}; ln -sfn $SNAPSHOT $n; done; echo $DISK"
                ),
                Step("tools", look),
                Step("end", "vgchange -q -an data" if kind == "lvm" else "mdadm --stop /dev/md0"),
                Step("log out", "iscsiadm -m node -T $GATE -p $PORTAL --logout"),
            ],
            allowed=r"UNKNOWN\(0x2003\)|Sense Key : 0x5|I/O error, dev sdb|md/raid1|md0",
        )
    member = {"lvm": "ID_FS_TYPE=LVM2_member", "md": "ID_FS_TYPE=linux_raid_member"}[kind]
    assert all(member in part for part in done["without the rule"].split("\n\n"))
    mine, snapshots = (done["with the rule"] + "\n").split("\n\n", 1)
    assert member in mine
    assert not snapshots.strip()
    if kind == "lvm":
        without, filtered = done["tools"].split("\n\n")
        assert "duplicate" in without or "Not using device" in without  # which is what the filter is for
        _any_of_its_names, group, device = filtered.split()
        assert (group, device) == ("data", done["names"].strip()), filtered


# ---- a store that hangs ----------------------------------------------------------------------------------------------

HANGS = """
import logging, structlog, subprocess, time
from pathlib import Path
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import CHUNK_BYTES, FileStore

SIZE = 300 * CHUNK_BYTES  # more than is saved in memory
image = DiskImage.create(Path("/tmp/production"), SIZE)
image.fill(b"old!" * 128, 0, SIZE)
taken = SnapshotSet.take([image], FileStore(Path("/mnt/disk"), "0" * 16, SIZE))
subprocess.run(["fsfreeze", "-f", "/mnt/disk"], check=True)
try:
    waits = []
    for at in range(0, SIZE, CHUNK_BYTES):
        began = time.monotonic()
        image.write(b"new!" * 128, at)
        waits.append(time.monotonic() - began)
    began = time.monotonic()
    print(taken.state.value, taken.snapshots[0].reason)
    print(taken.stored_bytes, image.before_change)
    taken.release()
    print(sum(wait > 4 for wait in waits), max(waits), sorted(waits)[-2], time.monotonic() - began)
    print(taken.join(0.2))
finally:
    subprocess.run(["fsfreeze", "-u", "/mnt/disk"], check=True)
print(taken.join(60))
found = bytearray(SIZE)
image.read_into(found, 0)
print(found == (b"new!" * 128 + b"old!" * (CHUNK_BYTES // 4 - 128)) * 300)
"""


def test_a_store_that_hangs_is_left_behind_after_five_seconds(gated: Appliance, tmp_path: Path) -> None:
    """Its file system is frozen: whoever writes to it, or lets go of the last name of a file there, does not come
    back."""
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    done = run_in_guest(
        gated,
        [
            Step("mount", "mkfs.ext4 -q $DISK && mount -t ext4 $DISK /mnt/disk"),
            Step("hang", f"PYTHONPATH={ROOT} {sys.executable} /mnt/share/{script.name} 2>&1"),
            Step("space", "umount /mnt/disk && e2fsck -fn $DISK && dumpe2fs -h $DISK 2>/dev/null | grep -c ."),
        ],
        files=[script],
    )
    state, stored, waits, at_once, later, whole = done["hang"].splitlines()
    assert state == "broken a write waited 5 s for it"
    assert stored == "0 None"
    number, longest, next_longest, release = waits.split()
    assert number == "1"  # one write waited, and no other does any more
    assert 5 <= float(longest) < 30
    assert float(next_longest) < 4
    assert float(release) < 4
    assert at_once == "False"  # its thread is still in the store
    assert (later, whole) == ("True", "True")
