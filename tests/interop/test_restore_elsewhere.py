"""What one server's agent has backed up comes back to another server, in each way: another Linux, another initiator."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import guest
from tests.interop.guest import Step
from tests.interop.hot_site import BARCODE, Site, report_of
from tests.interop.test_restore_in_place import CHECK
from tests.support import packages

pytestmark = pytest.mark.guest

FIRST = r"""
modprobe ext4; PLAIN=$(retry device_of plain)
mkfs.ext4 -q -F $PLAIN && mkdir -p /srv/plain && mount $PLAIN /srv/plain && mkdir -p /srv/plain/still/deep || exit
for n in 1 2 3 4 5; do head -c ${n}77777 /dev/urandom >/srv/plain/still/deep/$n; done
ln -s deep/2 /srv/plain/still/link
"$PYTHON" /mnt/share/writer.py /srv/plain/base.db /tmp/plain.count &
WRITER=$!
retry retry written /tmp/plain.count 20
cd /srv/plain && sha256sum still/deep/*; cd /
"""
COUNT = "cat /tmp/plain.count"
SUMS = "echo 3 >/proc/sys/vm/drop_caches; (cd %s && sha256sum still/deep/*)"
DISK = r"""
modprobe ext4; modprobe st; hostname second
DISK=/dev/$(new_disk 2 other) && e2fsck -fn $DISK >&2 && mkdir -p /srv/other && mount $DISK /srv/other
"""
DAMAGE = """
for n in 1 3; do dd if=/dev/urandom of=/srv/other/still/deep/$n bs=1000 seek=7 count=50 conv=notrunc status=none; done
sync
"""
BY_TAR = rf"""
SPARE=$(device_of spare) && mkfs.ext4 -q -F $SPARE && mkdir /srv/spare && mount $SPARE /srv/spare || exit
tapebay load {BARCODE} drive:0 >/dev/null && retry tape >/tmp/drive && mt -f $(cat /tmp/drive) setblk 0 &&
	tar -b 512 -xpf $(cat /tmp/drive) -C /srv/spare
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    packages.require(*guest.PACKAGES)
    with Site(tmp_path, ["plain", "spare"]) as running:
        yield running
        assert not running.problems(), running.log_text()


@pytest.mark.timeout(520)  # two guests, one after the other, on a host that may be busy
def test_another_server_takes_the_backup(site: Site) -> None:
    first = site.run(
        Step("make", FIRST),
        Step("before", COUNT),
        Step("back up", f"tapebay agent backup /srv/plain --to {BARCODE} --json"),
        Step("image", "tapebay agent backup /srv/plain --image --to TST002L6 --json"),
        Step("after", COUNT),
        Step("stop", "kill $WRITER; wait $WRITER; umount /srv/plain", status=None),
    )
    assert (report_of(first["back up"])["number"], report_of(first["image"])["number"]) == (1, 2)
    token = site.call("token.create", name="restorer", scope="administer")["token"]
    restore = "tapebay agent restore /srv/other/still --name srv/plain/still"
    second = site.run(
        Step("token", f"export TAPEBAY_TOKEN={token}"),
        Step("disk", DISK),
        Step("from the disk", SUMS % "/srv/other"),
        Step("rows of the disk", '"$PYTHON" /mnt/share/check.py /srv/other/base.db'),
        Step("damage", DAMAGE),
        Step("damaged", SUMS % "/srv/other"),
        Step("which", f"{restore} --yes", status=None),
        Step("in place", f"{restore} --backup 1 --yes --json"),
        Step("in its place", SUMS % "/srv/other"),
        Step("by tar", BY_TAR),
        Step("from tape", SUMS % "/srv/spare/srv/plain"),
        Step("rows from tape", '"$PYTHON" /mnt/share/check.py /srv/spare/srv/plain/base.db'),
        programs={"check.py": CHECK},
        initiator_name="iqn.2026-11.test:second",
    )
    assert second["from the disk"] == second["in its place"] == second["from tape"] == first["make"]
    assert second["damaged"] != first["make"]
    assert "no backup of disk other has srv/plain/still; name one of another disk by --backup" in second["which"]
    for rows in ("rows of the disk", "rows from tape"):
        assert int(first["before"]) <= int(second[rows]) <= int(first["after"])
