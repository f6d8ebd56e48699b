"""Links and other strange things in the directories of a library: nothing outside is touched, and serving goes on."""

import shutil
from pathlib import Path

import pytest

from appliance.failures import OperatorError
from appliance.library.files import LibraryFiles
from appliance.operations import setup
from appliance.settings import config_file
from appliance.settings.settings import Settings
from tests.unit.appliance.offline import offline


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0", slots=4))
    offline(path, "cartridge.create", barcode="A00001L6")
    return config_file.load(path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    (path / "precious").write_text("precious")
    return path


@pytest.mark.parametrize("name", [".new-A00002L6", ".incoming-A00002L6", ".deleted-A00002L6"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_leftover_names_lead_nowhere(settings: Settings, elsewhere: Path, name: str, kind: str) -> None:
    path = settings.library.cartridges / name
    if kind == "file":
        path.write_text("x")
    else:
        path.symlink_to(elsewhere if kind == "link" else elsewhere / "nothing")
    config = settings.directory / "tapebay.toml"
    offline(config, "cartridge.create", barcode="A00002L6")
    assert {row["barcode"] for row in offline(config, "cartridge.list")} == {"A00001L6", "A00002L6"}
    assert (elsewhere / "precious").read_text() == "precious"
    assert not path.is_symlink()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_only_has_the_name_of_a_cartridge_is_none(settings: Settings, tmp_path: Path, kind: str) -> None:
    cartridges = settings.library.cartridges
    if kind == "link":
        shutil.copytree(cartridges / "A00001L6", tmp_path / "other")
        (cartridges / "B00001L6").symlink_to(tmp_path / "other")
    else:
        (cartridges / "B00001L6").write_text("x")
    with LibraryFiles.open(settings) as files:
        assert files.inventory.barcodes() == ["A00001L6"]
        assert not files.cartridges.has("B00001L6")
        (line,) = files.cartridges.reconcile(files.inventory)
        assert "B00001L6 is not taken for a cartridge" in line
    with pytest.raises(OperatorError, match="exists already"):
        offline(settings.directory / "tapebay.toml", "cartridge.create", barcode="B00001L6")
    assert (cartridges / "B00001L6").is_symlink() == (kind == "link")


def test_state_is_not_written_through_a_link(settings: Settings, elsewhere: Path) -> None:
    for name in ("inventory", "identity", "devices"):
        (settings.library.state / f".{name}.json.new").symlink_to(elsewhere / "precious")
    with LibraryFiles.open(settings) as files:
        files.store.put("inventory", "A00001L6", None)
        files.store.put("devices", "x", 1)
    assert (elsewhere / "precious").read_text() == "precious"


def test_the_state_directory_itself_may_be_a_link(settings: Settings, tmp_path: Path) -> None:
    settings.library.state.rename(tmp_path / "moved")
    settings.library.state.symlink_to(tmp_path / "moved")
    with LibraryFiles.open(settings) as files:
        files.store.put("devices", "x", 1)
        assert files.inventory.barcodes() == ["A00001L6"]
