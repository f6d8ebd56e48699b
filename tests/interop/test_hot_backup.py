"""A hot backup of a server's file systems while they are written: a real Linux, its freeze, FIEMAP and initiator."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.interop import guest
from tests.interop.guest import GuestRun, Step
from tests.interop.hot_site import Site, barcode, files_of, report_of, rows_of
from tests.support import packages
from tests.support.waiting import eventually

pytestmark = pytest.mark.guest


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    packages.require(*guest.PACKAGES, "lvm2", "sqlite3")
    with ExitStack() as stack:
        running = stack.enter_context(Site(tmp_path, cartridges=ROUNDS + 2))
        yield running
        assert not running.problems(), running.log_text()


MAKE = r"""
modprobe dm_mod; modprobe ext4; modprobe xfs
PLAIN=$(retry device_of plain) PARTED=$(device_of parted) XFS=$(device_of xfs)
mkfs.ext4 -q -F $PLAIN && mkfs.xfs -q $XFS || exit
# A logical volume in two pieces, by LVM itself; no udev makes its nodes here.
mkdir -p /run/lock/lvm
printf 'activation {\n udev_sync=0\n udev_rules=0\n}\n' >/etc/lvm/lvm.conf
pvcreate -q $PARTED && vgcreate -q group $PARTED && lvcreate -q -y -Zn -L 192M -n data group &&
	lvcreate -q -y -Zn -L 24M -n between group && lvextend -q -L +48M group/data || exit
[ "$(dmsetup table group-data | wc -l)" = 2 ] || exit
mkfs.ext4 -q -F /dev/mapper/group-data || exit
mkdir -p /srv/plain /srv/data /srv/xfs
mount $PLAIN /srv/plain && mount /dev/mapper/group-data /srv/data && mount $XFS /srv/xfs || exit
for place in plain data xfs; do
	mkdir -p /srv/$place/still/deep
	for n in 1 2 3 4 5; do head -c ${n}77777 /dev/urandom >/srv/$place/still/deep/$n; done
	ln /srv/$place/still/deep/1 /srv/$place/still/again
	ln -s deep/2 /srv/$place/still/link
	truncate -s 50M /srv/$place/still/hole && echo end >>/srv/$place/still/hole
	"$PYTHON" /mnt/share/writer.py /srv/$place/base.db /tmp/$place.count &
	WRITERS="$WRITERS $!"
done
(cd /srv && sha256sum */still/deep/* */still/hole)
"""


PLACES = ("plain", "data", "xfs")


COUNTS = "cat /tmp/plain.count; echo; cat /tmp/data.count; echo; cat /tmp/xfs.count"
NETWORK = "cat /sys/class/net/vec0/statistics/rx_bytes /sys/class/net/vec0/statistics/tx_bytes"
# Of each process that the agent has started: user, capabilities, whether it may have others.
RIGHTS = r"""
for status in /proc/[0-9]*/status; do
	grep -q "^PPid:[[:space:]]$PPID\$" $status && grep -E "^(Uid|CapEff|NoNewPrivs):" $status
done >/tmp/rights
exit 0
"""
ROUNDS = int(os.environ.get("TAPEBAY_TEST_ROUNDS", "2"))  # of backups one after the other, while all is written
LARGE = """
mkdir /srv/xfs/large
for n in 1 2 3 4 5 6 7 8; do head -c 20M /dev/urandom >/srv/xfs/large/$n; done
sync -f /srv/xfs
"""


GATHERED = """
tapebay agent serve --agent-file /mnt/share/agent.toml 2>/tmp/serve.told &
SERVING=$!
tapebay backup gather sqlite --server guest --to TST002L6 --json
STATUS=$?
kill $SERVING
wait $SERVING
[ $STATUS = 0 ] || { cat /tmp/serve.told; exit 1; }
"""


# A backup whose agent says what the files are while they cannot change: that is the judge of what is on tape. (What is
# only large is left out, as the snapshot is not renewed meanwhile.)
ORACLE = """
import hashlib, sys
from contextlib import contextmanager
from pathlib import Path
from appliance.agent.asking import Asking
from appliance.agent.backup import AgentJob, HotBackup, MountedSources
from appliance.agent.mount import Agent
from appliance.agent.server import ThisServer
from appliance.control.client import Client

class Hashing(ThisServer):
    @contextmanager
    def held(self, points, *, limit_seconds):
        with super().held(points, limit_seconds=60):
            yield
            for path in (path for point in points for path in point.rglob("*")):
                if path.is_file() and not path.is_symlink() and path.name != "hole":
                    print(hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to("/srv"))

