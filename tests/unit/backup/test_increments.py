"""Increments: only what has changed is written, full and increments in their order are the files as they were, and
wherever a change might have been missed it is a full backup, which says why."""

import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.backup import pax
from appliance.backup.entries import Entry, Kind
from appliance.failures import OperatorError
from tests.support.appliance import Appliance, Disk
from tests.unit.backup.changing_disk import ChangingDisk, logged_in
from tests.unit.backup.support import TAPE_BLOCK, run, which
from tests.unit.backup.test_job import first_file

CARTRIDGES = [f"TST00{number}L6" for number in range(1, 7)]
SEED = int(os.environ.get("TAPEBAY_TEST_SEED", random.randrange(1 << 32)))
RANDOM_INCREMENTS = int(os.environ.get("TAPEBAY_TEST_INCREMENTS", "12"))


class Site:
    """A library, and its disk as a host changes it."""

    def __init__(self, folder: Path) -> None:
        library = folder / "library"
        (library / "disks").mkdir(parents=True)
        self.folder = folder
        self.disk = ChangingDisk.made(folder, library / "disks/data.img")
        self.appliance = Appliance(library, disks=[Disk("data", "24 MiB")], cartridges=6)
        self.restored = folder / "restored"
        self.restored.mkdir()

    def send(self) -> None:
        """What was changed goes to the library."""
        with logged_in(self.appliance, "data") as device:
            self.disk.send(device)

    def back_up(self, barcode: str, **options: Any) -> Any:
        self.send()
        report = self.appliance.call("backup.start", disks=["data"], to=[barcode], **options)
        assert report["state"] == "done", report
        return report

    def members(self, barcode: str) -> list[str]:
        """The names in an archive."""
        with tarfile.open(first_file(self.appliance, barcode), mode="r|", bufsize=TAPE_BLOCK) as tar:
            return [member.name.removeprefix("data/") for member in tar]

    def extract(self, barcode: str) -> None:
        """As docs/backup.md says, over what is there already."""
        archive = first_file(self.appliance, barcode)
        run("tar", "-b", "512", "-xpGf", archive, "-C", self.restored, "--xattrs", "--xattrs-include=*", "--acls")

    def check(self) -> None:
        self.disk.check_restored(self.restored / "data")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    if made.appliance.is_running():
        made.appliance.stop()


def fill(disk: ChangingDisk) -> None:
    noise = random.Random(3)
    disk.make_directory("folder")
    disk.make_directory("folder/deep")
    for name in ("kept", "replaced", "gone", "folder/renamed", "folder/deep/in-place", "linked"):
        disk.write(name, noise.randbytes(150_000))
    disk.hard_link("folder/link", "linked")
    disk.symbolic_link("folder/symbolic", "../kept")


def test_only_what_has_changed_is_written(site: Site) -> None:
    fill(site.disk)
    full = site.back_up(CARTRIDGES[0])
    assert (full["since"], full["full_because"]) == (None, "")
    site.extract(CARTRIDGES[0])
    site.disk.write("replaced", b"another")
    site.disk.remove("gone")
    site.disk.rename("folder/renamed", "folder/deep/renamed")
    site.disk.change_in_place("folder/deep/in-place", 70_000, b"not a time has changed")
    site.disk.write("new", b"new")
    report = site.back_up(CARTRIDGES[1], incremental=True)
    assert (report["since"], report["full_because"]) == (full["number"], "")
    written = set(site.members(CARTRIDGES[1]))
    assert {"replaced", "new", "folder/deep/renamed", "folder/deep/in-place", "folder", "folder/deep"} <= written
    listed = run(which("bsdtar"), "-b", "512", "-tf", first_file(site.appliance, CARTRIDGES[1])).splitlines()
    assert {name.rstrip("/").removeprefix("data/") for name in listed} == written
    assert "gone" not in written
    assert report["content_bytes"] < full["content_bytes"]
    site.extract(CARTRIDGES[1])
    site.check()


