"""Files of a live ext4, of one on a plain volume of several pieces, and of a live XFS back into the blocks where they
are, while databases beside them are written; and increments of the same files."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.interop.guest import Step
from tests.interop.test_hot_backup import BARCODE, MAKE, PLACES, Site, files_of, report_of, site

__all__ = ["site"]

pytestmark = pytest.mark.guest

SECOND = "TST002L6"
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


def rows_of(output: str) -> dict[str, str]:
    """Which files go another way, and why."""
    return {Path(row["path"]).name: row["why"] for row in json.loads(output[output.index("[\n") :])}


def test_files_are_restored_where_they_are(site: Site) -> None:
    token = site.call("token.create", name="restorer", scope="administer")["token"]
    restore = f"TAPEBAY_TOKEN={token} tapebay agent restore"
    done = site.run(
        Step("make", MAKE),
        Step("sums", SUMS),
        Step("back up", f"tapebay agent backup /srv/plain /srv/data /srv/xfs --to {BARCODE} --json"),
        Step("damage", DAMAGE),
        Step("damaged", SUMS),
        Step("increment", f"tapebay agent backup /srv/plain /srv/data /srv/xfs --incremental --to {SECOND} --json"),
        Step("plan", f"exec 9</srv/plain/still/deep/2; {restore} /srv/plain --backup 1 --dry-run --json; exec 9<&-"),
        *(Step(f"restore {place}", f"{restore} /srv/{place}/still --backup 1 --yes --json") for place in PLACES),
        Step("restored", SUMS),
        Step("stop", "kill $WRITERS; wait $WRITERS; umount /srv/plain /srv/data /srv/xfs", status=None),
        Step("checked", "e2fsck -fn $PLAIN && e2fsck -fn /dev/mapper/group-data && xfs_repair -n $XFS"),
    )
    assert done["restored"] == done["sums"] != done["damaged"]
    planned = rows_of(done["plan"])
    assert (planned["2"], planned["3"]) == ("somebody has it open or mapped", "")
    assert planned["4"] == "it is not there" and "bytes now, and" in planned["5"]
    for place in PLACES:
        assert {"1": "", "2": "", "3": ""}.items() <= rows_of(done[f"restore {place}"]).items()
    report = report_of(done["increment"])
    assert (report["since"], report["full_because"]) == (1, "")
    sums = {name: digest for digest, name in (row.split() for row in done["damaged"].splitlines())}
    files = files_of(site.archive(SECOND))
    for place in PLACES:
        for name in (f"{place}/still/deep/1", f"{place}/still/deep/3"):
            assert hashlib.sha256(files[name]).hexdigest() == sums[name]
        assert f"{place}/still/deep/4" not in files