client = Client.from_environment()
api, key = Asking(client), hashlib.sha256(client.token.encode()).hexdigest().encode()
paths = [Path(path) for path in sys.argv[2:]]
hot = HotBackup(api, Agent(api), server=Hashing(), key=key)
report = hot.run(AgentJob(paths), MountedSources(api).of(paths), to=[sys.argv[1]])
assert report["state"] == "done", report
"""


def one_round(number: int) -> list[Step]:
    command = f"tapebay agent backup /srv/plain /srv/data /srv/xfs --exclude lost+found --to {barcode(number)} --json"
    if number == 1:  # as the documents show it
        command = "tapebay agent run sqlite --agent-file /mnt/share/agent.toml --json"
    if number == 2:
        command = GATHERED
    goes_on = "for p in plain data xfs; do retry written /tmp/$p.count $(cat /tmp/$p.count); done"
    return [
        Step(f"before {number}", COUNTS), Step(f"back up {number}", command), Step(f"goes on {number}", goes_on),
        Step(f"after {number}", COUNTS),
    ]  # fmt: skip


@pytest.mark.timeout(320 + 100 * ROUNDS)  # hot backups in a guest, which is slow where its host is busy
def test_files_that_are_written_meanwhile(site: Site) -> None:
    """Over and over; and what a backup of large files costs the server, by its own network's count."""
    numbers, to_another = range(1, ROUNDS + 1), f"--to {barcode(ROUNDS + 1)} --json"
    done = site.run(
        Step("make", MAKE),
        Step("map", "tapebay agent map /srv/data/still"),
        Step("written", "for p in plain data xfs; do retry written /tmp/$p.count 20; done"),
        *(step for number in numbers for step in one_round(number)),
        Step("oracle", f'"$PYTHON" /mnt/share/oracle.py {barcode(ROUNDS + 2)} /srv/plain /srv/data /srv/xfs'),
        Step("stop", "kill $WRITERS; wait $WRITERS; umount /srv/plain /srv/data", status=None),
        Step("large", LARGE),
        Step("network before", NETWORK),
        Step("back up large", f"tapebay agent backup /srv/xfs/large --before 'sh /mnt/share/rights.sh' {to_another}"),
        Step("network after", NETWORK),
        Step("rights", "cat /tmp/rights"),
        Step("nothing is left", "! ls /dev/mapper | grep tapebay- && ! iscsiadm -m iface | grep tapebay-"),
        timeout_seconds=240 + 60 * ROUNDS,
        programs={
            "rights.sh": RIGHTS,
            "oracle.py": ORACLE,
            **site.agent_files("sqlite", paths=["/srv/plain", "/srv/data", "/srv/xfs"], to=["TST001L6"]),
        },
    )
    sums = {name: digest for digest, name in (row.split() for row in done["make"].splitlines() if "/still/" in row)}
    for number in numbers:
        report = report_of(done[f"back up {number}"])
        assert (report["state"], report["skipped"]) == ("done", 0), report
        files = files_of(site.archive(barcode(number)))
        assert {name: hashlib.sha256(files[name]).hexdigest() for name in sums} == sums
        counts = done[f"before {number}"].split(), done[f"after {number}"].split()
        for place, least, most in zip(PLACES, *counts, strict=True):
            base = {name.removeprefix(f"{place}/"): data for name, data in files.items() if f"{place}/base" in name}
            assert int(least) <= rows_of(site.folder / f"{place}-{number}", base) <= int(most)
    held = {name: digest for digest, name in (row.split() for row in done["oracle"].splitlines())}
    files = files_of(site.archive(barcode(ROUNDS + 2)))
    on_tape = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert {name: digest for name, digest in on_tape.items() if not name.endswith("/hole")} == held
    assert {f"{place}/base.db-wal" for place in PLACES} <= set(held)
    costs_next_to_nothing(report_of(done["back up large"]), done)
    rights = [line.split()[1:] for line in done["rights"].splitlines()]
    assert [["65534"] * 4, ["0" * 16], ["1"]] in [rights[at : at + 3] for at in range(0, len(rights), 3)], rights
    assert eventually(lambda: not list(site.folder.glob("**/*.snapshot")), despite=(FileNotFoundError,))


def costs_next_to_nothing(report: dict[str, Any], done: GuestRun) -> None:
    """No byte of a file crossed the server's network, and of all bytes less than a hundredth; the kernel's counters of
    its only interface, frames and acknowledgements too, are the judge of what the agent says."""
    assert report["content_bytes"] == 8 * 20 << 20
    crossed = sum(map(int, done["network after"].split())) - sum(map(int, done["network before"].split()))
    (part,) = report["servers"]
    assert part["payload_bytes"] == 0
    assert crossed < report["content_bytes"] / 100, (crossed, part)
    # The frames' own headers, acknowledgements, and what iSCSI needs for a login and for each of many small reads.
    assert crossed / 5 < part["network_bytes"] < crossed, (crossed, part)
    assert part["processor_seconds"] > 0
    assert report["processor_seconds_per_gibibyte"] > 0


HELD = """
import subprocess, sys
from pathlib import Path
from appliance.agent.freeze import FreezeFailed, held_still
try:
    with held_still([Path("/srv/held")], limit_seconds=float(sys.argv[1])):
        subprocess.run(sys.argv[2], shell=True)
    print("held")
except FreezeFailed as error:
    print(error)
"""

FREEZE = r"""
modprobe brd rd_nr=1 rd_size=65536 && modprobe ext4 && mkfs.ext4 -q -F /dev/ram0 && mkdir -p /srv/held || exit
mount /dev/ram0 /srv/held
held() { "$PYTHON" /mnt/share/held.py "$@"; } # what held_still said; its limit, then what runs while it holds
goes_on() { timeout 20 sh -c 'echo x >/srv/held/x && sync -f /srv/held/x'; }
"""


def test_the_kernels_freeze(site: Site) -> None:
    """The watchdog wins, somebody else thaws, somebody froze it before, the agent is killed: it always goes on."""
    done = site.run(
        Step("make", FREEZE),
        Step(
            "held",
            "held 20 '(echo x >/srv/held/x; touch /tmp/wrote) & sleep 1; [ -e /tmp/wrote ] || echo waits'; goes_on",
        ),
        Step("watchdog", "held 0.5 'sleep 2; echo y >/srv/held/y'; goes_on"),
        Step("another", "held 20 'fsfreeze -u /srv/held'; goes_on"),
        Step("already", "fsfreeze -f /srv/held; held 20 true; fsfreeze -u /srv/held; goes_on"),
        Step("killed", "held 600 'kill -9 $PPID'; goes_on", status=0),
        programs={"held.py": HELD},
    )
    assert done["held"].split() == ["waits", "held"]
    assert "were let go after 0.5 s" in done["watchdog"]
    assert "somebody else let /srv/held go" in done["another"]
    assert "somebody holds /srv/held still already" in done["already"]