def test_what_has_not_changed_is_not_written_and_a_hard_link_goes_with_its_file(site: Site) -> None:
    fill(site.disk)
    site.back_up(CARTRIDGES[0])
    site.extract(CARTRIDGES[0])
    command = ["python", "-m", "appliance", "backup", "data", "--incremental", "--to", CARTRIDGES[1]]
    done = subprocess.run(
        [*command, "--config", str(site.appliance.config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "an increment: what has changed since backup 1" in done.stdout
    assert "tar -b 512 -xpGf /dev/nst0" in done.stdout
    assert sorted(site.members(CARTRIDGES[1])) == ["data", "folder", "folder/deep", "lost+found"]
    site.disk.change_in_place("linked", 0, b"in place")
    site.back_up(CARTRIDGES[2], incremental=True)
    assert {"linked", "folder/link"} <= set(site.members(CARTRIDGES[2]))
    site.extract(CARTRIDGES[2])
    site.check()


def test_the_catalogue_knows_the_files_of_each_instant(site: Site) -> None:
    fill(site.disk)
    site.back_up(CARTRIDGES[0])
    site.disk.remove("gone")
    site.disk.write("new", b"new")
    site.back_up(CARTRIDGES[1], incremental=True)
    site.disk.remove("kept")
    site.disk.write("replaced", b"another")
    site.back_up(CARTRIDGES[2], incremental=True)

    def shown(number: int) -> dict[str, tuple[int, str]]:
        rows = site.appliance.call("catalogue.show", number=number)
        return {
            row["name"].removeprefix("data/"): (row["backup"], row["places"][0]["cartridge"])
            for row in rows
            if row["kind"] == "file"
        }

    first, second, third = shown(1), shown(2), shown(3)
    assert (first["gone"], first["kept"], "new" in first) == ((1, CARTRIDGES[0]), (1, CARTRIDGES[0]), False)
    assert (second["new"], "gone" in second) == ((2, CARTRIDGES[1]), False)
    assert len([name for name in second if second[name] == (1, CARTRIDGES[0])]) >= 3
    assert (third["new"], third["replaced"]) == ((2, CARTRIDGES[1]), (3, CARTRIDGES[2]))
    assert "kept" not in third and "gone" not in third
    assert site.appliance.call("verify", number=3, disks=True)["equal"]
    assert site.appliance.call("verify", number=3)["equal"]
    with pytest.raises(OperatorError, match="backup 2 is an increment that rests on backup 1; delete that one first"):
        site.appliance.call("backup.delete", number=1)


def test_an_increment_is_read_back_from_its_tape(site: Site) -> None:
    fill(site.disk)
    site.back_up(CARTRIDGES[0])
    site.disk.write("new", b"new")
    site.back_up(CARTRIDGES[1], incremental=True)
    before = site.appliance.call("catalogue.show", number=2)
    site.appliance.stop()
    for catalogue in (site.appliance.folder / "state/catalogues").glob("*.db"):
        catalogue.unlink()
    site.appliance.start()
    site.appliance.call("catalogue.rebuild", cartridges=[CARTRIDGES[1]])
    with pytest.raises(OperatorError, match="there is no catalogue"):
        site.appliance.call("catalogue.show", number=2)
    site.appliance.call("catalogue.rebuild", cartridges=[CARTRIDGES[0]])
    assert site.appliance.call("catalogue.show", number=2) == before
    assert site.back_up(CARTRIDGES[2], incremental=True)["since"] == 2
    assert "new" not in site.members(CARTRIDGES[2])


def test_an_increment_since_one_that_is_named(site: Site) -> None:
    fill(site.disk)
    site.back_up(CARTRIDGES[0])
    site.disk.write("new", b"new")
    site.back_up(CARTRIDGES[1], incremental=True)
    site.extract(CARTRIDGES[0])
    site.back_up(CARTRIDGES[2], since=1)
    assert "new" in site.members(CARTRIDGES[2])
    site.extract(CARTRIDGES[2])
    site.check()
    for given, why in ((7, "there is no backup 7"), (0, "must be at least 1")):
        with pytest.raises(OperatorError, match=why):
            site.appliance.call("backup.start", disks=["data"], to=[CARTRIDGES[3]], since=given)
    with pytest.raises(OperatorError, match="of other disks or files"):
        site.appliance.call("backup.start", disks=["data"], to=[CARTRIDGES[3]], since=1, raw=True)


def is_full(site: Site, barcode: str, why: str) -> None:
    report = site.back_up(barcode, incremental=True)
    assert (report["since"], why in report["full_because"]) == (None, True), report["full_because"]
    assert report["content_bytes"] == 6 * 150_000


def test_what_forces_a_full_backup(site: Site) -> None:
    fill(site.disk)
    is_full(site, CARTRIDGES[0], "there is no backup of the same files")
    site.appliance.stop()
    site.appliance.start()
    assert site.back_up(CARTRIDGES[1], incremental=True)["since"] == 1  # a clean stop loses nothing
    site.appliance.kill()
    site.appliance.start()
    is_full(site, CARTRIDGES[2], "the last daemon did not stop cleanly")
    site.appliance.call("disk.grow", name="data", size="32 MiB")
    is_full(site, CARTRIDGES[3], "the disk has another size")
    site.appliance.stop()
    (site.appliance.folder / "state/data.changes").unlink()
    site.appliance.start()
    is_full(site, CARTRIDGES[4], "only a full copy will do")
    assert site.back_up(CARTRIDGES[5], incremental=True)["since"] == 5


def test_an_increment_goes_on_where_it_was_cancelled(site: Site) -> None:
    fill(site.disk)
    site.back_up(CARTRIDGES[0])
    site.extract(CARTRIDGES[0])
    site.disk.write("new", random.Random(5).randbytes(1 << 20))
    site.send()
    options = {"disks": ["data"], "incremental": True}
    assert "holds something else" in site.appliance.call("backup.start", to=[CARTRIDGES[0]], **options)["reason"]
    insisted = site.appliance.call("backup.resume", number=2, overwrite=True)
    assert "holds backup 1, which this increment rests on" in insisted["reason"]
    report = site.appliance.call("backup.resume", number=2, to=[CARTRIDGES[1]])
    assert (report["state"], report["since"]) == ("done", 1), report
    site.extract(CARTRIDGES[1])
    site.check()


def test_the_names_of_a_very_large_directory(tmp_path: Path) -> None:
    """GNU tar removes what is gone from it, and Python reads on; bsdtar takes no more than 1 MiB of names."""
    names = [b"%060d" % number for number in range(20_000)]
    directory = Entry(b"large", Kind.DIRECTORY, 0o755)
    directory.dumpdir = b"".join(b"N" + name + b"\0" for name in names[1:]) + b"\0"
    archive = tmp_path / "archive.tar"
    archive.write_bytes(pax.header(directory) + pax.header(Entry(b"large/last", Kind.FILE, 0o644)) + bytes(TAPE_BLOCK))
    assert len(directory.dumpdir) > 1 << 20
    restored = tmp_path / "restored"
    (restored / "large").mkdir(parents=True)
    for name in names[:2]:
        (restored / "large" / name.decode()).touch()
    run("tar", "-b", "512", "-xpGf", archive, "-C", restored)
    assert {path.name for path in (restored / "large").iterdir()} == {names[1].decode(), "last"}
    with tarfile.open(archive, mode="r|", bufsize=TAPE_BLOCK) as tar:
        assert [member.name for member in tar] == ["large", "large/last"]


@pytest.mark.timeout(120 + 10 * RANDOM_INCREMENTS)
def test_random_increments_are_restored_equal(site: Site) -> None:
    """By hand: TAPEBAY_TEST_INCREMENTS=1000."""
    print(f"TAPEBAY_TEST_SEED={SEED}")
    choose = random.Random(SEED)
    fill(site.disk)
    site.back_up(CARTRIDGES[0])
    site.extract(CARTRIDGES[0])
    for number in range(RANDOM_INCREMENTS):
        site.disk.change_at_random(choose)
        site.appliance.call("cartridge.create", barcode=f"I{number:05}L6")
        assert site.back_up(f"I{number:05}L6", incremental=True)["full_because"] == ""
        site.extract(f"I{number:05}L6")
        site.check()
        site.appliance.call("move", cartridge=f"I{number:05}L6", to="shelf")
