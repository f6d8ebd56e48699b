"""Making disks: the image and the section of tapebay.toml."""

from pathlib import Path

import pytest

from appliance import config_file, disks
from appliance.config_file import ConfigError
from appliance.failures import OperatorError
from appliance.template import Plan, render


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
