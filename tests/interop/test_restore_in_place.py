"""Files of a live ext4, of one on a plain volume of several pieces, and of a live XFS back into the blocks where they
are, while databases beside them are written; whole disks of images; and increments of the same files."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.interop.guest import Step
from tests.interop.hot_site import BARCODE, Site, files_of, report_of, rows_of
from tests.interop.test_hot_backup import MAKE, PLACES, site
from tests.unit.backup.support import run, which

__all__ = ["site"]

pytestmark = pytest.mark.guest

SECOND, THIRD = "TST002L6", "TST003L6"
DAMAGE = r"""
for place in plain data xfs; do
	cd /srv/$place/still/deep || exit
	dd if=/dev/urandom of=3 bs=1000 seek=7 count=50 conv=notrunc status=none
	dd if=/dev/urandom of=1 bs=4096 count=3 conv=notrunc status=none
	echo more >>5 && rm 4 && cd /
done
sync
"""
SUMS = "echo 3 >/proc/sys/vm/drop_caches; (cd /srv && sha256sum */still/deep/[123])"


# A database that has grown since is cut to what it was, so that all of its blocks are there.
CUT = """
import json, os, sys
for row in json.load(sys.stdin):
    path = "/" + row["name"]
    if path.rpartition("/")[2] in ("base.db", "base.db-wal") and os.path.getsize(path) > row["size"]:
        os.truncate(path, row["size"])
        os.sync()
