"""Making and growing disks: the image, and what the library keeps; tapebay.toml is the operator's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.failures import Failure, OperatorError, explained
from appliance.library import disk_making, disks
from appliance.library.files import LibraryFiles
from appliance.operations import setup
from appliance.progress import no_progress
from appliance.settings import config_file
from tests.support import packages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))


@pytest.fixture
def files(path: Path) -> Iterator[LibraryFiles]:
    before = path.read_bytes()
    with LibraryFiles.open(config_file.load(path)) as files:
        yield files
    assert path.read_bytes() == before


def test_a_disk_is_made_and_kept(path: Path) -> None:
    with LibraryFiles.open(config_file.load(path)) as files:
        made = disk_making.create(files, "backup", "10 GiB", block_size=4096, removable=True)
        assert made["stored_bytes"] == 0
        assert disk_making.create(files, "second", "1 MiB")["name"] == "second"
    with LibraryFiles.open(config_file.load(path)) as again:
        settings = again.settings
    first, second = settings.disks
    assert (first.name, first.size, first.block_size, first.removable, first.read_only) == (
        "backup", 10 << 30, 4096, True, False,
    )  # fmt: skip
    assert settings.image_of(first) == path.parent / "disks" / "backup.img"
    assert settings.image_of(first).stat().st_size == 10 << 30
    assert second.name == "second"
    assert list(settings.lun_map(settings.targets[0]).items())[-2:] == [(3, "backup"), (4, "second")]


@pytest.mark.parametrize(
    ("name", "size", "failure", "said"),
    [
        ("backup", "1 GiB", Failure.REFUSED, "there is a device backup already"),
        ("drive0", "1 GiB", Failure.REFUSED, "there is a device drive0 already"),
        ("Upper", "1 GiB", Failure.USAGE, "^name: 'Upper' is not a device name"),
        ('x"\\n[evil]', "1 GiB", Failure.USAGE, "not a device name"),
        ("other", "many", Failure.USAGE, "^size: 'many' is not a size"),
        ("other", "5", Failure.USAGE, "^size: '5' is 5 B; the least is 1 MiB"),
        ("other", "2000000", Failure.USAGE, "not a multiple of block_size"),
    ],
)
def test_what_cannot_be_made_changes_nothing(
    files: LibraryFiles, name: str, size: str, failure: Failure, said: str
) -> None:
    disk_making.create(files, "backup", "1 MiB")
    before = files.contents.content
    with pytest.raises(OperatorError, match=said) as caught:
        disk_making.create(files, name, size)
    assert caught.value.failure is failure
    assert files.contents.content == before
    assert [image.name for image in files.settings.library.disks.iterdir()] == ["backup.img"]


def test_an_image_that_exists_is_left_alone(files: LibraryFiles) -> None:
    image = files.settings.library.disks / "backup.img"
    image.write_bytes(b"precious")
    with pytest.raises(OperatorError, match="exists already"):
        disk_making.create(files, "backup", "1 MiB")
    assert image.read_bytes() == b"precious"
    assert files.settings.disks == []


def test_a_missing_image_is_said(files: LibraryFiles) -> None:
    made = disk_making.create(files, "backup", "1 MiB")
    Path(made["image"]).unlink()
    assert disks.describe(files.settings, disks.KnownDisks(files.store))[0]["stored_bytes"] is None


def test_a_size_with_a_unit_is_rounded_up_to_whole_blocks(files: LibraryFiles) -> None:
    assert disk_making.create(files, "a", "1.5G")["size_bytes"] == 1_500_000_256
    assert disk_making.create(files, "b", "500 GB")["size_bytes"] == 500_000_000_000
    assert disk_making.create(files, "c", "500 GB", block_size=4096)["size_bytes"] == 500_000_002_048
    assert disk_making.grow(files, "a", "2.5G", None)["size_bytes"] == 2_500_000_256
    with pytest.raises(OperatorError, match="not a multiple of block_size 512; write 2600000000"):
        disk_making.grow(files, "a", "2599999999", None)


def test_a_size_that_the_file_system_cannot_hold_changes_nothing(files: LibraryFiles) -> None:
    disk_making.create(files, "d", "1 MiB")
    attempts = (lambda: disk_making.create(files, "e", "7 EiB"), lambda: disk_making.grow(files, "d", "7 EiB", None))
    for attempt in attempts:
        with pytest.raises(OSError, match="too large") as caught:
            attempt()
        assert "holds no file of that size; choose a smaller one" in explained(caught.value)
    (disk,) = files.settings.disks
    assert (disk.name, disk.size) == ("d", 1 << 20)
    assert files.settings.image_of(disk).stat().st_size == 1 << 20


def test_a_disk_grows_and_no_other(files: LibraryFiles) -> None:
    for name in ("first", "second", "third"):
        disk_making.create(files, name, "1 MiB")
    grown = disk_making.grow(files, "second", "2 MiB", None)
    assert (grown["name"], grown["size_bytes"]) == ("second", 2 << 20)
    assert [disk.size for disk in files.settings.disks] == [1 << 20, 2 << 20, 1 << 20]
    for size, said in [("2 MiB", "can only grow"), ("1 MiB", "can only grow"), ("3000000", "not a multiple")]:
        with pytest.raises(OperatorError, match=said):
            disk_making.grow(files, "second", size, None)
    with pytest.raises(OperatorError, match="no disk other"):
        disk_making.grow(files, "other", "1 GiB", None)


def test_a_disk_whose_size_was_its_images_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "tapebay.toml"
    path.write_text(
        '[[portals]]\nlisten="127.0.0.1:0"\n[[targets]]\niqn="iqn.2026-11.io.tapebay:l"\n[[disks]]\nname="d"\n'
    )
    settings = config_file.load(path)
    disks.make_image(settings.image_of(settings.disks[0]), 1 << 20)
    with LibraryFiles.create(settings) as files:
        with pytest.raises(OperatorError, match="can only grow"):
            disk_making.grow(files, "d", "1 MiB", None)
        disk_making.grow(files, "d", "2 MiB", None)
        image = disks.open_image(files.settings.disks[0], files.settings.image_of(files.settings.disks[0]))
        assert image.size_bytes == 2 << 20
        image.close()


def test_import_and_export(files: LibraryFiles, tmp_path: Path) -> None:
    packages.require("qemu-utils")
    first = disk_making.create(files, "first", "4 MiB")
    with Path(first["image"]).open("r+b") as file:
        file.write(b"content" * 100_000)
    exported = tmp_path / "out.qcow2"
    seen: list[tuple[int, int]] = []
    disk_making.export_disk(files.settings, "first", exported, "qcow2", progress=lambda *step: seen.append(step))
    assert seen and seen[-1] == (4 << 20, 4 << 20)
    seen.clear()
    made = disk_making.import_disk(files, "second", exported, block_size=4096, progress=lambda *step: seen.append(step))
    assert seen and all(total == 4 << 20 for _, total in seen)
    assert (made["name"], made["size_bytes"], made["block_size"]) == ("second", 4 << 20, 4096)
    assert Path(made["image"]).read_bytes() == Path(first["image"]).read_bytes()
    with pytest.raises(OperatorError, match="is none of"):
        disk_making.export_disk(files.settings, "first", tmp_path / "x", "zip", progress=no_progress)
    (tmp_path / "junk.qcow2").write_bytes(b"QFI\xfb" + b"\xff" * 100)
    before = files.contents.content
    with pytest.raises(OperatorError, match="qemu-img"):
        disk_making.import_disk(files, "third", tmp_path / "junk.qcow2", progress=no_progress)
    assert files.contents.content == before
    served = disks.open_image(files.settings.disks[0], Path(first["image"]))
    with pytest.raises(OperatorError, match="stop the daemon first"):
        disk_making.export_disk(files.settings, "first", tmp_path / "again.qcow2", "qcow2", progress=no_progress)
    served.close()
