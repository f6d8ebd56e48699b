"""A hot backup of a server's file systems while they are written: a real Linux, its freeze, FIEMAP and initiator."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.interop import guest
from tests.interop.guest import HOST_ADDRESS, GuestRun, Step
from tests.interop.test_postgresql import program
from tests.support import certificates, packages
from tests.support.appliance import TARGET_NAME, Appliance, Disk
from tests.support.ports import free_port
from tests.unit.backup.support import TAPE_BLOCK, archive_of
from vlib_images.cartridge.cartridge import Cartridge

pytestmark = pytest.mark.guest

ROOT = Path(__file__).resolve().parents[2]
BARCODE = "TST001L6"
DISKS = ("plain", "parted", "xfs")

# Writes a row in each transaction until it is ended, so that a backup always comes into the middle of something.
WRITER = r"""
import hashlib, os, sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA journal_mode=WAL")
base.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, noise BLOB, digest TEXT)")
number = 0
while True:
    number += 1
    noise = os.urandom(3000)
    base.execute("INSERT INTO rows VALUES (?, ?, ?)", (number, noise, hashlib.sha256(noise).hexdigest()))
    with open(sys.argv[2], "w") as told:
        told.write(str(number))
"""

STEPS = r"""
tapebay() { "$PYTHON" -m appliance "$@"; }
device_of() { # the block device of a disk of the library, by its serial number
	local page
	page=$(grep -l "$(cat /mnt/share/serial.$1)" /sys/block/sd*/device/vpd_pg80 2>/dev/null | head -1)
	[ -n "$page" ] && echo "/dev/$(echo "$page" | cut -d/ -f4)"
}
written() { [ -s "$1" ] && [ "$(cat "$1")" -gt "${2:-0}" ]; }
"""


class Site(Appliance):
    """Three disks, a gate for the snapshots, the API over TLS."""

    def __init__(self, folder: Path) -> None:
        self.pair = certificates.make(folder, address=HOST_ADDRESS)
        self.api_port = free_port()
        more = f"""
[gate]
target = "iqn.2026-11.io.tapebay:gate"
[api]
listen = "127.0.0.1:{self.api_port}"
certificate = "{self.pair.certificate}"
key = "{self.pair.key}"
"""
        disks = [Disk(name, "320 MiB") for name in DISKS]
        super().__init__(folder, disks=disks, advertise=HOST_ADDRESS, more=more)
        self.token = self.call("token.create", name="agent", scope="operate")["token"]

    def run(self, *steps: Step) -> GuestRun:
        serials = []
        for unit in self.call("status")["devices"]:
            if unit["name"] in DISKS:
                serials.append(self.folder / f"serial.{unit['name']}")
                serials[-1].write_text(unit["serial"])
        environment = {
            "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "TAPEBAY_TOKEN": self.token,
            "TAPEBAY_API": f"https://{HOST_ADDRESS}:{self.api_port}",
            "TAPEBAY_CERTIFICATE_AUTHORITY": f"/mnt/share/{self.pair.authority.name}",
        }  # fmt: skip
        exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
        programs = []
        for name, text in (("writer.py", WRITER), ("held.py", HELD)):
            programs.append(self.folder / name)
            programs[-1].write_text(text)
        return guest.run(
            [
                Step("set up", exports + STEPS), Step("iscsid", "start_iscsid"), Step("discover", "discover"),
                Step("log in", "log_in 6"), *steps,
            ],
            portal=f"{HOST_ADDRESS}:{self.port}",
            target=TARGET_NAME,
            files=[self.pair.authority, *programs, *serials],
            timeout_seconds=240,
        )  # fmt: skip

    def archive(self, barcode: str = BARCODE) -> Path:
        with Cartridge.open(self.folder / "cartridges" / barcode, read_only=True) as cartridge:
            return archive_of(cartridge, self.folder / f"{barcode}.tar")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    packages.require(*guest.PACKAGES, "dmsetup")
    with ExitStack() as stack:
        running = stack.enter_context(Site(tmp_path))
        yield running
        assert not running.problems(), running.log_text()


MAKE = r"""
modprobe dm_mod; modprobe ext4; modprobe xfs
PLAIN=$(retry device_of plain) PARTED=$(device_of parted) XFS=$(device_of xfs)
mkfs.ext4 -q -F $PLAIN && mkfs.xfs -q $XFS || exit
echo "0 400000 linear $PARTED 2048
400000 100000 linear $PARTED 500000" | dmsetup create data && dmsetup mknodes data || exit
mkfs.ext4 -q -F /dev/mapper/data || exit
mkdir -p /srv/plain /srv/data /srv/xfs
mount $PLAIN /srv/plain && mount /dev/mapper/data /srv/data && mount $XFS /srv/xfs || exit
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


def report_of(output: str) -> dict[str, Any]:
    """What `--json` printed, after what was told meanwhile."""
    found: dict[str, Any] = json.loads(output[output.index("{\n") :])
    return found


