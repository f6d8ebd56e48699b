"""From tape to a new disk: images with and without holes, over two cartridges, and what is not right."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from appliance.failures import OperatorError
from datamover.initiator import InitiatorSession
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import RESERVE_6, TEST_UNIT_READY, UNIT_ATTENTION, Device, write_10
from tests.unit.backup.changing_disk import logged_in
from tests.unit.backup.support import TAPE_BLOCK
from tests.unit.backup.test_file_systems import gpt
from tests.unit.backup.test_job import BARCODE, MEBIBYTE
from vlib_images.cartridge.cartridge import Cartridge

SECOND = "TST002L6"


@pytest.fixture
def library(tmp_path: Path) -> Appliance:  # type: ignore[misc]
    """Disks of noise: one full, one with holes whose edges are nowhere near a block of tape."""
    noise = random.Random(7)
    disks = tmp_path / "disks"
    disks.mkdir()
    (disks / "full.img").write_bytes(noise.randbytes(9 * MEBIBYTE))
    with (disks / "holes.img").open("wb") as image:
        image.truncate(40 * MEBIBYTE)
        for offset, length in ((0, 4096), (5 * MEBIBYTE + 4096, 700 * 1024), (39 * MEBIBYTE, 8192)):
            image.seek(offset)
            image.write(noise.randbytes(length))
    made = Appliance(tmp_path, disks=[Disk("full", "9 MiB"), Disk("holes", "40 MiB")], cartridges=4)
    yield made
    made.stop()


@pytest.mark.parametrize("disk", ["full", "holes"])
@pytest.mark.parametrize("block_size", [512, 4096])
def test_a_disk_is_made_anew(library: Appliance, disk: str, block_size: int) -> None:
    report = library.call("backup.start", disks=[disk], to=[BARCODE], raw=True)
    made = library.call("restore", number=report["number"], to_disk="again", block_size=block_size)
    original, again = (library.folder / f"disks/{name}.img" for name in (disk, "again"))
    assert again.read_bytes() == original.read_bytes()
    assert (made["file"], made["size_bytes"], made["served"]) == (f"{disk}.img", original.stat().st_size, True)
    assert again.stat().st_blocks <= original.stat().st_blocks + 64
    assert next(row for row in library.call("disk.list") if row["name"] == "again")["block_size"] == block_size
    with pytest.raises(OperatorError, match="a device again already"):
        library.call("restore", number=report["number"], to_disk="again")


def test_one_of_two_images_is_named(library: Appliance) -> None:
    number = library.call("backup.start", disks=["full", "holes"], to=[BARCODE], raw=True)["number"]
    with pytest.raises(OperatorError, match="has 2 files; name the one"):
        library.call("restore", number=number, to_disk="again")
    with pytest.raises(OperatorError, match="has no plain file nothing"):
        library.call("restore", number=number, file="nothing", to_disk="again")
    library.call("restore", number=number, file="holes.img", to_disk="again")
    assert (library.folder / "disks/again.img").read_bytes() == (library.folder / "disks/holes.img").read_bytes()


def test_an_image_over_two_cartridges(tmp_path: Path) -> None:
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks/large.img").write_bytes(os.urandom(30 * MEBIBYTE))
    with Appliance(tmp_path, disks=[Disk("large", "30 MiB")], cartridges=0) as library:
        for barcode in (BARCODE, SECOND):
            library.call("cartridge.create", barcode=barcode, capacity="24 MiB")
        report = library.call("backup.start", disks=["large"], to=[BARCODE, SECOND], raw=True)
        assert (report["state"], len(report["volumes"])) == ("done", 2), report
        library.call("restore", number=report["number"], to_disk="again")
        assert (tmp_path / "disks/again.img").read_bytes() == (tmp_path / "disks/large.img").read_bytes()


def write_noise(library: Appliance, disk: str, count: int) -> None:
    """A host overwrites the beginning of a disk."""
    with logged_in(library, disk) as device:
        for at in range(0, count, 64):
            assert device.command(write_10(at, 64), os.urandom(64 * 512)).status == 0


@pytest.mark.parametrize("disk", ["full", "holes"])
def test_a_disk_is_overwritten_with_what_it_was(library: Appliance, disk: str) -> None:
    number = library.call("backup.start", disks=[disk], to=[BARCODE], raw=True)["number"]
    image = library.folder / f"disks/{disk}.img"
    before = image.read_bytes()
    write_noise(library, disk, 8 * MEBIBYTE // 512)
    assert image.read_bytes() != before
    planned = library.call("restore", number=number, over=disk, dry_run=True)
    assert (planned["dry_run"], f"over disk {disk}: bytes 0 to {len(before)}" in planned["plan"][1]) == (True, True)
    assert image.read_bytes() != before
    made = library.call("restore", number=number, over=disk)
    assert (made["disk"], made["size_bytes"]) == (disk, len(before))
    assert image.read_bytes() == before
    after = library.call("backup.start", disks=[disk], to=["TST003L6"], raw=True, incremental=True)
    assert (after["since"], "the disk was restored" in after["full_because"]) == (None, True)
    write_noise(library, disk, 64)  # it is everybody's again


def test_increments_of_an_image(library: Appliance) -> None:
    """Only chunks that were written; each instant is restored, as a new disk and over the old one."""
    image, noise, instants = library.folder / "disks/holes.img", random.Random(11), []
    for number in range(1, 5):
        report = library.call(
            "backup.start", disks=["holes"], to=[f"TST00{number}L6"], raw=True, incremental=number > 1
        )
        assert (report["state"], report["since"]) == ("done", number - 1 if number > 1 else None), report
        assert number == 1 or report["content_bytes"] <= 5 * 65536
        instants.append(image.read_bytes())
        with logged_in(library, "holes") as device:
            for _ in range(5):
                at = noise.randrange(40 * MEBIBYTE // 512)
                assert device.command(write_10(at, 1), noise.choice([bytes(512), noise.randbytes(512)])).status == 0
    assert len(set(instants)) == 4
    for number, before in enumerate(instants, start=1):
        library.call("restore", number=number, to_disk=f"instant{number}")
        assert (library.folder / f"disks/instant{number}.img").read_bytes() == before
    assert library.call("restore", number=3, file="holes.img", over="holes", dry_run=True)["plan"][0].endswith(
        "from TST001L6, TST002L6, TST003L6"
    )
    library.call("restore", number=3, over="holes")
    assert image.read_bytes() == instants[2]
    assert library.call("verify", number=3)["equal"]
    with pytest.raises(OperatorError, match="has the changes only; verify its tapes"):
        library.call("verify", number=3, disks=True)


def test_a_disk_that_is_used_is_left_alone(library: Appliance) -> None:
    number = library.call("backup.start", disks=["full"], to=[BARCODE], raw=True)["number"]
    write_noise(library, "full", 64)
    changed = (library.folder / "disks/full.img").read_bytes()
    over = {"number": number, "over": "full"}
    with InitiatorSession(library.portal, library.target_name) as session:
        device = Device(session, library.lun("full"))
        with pytest.raises(OperatorError, match="is logged in to it, and may have it mounted"):
            library.call("restore", **over)
        assert any(
            "is refused, without --force" in line for line in library.call("restore", dry_run=True, **over)["plan"]
        )
        assert device.command(RESERVE_6).status == 0
        with pytest.raises(OperatorError, match=r"^there is no drive no; see: "):  # before anybody is cut off
            library.call("restore", force=True, drive="no", **over)
        with pytest.raises(OperatorError, match=r"disk full is in use: .*reserve"):
            library.call("restore", **over)
        assert (library.folder / "disks/full.img").read_bytes() == changed
        library.call("restore", force=True, **over)
        told = [device.command(TEST_UNIT_READY).sense for _ in range(2)]
        assert {(sense[2] & 0xF, sense[12], sense[13]) for sense in told} == {
            (UNIT_ATTENTION, 0x2A, 0x03), (UNIT_ATTENTION, 0x28, 0x00),
        }  # fmt: skip
        assert device.command(TEST_UNIT_READY).status == 0
    assert (library.folder / "disks/full.img").read_bytes() != changed


def test_a_partition_is_overwritten_alone(library: Appliance) -> None:
    number = library.call("backup.start", disks=["full"], to=[BARCODE], raw=True)["number"]
    image = library.folder / "disks/holes.img"
    parts = [(2048, os.urandom(MEBIBYTE)), (8192, os.urandom(10 * MEBIBYTE))]
    with image.open("r+b") as disk:
        disk.write(gpt(parts, 40 * MEBIBYTE // 512, 512))
    before = image.read_bytes()
    with pytest.raises(OperatorError, match="an image of 9 MiB does not fit into partition 1 of disk holes"):
        library.call("restore", number=number, over="holes", partition=1)
    with pytest.raises(OperatorError, match="disk holes has no partition 3; it has 1, 2"):
        library.call("restore", number=number, over="holes", partition=3)
    made = library.call("restore", number=number, over="holes", partition=2)
    assert "the last 1 MiB of partition 2 of disk holes stay as they are" in made["plan"]
    full, start = (library.folder / "disks/full.img").read_bytes(), 8192 * 512
    expected = before[:start] + full + before[start + len(full) :]
    assert image.read_bytes() == expected


def test_where_to_has_to_be_said(library: Appliance) -> None:
    number = library.call("backup.start", disks=["full"], to=[BARCODE], raw=True)["number"]
    for given, why in (
        ({}, "say where to"), ({"to_disk": "new", "over": "full"}, "say where to"),
        ({"to_disk": "new", "partition": 1}, "--partition goes with"), ({"over": "none"}, "there is no disk none"),
    ):  # fmt: skip
        with pytest.raises(OperatorError, match=why):
            library.call("restore", number=number, **given)
    command = ["python", "-m", "appliance", "restore", str(number), "--over", "full", "--config", str(library.config)]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (asked.returncode, "over disk full: bytes 0 to" in asked.stderr) == (2, True), asked.stderr
    assert "Overwrite full? What is on it is lost." in asked.stderr
    done = subprocess.run([*command, "--yes"], capture_output=True, text=True, check=False)
    assert (done.returncode, "with the right CRC32C" in done.stdout) == (0, True), done.stderr


def test_a_tape_that_is_not_what_was_written_makes_no_disk(library: Appliance) -> None:
    number = library.call("backup.start", disks=["full"], to=[BARCODE], raw=True)["number"]
    library.call("backup.start", disks=["holes"], to=[SECOND], raw=True)
    library.stop()
    with Cartridge.open(library.folder / "cartridges" / BARCODE) as cartridge:  # as an initiator may write
        for _ in range(40):
            cartridge.write_block(os.urandom(TAPE_BLOCK))
    library.start()
    with pytest.raises(OperatorError, match="nothing was restored"):
        library.call("restore", number=number, to_disk="again")
    assert not (library.folder / "disks/again.img").exists()
    assert [row["name"] for row in library.call("disk.list")] == ["full", "holes"]
    library.call("restore", number=number + 1, to_disk="again")
