"""From tape to a new disk: images with and without holes, over two cartridges, and what is not right."""

import os
import random
from pathlib import Path

import pytest

from appliance.failures import OperatorError
from tests.support.appliance import Appliance, Disk
from tests.unit.backup.test_job import BARCODE, MEBIBYTE

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


def test_a_tape_that_is_not_what_was_written_makes_no_disk(library: Appliance) -> None:
    number = library.call("backup.start", disks=["full"], to=[BARCODE], raw=True)["number"]
    library.call("backup.start", disks=["holes"], to=[BARCODE], raw=True, overwrite=True)
    with pytest.raises(OperatorError, match="nothing was restored"):
        library.call("restore", number=number, to_disk="again")
    assert not (library.folder / "disks/again.img").exists()
    assert [row["name"] for row in library.call("disk.list")] == ["full", "holes"]
    library.call("restore", number=number + 1, to_disk="again")