def files_of(archive: Path) -> dict[str, bytes]:
    """The plain files of an archive by their names, without what leads to their mount points."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive, mode="r|", bufsize=TAPE_BLOCK) as tar:
        for member in tar:
            if member.isreg() and (file := tar.extractfile(member)) is not None:
                found[member.name.removeprefix("srv/")] = file.read()
            elif member.islnk():
                found[member.name.removeprefix("srv/")] = found[member.linkname.removeprefix("srv/")]
    return found


def rows_of(folder: Path, files: dict[str, bytes]) -> int:
    """How many rows the database has, which its own check calls whole."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with closing(sqlite3.connect(folder / "base.db")) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = base.execute("SELECT number, noise, digest FROM rows ORDER BY number").fetchall()
    assert [number for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert all(hashlib.sha256(noise).hexdigest() == digest for _, noise, digest in rows)
    return len(rows)


def test_files_that_are_written_meanwhile(site: Site) -> None:
    command = f"tapebay agent backup /srv/plain /srv/data /srv/xfs --exclude lost+found --to {BARCODE} --json"
    done = site.run(
        Step("make", MAKE),
        Step("map", "tapebay agent map /srv/data/still"),
        Step("written", "for p in plain data xfs; do retry written /tmp/$p.count 20; done"),
        Step("before", "cat /tmp/plain.count; echo; cat /tmp/data.count; echo; cat /tmp/xfs.count"),
        Step("back up", command),
        Step("goes on", "for p in plain data xfs; do retry written /tmp/$p.count $(cat /tmp/$p.count); done"),
        Step("after", "cat /tmp/plain.count; echo; cat /tmp/data.count; echo; cat /tmp/xfs.count"),
        Step("stop", "kill $WRITERS; wait $WRITERS; umount /srv/plain /srv/data /srv/xfs", status=None),
        Step("nothing is left", "! ls /dev/mapper | grep tapebay- && ! iscsiadm -m iface | grep tapebay-"),
    )
    report = report_of(done["back up"])
    assert (report["state"], report["skipped"]) == ("done", 0), report
    files = files_of(site.archive())
    sums = {name: digest for digest, name in (row.split() for row in done["make"].splitlines() if "/still/" in row)}
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in sums} == sums
    for place, least, most in zip(PLACES, done["before"].split(), done["after"].split(), strict=True):
        base = {
            name.removeprefix(f"{place}/"): data for name, data in files.items() if name.startswith(f"{place}/base")
        }
        assert int(least) <= rows_of(site.folder / place, base) <= int(most)
    assert not list(site.folder.glob("**/*.snapshot"))


POSTGRESQL = r"""
modprobe ext4
PLAIN=$(retry device_of plain) && mkfs.ext4 -q -F $PLAIN && mkdir -p /srv/plain && mount $PLAIN /srv/plain || exit
mkdir /srv/plain/pg /run/pg && chown postgres /srv/plain/pg /run/pg && cd /srv/plain/pg || exit
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"; }
as_postgres $PROGRAMS/initdb -D /srv/plain/pg/data -A trust -U tapebay --no-sync >/dev/null || exit
as_postgres $PROGRAMS/pg_ctl -D /srv/plain/pg/data -o "-k /run/pg -c listen_addresses=" -l /run/pg/log -w start \
	>/dev/null || exit
sql() { $PROGRAMS/psql -h /run/pg -U tapebay -d postgres -qAt "$@"; }
sql -c "CREATE TABLE rows (number int PRIMARY KEY, digest text)" || exit
(
	number=0
	while number=$((number + 1)); do
		echo "INSERT INTO rows SELECT n, md5(n::text) FROM generate_series($((number * 10 - 9)), $((number * 10))) n;"
		echo "\\! echo $((number * 10)) >/tmp/told && mv /tmp/told /tmp/pg.count"
	done
) | sql -v ON_ERROR_STOP=1 &
WRITER=$!
"""


def test_postgresql_in_the_middle_of_its_work(site: Site) -> None:
    """What is restored starts as after a power cut, and has every row that was committed before the backup began."""
    packages.require("postgresql")
    programs = Path(program("initdb")).resolve().parent
    backup = (
        f"tapebay agent backup /srv/plain/pg --before '{programs}/psql -h /run/pg -U tapebay -d postgres -c CHECKPOINT'"
    )
    done = site.run(
        Step("make", f"PROGRAMS={programs}\n{POSTGRESQL}"),
        Step("written", "retry written /tmp/pg.count 50"),
        Step("before", "cat /tmp/pg.count"),
        Step("back up", f"cd / && {backup} --to {BARCODE} --json"),
        Step("after", "cat /tmp/pg.count"),
        Step("stop", "kill $WRITER; as_postgres $PROGRAMS/pg_ctl -D /srv/plain/pg/data -m immediate stop", status=None),
    )
    assert report_of(done["back up"])["state"] == "done"
    with tempfile.TemporaryDirectory(prefix="tapebay-pg-") as folder:  # short: the socket's path has 107 bytes
        Path(folder).chmod(0o755)
        subprocess.run(["tar", "-b", "512", "-xpf", site.archive(), "-C", folder], check=True)
        data, user = f"{folder}/srv/plain/pg/data", "postgres" if os.geteuid() == 0 else None
        Path(data, "postmaster.pid").unlink()
        run = {"user": user, "cwd": "/", "check": True, "stdout": subprocess.DEVNULL}
        options = f"-k {folder}/srv/plain/pg -c listen_addresses="
        subprocess.run([programs / "pg_ctl", "-D", data, "-o", options, "-l", f"{data}/log", "-w", "start"], **run)  # type: ignore[call-overload]
        try:
            query = "SELECT count(*), min(number), max(number), bool_and(digest = md5(number::text)) FROM rows"
            shown = subprocess.run(
                [programs / "psql", "-h", f"{folder}/srv/plain/pg", "-U", "tapebay", "-d", "postgres", "-qAtc", query],
                check=True, capture_output=True, text=True, cwd="/",
            )  # fmt: skip
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"], **run)  # type: ignore[call-overload]
    count, first, last, right = shown.stdout.strip().split("|")
    assert (first, last, right) == ("1", count, "t")
    assert int(done["before"]) <= int(count) <= int(done["after"]) + 10


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
    )
    assert done["held"].split() == ["waits", "held"]
    assert "were let go after 0.5 s" in done["watchdog"]
    assert "somebody else let /srv/held go" in done["another"]
    assert "somebody holds /srv/held still already" in done["already"]
