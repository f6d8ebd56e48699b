"""Making disks: the image and the section of tapebay.toml."""

from pathlib import Path

import pytest

from appliance.failures import OperatorError
from appliance.library import disks
from appliance.settings import config_file
from appliance.settings.config_file import ConfigError
from appliance.settings.template import Plan, render
from tests.support import packages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tapebay.toml"
    path.write_text(render(Plan(name="lib", portal="127.0.0.1:0")))
    return path


def test_a_disk_is_made_and_configured(path: Path) -> None:
    before = path.read_text()
    path.chmod(0o600)
    made = disks.create(path, "backup", "10 GiB", block_size=4096, removable=True)
    assert path.read_text().startswith(before.rstrip())
    assert path.stat().st_mode & 0o777 == 0o600
    settings = config_file.load(path)
    (disk,) = settings.disks
    assert (disk.name, disk.size, disk.block_size, disk.removable, disk.read_only) == (
        "backup", 10 << 30, 4096, True, False,
    )  # fmt: skip
    assert settings.image_of(disk) == path.parent / "disks" / "backup.img"
    assert settings.image_of(disk).stat().st_size == 10 << 30
    assert made["stored_bytes"] == 0
    assert disks.create(path, "second", "1 MiB")["name"] == "second"
    assert [disk.name for disk in config_file.load(path).disks] == ["backup", "second"]


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("backup", "1 GiB", "given 2 times"),
        ("Upper", "1 GiB", "not a device name"),
        ('x"\\n[evil]', "1 GiB", "not valid TOML|not a device name"),
        ("other", "many", "not a size"),
        ("other", "1000", "not a multiple of block_size"),
    ],
)
def test_what_cannot_be_made_changes_nothing(path: Path, name: str, size: str, said: str) -> None:
    disks.create(path, "backup", "1 MiB")
    before = path.read_text()
    with pytest.raises(ConfigError, match=said):
        disks.create(path, name, size)
    assert path.read_text() == before
    assert [image.name for image in (path.parent / "disks").iterdir()] == ["backup.img"]


def test_an_image_that_exists_is_left_alone(path: Path) -> None:
    image = path.parent / "disks" / "backup.img"
    image.parent.mkdir()
    image.write_bytes(b"precious")
    before = path.read_text()
    with pytest.raises(OperatorError, match="exists already"):
        disks.create(path, "backup", "1 MiB")
    assert image.read_bytes() == b"precious"
    assert path.read_text() == before


def test_a_missing_image_is_said(path: Path) -> None:
    disks.create(path, "backup", "1 MiB")
    (path.parent / "disks" / "backup.img").unlink()
    assert disks.describe(config_file.load(path))[0]["stored_bytes"] is None


def test_a_disk_grows_in_its_own_section_only(path: Path) -> None:
    for name in ("first", "second", "third"):
        disks.create(path, name, "1 MiB")
    path.write_text(path.read_text().replace("# image", "  # a comment that stays\n# image"))
    before = path.read_text()
    grown = disks.grow(path, "second", "2 MiB")
    assert (grown["name"], grown["size_bytes"]) == ("second", 2 << 20)
    assert [disk.size for disk in config_file.load(path).disks] == [1 << 20, 2 << 20, 1 << 20]
    changed = [
        pair for pair in zip(before.splitlines(), path.read_text().splitlines(), strict=True) if len(set(pair)) > 1
    ]
    assert changed == [('size = "1 MiB"', 'size = "2 MiB"')]
    for size in ("2 MiB", "1 MiB"):
        with pytest.raises(OperatorError, match="can only grow"):
            disks.grow(path, "second", size)
    with pytest.raises(OperatorError, match="no disk other"):
        disks.grow(path, "other", "1 GiB")
    with pytest.raises(ConfigError, match="not a multiple"):
        disks.grow(path, "second", "3000000")


def test_a_disk_whose_size_was_its_images_gets_one(path: Path) -> None:
    disks.create(path, "first", "1 MiB")
    path.write_text(path.read_text().replace('size = "1 MiB"\n', ""))
    assert config_file.load(path).disks[0].size is None
    with pytest.raises(OperatorError, match="can only grow"):
        disks.grow(path, "first", "1 MiB")
    disks.grow(path, "first", "2 MiB")
    settings = config_file.load(path)
    image = disks.open_image(settings.disks[0], settings.image_of(settings.disks[0]))
    assert image.size_bytes == 2 << 20
    image.close()


def test_disks_in_another_of_tomls_ways_are_left_to_the_operator(path: Path) -> None:
    text = path.read_text()
    path.write_text('disks = [{ name = "first", size = "1 MiB" }]\n' + text)
    before = path.read_text()
    with pytest.raises(OperatorError, match="by hand"):
        disks.grow(path, "first", "2 MiB")
    assert path.read_text() == before


def test_import_and_export(path: Path, tmp_path: Path) -> None:
    packages.require("qemu-utils")
    disks.create(path, "first", "1 MiB")
    settings = config_file.load(path)
    image = settings.image_of(settings.disks[0])
    with image.open("r+b") as file:
        file.write(b"content")
    exported = tmp_path / "out.qcow2"
    assert disks.export_disk(settings, "first", exported, "qcow2")["image"] == str(exported)
    made = disks.import_disk(path, "second", exported, block_size=4096)
    assert (made["name"], made["size_bytes"], made["block_size"]) == ("second", 1 << 20, 4096)
    assert Path(made["image"]).read_bytes() == image.read_bytes()
    with pytest.raises(OperatorError, match="is none of"):
        disks.export_disk(settings, "first", tmp_path / "x", "zip")
    (tmp_path / "junk.qcow2").write_bytes(b"QFI\xfb" + b"\xff" * 100)
    before = path.read_text()
    with pytest.raises(OperatorError, match="qemu-img"):
        disks.import_disk(path, "third", tmp_path / "junk.qcow2")
    assert path.read_text() == before
    served = disks.open_image(settings.disks[0], image)
    with pytest.raises(OperatorError, match="stop the daemon first"):
        disks.export_disk(settings, "first", tmp_path / "again.qcow2", "qcow2")
    served.close()
