"""A backup in a daemon of its own: a snapshot of a disk, an archive on a cartridge, a catalogue, an index; and what is
refused."""

import gzip
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from appliance.failures import Failure, OperatorError
from tests.support.appliance import Appliance, Disk
from tests.support.waiting import eventually
from tests.unit.backup.support import TAPE_BLOCK, archive_of, run, which
from vlib_images.cartridge.cartridge import Cartridge

MEBIBYTE = 1 << 20
BARCODE = "TST001L6"


def make_ext4(path: Path, tree: Path, mebibytes: int) -> None:
    with path.open("wb") as image:
        image.truncate(mebibytes * MEBIBYTE)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, path)


def fill(tree: Path, count: int, length: int) -> dict[str, bytes]:
    """Files with noise in them, by their names in the archive."""
    found = {}
    for number in range(count):
        path = tree / f"d{number % 5}" / f"file-{number:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(length + number * 13))
        found[f"data/{path.relative_to(tree)}"] = path.read_bytes()
    return found


@pytest.fixture
def site(tmp_path):
    """A library with a disk that holds an ext4 file system."""
    library, tree = tmp_path / "library", tmp_path / "tree"
    (library / "disks").mkdir(parents=True)
    files = fill(tree, 40, 20_000)
    make_ext4(library / "disks/data.img", tree, 64)
    appliance = Appliance(library, disks=[Disk("data", "64 MiB")], cartridges=4)
    appliance.expected = files
    yield appliance
    if appliance.is_running():
        appliance.stop()


def first_file(site: Appliance, barcode: str = BARCODE) -> Path:
    """The archive on a cartridge that is in a slot."""
    path = site.folder / f"{barcode}.tar"
    with Cartridge.open(site.folder / "cartridges" / barcode, read_only=True) as cartridge:
        return archive_of(cartridge, path)


def no_space_is_taken(site: Appliance) -> bool:
    """By snapshots, soon after the end: a thread of the snapshot closes its store."""
    return eventually(lambda: not list(site.folder.glob("**/*.snapshot")), despite=(FileNotFoundError,))


def files_in(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive, mode="r|", bufsize=TAPE_BLOCK) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def test_a_disk_is_backed_up_and_tar_reads_the_cartridge(site):
    report = site.call("backup.start", disks=["data"], to=[BARCODE])
    assert report["state"] == "done", report
    (volume,) = report["volumes"]
    assert (volume["number"], volume["barcode"], volume["closed"], volume["indexed"]) == (1, BARCODE, True, True)
    assert report["files"] == report["total_files"] == 40 + 5 + 2  # folders, lost+found and the root
    assert files_in(first_file(site)) == site.expected
    assert no_space_is_taken(site)
    assert site.call("backup.list")[0]["state"] == "done"
    assert next(row for row in site.call("status")["elements"] if row["barcode"] == BARCODE)["place"] == "slot:1"


def test_a_backup_stays_in_the_partition_of_its_cartridge(site):
    site.call("partition.create", name="a", slots="2-4", drives="drive0")
    site.call("partition.create", name="b", slots="1,5-20", drives="drive1")
    report = site.call("backup.start", disks=["data"], to=[BARCODE])
    assert report["state"] == "done", report
    assert next(row for row in site.call("status")["elements"] if row["barcode"] == BARCODE)["place"] == "slot:1"
    refused = site.call("backup.start", disks=["data"], to=[BARCODE], drive="drive0")
    assert (refused["state"], "or in another partition" in refused["reason"]) == ("failed", True)


def test_the_second_file_of_the_tape_is_the_index(site):
    site.call("backup.start", disks=["data"], to=[BARCODE])
    with Cartridge.open(site.folder / "cartridges" / BARCODE, read_only=True) as cartridge:
        archive_of(cartridge, site.folder / "first.tar")
        buffer, path = bytearray(TAPE_BLOCK), site.folder / "index.tar"
        with path.open("wb") as file:
            while (result := cartridge.read_block(buffer)).length:
                file.write(buffer[: result.length])
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["tapebay-index/backup.json", "tapebay-index/files.jsonl.gz"]
        lines = gzip.decompress(tar.extractfile("tapebay-index/files.jsonl.gz").read()).splitlines()
    found = [json.loads(line) for line in lines]
    assert {line["name"]: line["size"] for line in found if line["kind"] == "0"} == {
        name: len(data) for name, data in site.expected.items()
    }


def test_a_cartridge_that_holds_something_else_is_left_alone(site):
    site.call("backup.start", disks=["data"], to=[BARCODE])
    before = first_file(site).read_bytes()
    again = site.call("backup.start", disks=["data"], to=[BARCODE])
    assert (again["state"], "holds something else" in again["reason"]) == ("failed", True)
    assert first_file(site).read_bytes() == before
    insisted = site.call("backup.resume", number=again["number"], overwrite=True)
    assert insisted["state"] == "done"
    assert files_in(first_file(site)) == site.expected


def test_a_file_system_that_is_in_use_is_refused(site):
    site.stop()
    run(which("debugfs"), "-w", "-R", "feature needs_recovery", site.image("data"))
    site.start()
    report = site.call("backup.start", disks=["data"], to=[BARCODE])
    assert report["state"] == "failed"
    assert "its journal has to be replayed" in report["reason"]
    assert no_space_is_taken(site)
    image = site.call("backup.start", disks=["data"], to=["TST002L6"], raw=True)
    assert image["state"] == "done", image
    assert files_in(first_file(site, "TST002L6")) == {"data.img": site.image("data").read_bytes()}


def test_what_is_not_there_is_said_at_once(site):
    right = {"disks": ["data"], "to": [BARCODE]}
    for wrong, noun in (
        ({"disks": ["data", "no"]}, "disk"),
        ({"to": [BARCODE, "no"]}, "cartridge"),
        ({"drive": "no"}, "drive"),
    ):
        with pytest.raises(OperatorError, match=f"^there is no {noun} no; see: tapebay {noun} list$") as caught:
            site.call("backup.start", **right | wrong, background=True)
        assert caught.value.failure is Failure.NOT_FOUND
    site.call("disk.create", name="other", size="1 MiB")
    snapshot = site.call("snapshot.create", disks="data")["snapshot"]
    for raw in (False, True):
        with pytest.raises(OperatorError, match=f"snapshot {snapshot} has no disk other"):
            site.call("backup.start", **right | {"disks": ["other"]}, snapshot=snapshot, raw=raw)
    assert site.call("backup.list") == []


def test_the_command_line(site):
    done = subprocess.run(
        ["python", "-m", "appliance", "backup", "data", "--to", BARCODE, "--config", str(site.config)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "backup 1 of data: done" in done.stdout
    assert "Bytes over a server's network: 0" in done.stdout