"""
# What SQLite itself says of a database, and how many rows it has.
CHECK = """
import hashlib, sqlite3, sys
for path in sys.argv[1:]:
    base = sqlite3.connect(path)
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = base.execute("SELECT number, noise, digest FROM rows ORDER BY number").fetchall()
    assert [number for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert all(hashlib.sha256(noise).hexdigest() == digest for _, noise, digest in rows)
    print(len(rows))
"""
# While its file system is held, a restore does not come to its end. What asks the appliance for it has no right.
LIVE = r"""
asks() {
	grep -lE "^Uid:[[:space:]]65534" /proc/[0-9]*/status 2>/dev/null |
		xargs -r grep -hE "^(Uid|CapEff|NoNewPrivs):" >/tmp/rights
	grep -q "^NoNewPrivs:[[:space:]]1" /tmp/rights
}
fsfreeze -f /srv/plain
%s /srv/plain/still --backup 1 --yes --json >/tmp/live 2>&1 &
RESTORING=$!
retry retry asks
fsfreeze -u /srv/plain
wait $RESTORING
STATUS=$?
cat /tmp/live
[ $STATUS = 0 ]
"""
# The whole disks, while nobody is logged in to them; one has a volume group.
OVER = r"""
vgchange -q -an group && log_out || exit
for disk in plain parted xfs; do TAPEBAY_TOKEN=%s tapebay restore 2 $disk.img --over $disk --yes || exit; done
log_in 6 && PLAIN=$(retry device_of plain) && XFS=$(retry device_of xfs) && vgchange -q -ay group || exit
e2fsck -fn $PLAIN && e2fsck -fn /dev/mapper/group-data || exit
mount $PLAIN /srv/plain && mount /dev/mapper/group-data /srv/data && mount $XFS /srv/xfs
"""
ROWS = '"$PYTHON" /tmp/check.py /srv/plain/base.db /srv/data/base.db /srv/xfs/base.db'
COUNTS = "for p in plain data xfs; do cat /tmp/$p.count; echo; done"


def ways_of(output: str) -> dict[str, str]:
    """Which files go another way, and why."""
    return {Path(row["path"]).name: row["why"] for row in json.loads(output[output.index("[\n") :])}


@pytest.mark.timeout(520)  # a guest that is restored in each way, on a host that may be busy
def test_files_and_disks_are_restored_where_they_are(site: Site) -> None:
    token = site.call("token.create", name="restorer", scope="administer")["token"]
    restore = f"TAPEBAY_TOKEN={token} tapebay agent restore"
    done = site.run(
        Step("make", MAKE),
        Step("programs", f"cat >/tmp/cut.py <<'END'\n{CUT}END\ncat >/tmp/check.py <<'END'\n{CHECK}END\n"),
        Step("sums", SUMS),
        Step("written", "for p in plain data xfs; do retry written /tmp/$p.count 20; done"),
        Step("before", COUNTS),
        Step("back up", f"tapebay agent backup /srv/plain /srv/data /srv/xfs --to {BARCODE} --json"),
        Step("images", f"tapebay agent backup /srv/plain /srv/data /srv/xfs --image --to {THIRD} --json"),
        Step("after", COUNTS),
        Step("damage", DAMAGE),
        Step("damaged", SUMS),
        Step("increment", f"tapebay agent backup /srv/plain /srv/data /srv/xfs --incremental --to {SECOND} --json"),
        Step("plan", f"exec 9</srv/plain/still/deep/2; {restore} /srv/plain --backup 1 --dry-run --json; exec 9<&-"),
        Step("live", LIVE % restore),
        Step("rights", "cat /tmp/rights"),
        Step("stop", "kill $WRITERS; wait $WRITERS", status=None),
        Step("cut", 'tapebay catalogue show 1 --json | "$PYTHON" /tmp/cut.py; rm -f /srv/*/base.db-shm'),
        *(Step(f"restore {place}", f"{restore} /srv/{place} --backup 1 --yes --json") for place in PLACES),
        Step("restored", SUMS),
        Step("rows", ROWS),
        Step("unmount", "umount /srv/plain /srv/data /srv/xfs"),
        Step("checked", "e2fsck -fn $PLAIN && e2fsck -fn /dev/mapper/group-data && xfs_repair -n $XFS"),
        Step("refused", f"TAPEBAY_TOKEN={token} tapebay restore 2 xfs.img --over xfs --yes", status=None),
        Step("over", OVER % token),
        Step("as images", f"{SUMS} && {ROWS}"),
        timeout_seconds=400,
    )
    assert done["restored"] == done["sums"] != done["damaged"]
    assert [line.split()[1:] for line in done["rights"].splitlines()] == [["65534"] * 4, ["0" * 16], ["1"]]
    planned = ways_of(done["plan"])
    assert {"again": "", "2": "", "3": ""}.items() <= ways_of(done["live"]).items()
    assert (planned["2"], planned["3"]) == ("somebody has it open or mapped", "")
    assert "it is a hard link" in planned["1"]
    assert planned["4"] == "it is not there" and "bytes now, and" in planned["5"]
    for place in PLACES:
        assert {"again": "", "2": "", "3": "", "base.db": ""}.items() <= ways_of(done[f"restore {place}"]).items()
    for before, count, after in zip(done["before"].split(), done["rows"].split(), done["after"].split(), strict=True):
        assert int(before) <= int(count) <= int(after)
    assert "so it is refused, without --force" in done["refused"]
    as_images = done["as images"].splitlines()
    assert as_images[:-3] == done["sums"].splitlines()
    for before, count, after in zip(done["before"].split(), as_images[-3:], done["after"].split(), strict=True):
        assert int(before) <= int(count) <= int(after)
    image_is_whole(
        site, report_of(done["images"])["number"], int(done["before"].split()[0]), int(done["after"].split()[0])
    )
    report = report_of(done["increment"])
    assert (report["since"], report["full_because"]) == (1, "")
    sums = {name: digest for digest, name in (row.split() for row in done["damaged"].splitlines())}
    files = files_of(site.archive(SECOND))
    for place in PLACES:
        for name in (f"{place}/still/deep/1", f"{place}/still/deep/3"):
            assert hashlib.sha256(files[name]).hexdigest() == sums[name]
        assert f"{place}/still/deep/4" not in files


def image_is_whole(site: Site, number: int, least: int, most: int) -> None:
    """A new disk of it has a file system that its own check calls clean, and a database that SQLite does."""
    site.call("restore", number=number, file="plain.img", to_disk="again")
    image = site.image("again")
    run(which("e2fsck"), "-fn", image)
    files = {}
    for name in ("base.db", "base.db-wal"):
        run(which("debugfs"), "-R", f"dump /{name} {site.folder / name}", image)
        files[name] = (site.folder / name).read_bytes()
    assert least <= rows_of(site.folder / "again", files) <= most
