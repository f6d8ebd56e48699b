"""Images that were there before and are gone, cut or taken: that disk is refused with its reason, the rest served."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.failures import OperatorError
from appliance.library import disks
from appliance.library.check import problems_of
from appliance.library.library import Library
from appliance.operations import setup
from appliance.settings import config_file
from datamover.initiator import InitiatorSession
from scsi_targets.devices.disk.block_device import BlockDevice
from tests.support import packages
from tests.support.scsi import Device, inquiry, read_10, write_10
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.offline import offline
from vlib_images.disk.raw import DiskImage

SIZE = 1 << 20
NOT_READY, MANUAL_INTERVENTION_REQUIRED = 0x2, (0x04, 0x03)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A library with two disks, one, two, that was served once."""
    named = [("one", "1 MiB"), ("two", "1 MiB")]
    path = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0", disks=named))
    with opened(path):
        pass
    return path


@contextmanager
def opened(path: Path) -> Iterator[dict[str, BlockDevice]]:
    library = Library.open(config_file.load(path), apply=True)
    try:
        yield {name: unit for name, unit in library.units.items() if isinstance(unit, BlockDevice)}
    finally:
        library.close()


def problem(path: Path, name: str = "one") -> str:
    """Why a disk is not served; the other one is."""
    with opened(path) as units:
        assert [unit.loaded for key, unit in units.items() if key != name] == [True]
        assert not units[name].loaded
        return units[name].unavailable or ""


def image(path: Path, name: str = "one") -> Path:
    return path.parent / "disks" / f"{name}.img"


def test_a_missing_image_is_not_made_anew(path: Path) -> None:
    image(path).rename(image(path).with_suffix(".away"))
    assert "is missing; it had 1 MiB. Mount the file system" in problem(path)
    assert not image(path).exists()
    image(path).with_suffix(".away").rename(image(path))
    with opened(path) as units:
        assert units["one"].loaded


def test_an_unmounted_file_system_is_not_filled(path: Path) -> None:
    """All images are gone, and their directory too."""
    image(path).parent.rename(path.parent / "away")
    with opened(path) as units:
        assert [unit.loaded for unit in units.values()] == [False, False]
    assert not image(path).parent.exists()


def test_a_cut_image_is_not_filled_up(path: Path) -> None:
    os.truncate(image(path), SIZE - 4096)
    assert f"has {SIZE - 4096} bytes and had {SIZE}: it was cut short" in problem(path)
    assert image(path).stat().st_size == SIZE - 4096
    os.truncate(image(path), 0)
    assert "is empty" in problem(path)
    assert image(path).stat().st_size == 0


def test_what_the_message_says_helps(path: Path) -> None:
    for damage in (lambda: image(path).unlink(), lambda: os.truncate(image(path), 512)):
        damage()
        command = problem(path).rpartition(": ")[2].split()
        assert command[:2] == ["truncate", "-s"]
        with Path(command[3]).open("ab") as file:
            file.truncate(int(command[2]))
        with opened(path) as units:
            assert units["one"].loaded


def test_a_disk_grows_when_asked_and_is_remembered_as_grown(path: Path) -> None:
    offline(path, "disk.grow", name="one", size="2 MiB")
    with opened(path) as units:
        assert units["one"].medium.size_bytes == 2 << 20
    os.truncate(image(path), SIZE)
    assert "it was cut short" in problem(path)


def test_a_disk_that_grew_while_served_is_remembered_as_grown(path: Path) -> None:
    daemon = Daemon(path.parent)
    daemon.wait_ready()
    daemon.call("disk.grow", name="one", size="2 MiB")
    assert daemon.stop() == 0
    os.truncate(image(path), SIZE)
    assert "it was cut short" in problem(path)


def test_a_new_disk_is_remembered_before_it_is_first_served(path: Path) -> None:
    offline(path, "disk.create", name="three", size="1 MiB")
    image(path, "three").unlink()
    with opened(path) as units:
        assert [unit.loaded for unit in units.values()] == [True, True, False]


def test_a_disk_that_was_removed_does_not_haunt_a_new_one_of_its_name(path: Path) -> None:
    before = path.read_text()
    head, _, _ = before.rpartition("[[disks]]")
    path.write_text(head)
    image(path, "two").unlink()
    offline(path, "configuration.apply", prune=True)
    with opened(path) as units:
        assert list(units) == ["one"]
    path.write_text(before)
    with opened(path) as units:
        assert units["two"].loaded


def test_an_image_in_use_is_no_reason_to_serve_nothing(path: Path) -> None:
    other = DiskImage.open(image(path))
    assert "is in use by another process" in problem(path)
    other.close()


def test_a_link_that_leads_nowhere_is_said(path: Path, tmp_path: Path) -> None:
    image(path).rename(tmp_path / "elsewhere")
    image(path).symlink_to(tmp_path / "elsewhere")
    with opened(path) as units:
        assert units["one"].loaded
    (tmp_path / "elsewhere").unlink()
    assert "which is missing" in problem(path)
    assert not (tmp_path / "elsewhere").exists()


def test_an_image_too_small_for_a_block_is_no_crash(path: Path) -> None:
    path.write_text(path.read_text().replace('size = "1 MiB"', "block_size = 4096", 1))
    os.truncate(image(path), 1024)
    settings = config_file.load(path)
    with pytest.raises(OperatorError, match="less than a block"):
        disks.open_image(settings.disks[0], image(path))


def test_initiators_find_it_not_ready_and_the_operator_reads_why(path: Path) -> None:
    packages.require("libiscsi7")
    image(path).unlink()
    daemon = Daemon(path.parent)
    try:
        portal = daemon.wait_ready()["portals"][0]
        status = daemon.call("status")
        problems = {device["name"]: device["problem"] for device in status["devices"]}
        assert "is missing" in problems["one"]
        assert [name for name, said in problems.items() if said] == ["one"]
        luns = {name: int(lun) for lun, name in status["targets"][0]["luns"].items()}
        with InitiatorSession(portal, status["targets"][0]["iqn"], timeout_seconds=60) as session:
            lost, other = Device(session, luns["one"]), Device(session, luns["two"])
            for cdb, data in ((bytes(6), None), (read_10(0, 1), None), (write_10(0, 1), bytes(512))):
                result = lost.command(cdb, data, 0 if data else 512)
                assert (result.sense[2] & 0xF, (result.sense[12], result.sense[13])) == (
                    NOT_READY,
                    MANUAL_INTERVENTION_REQUIRED,
                )
            assert lost.command(inquiry(0x83), data_in_length=255).status == 0
            assert other.command(write_10(0, 1), b"x" * 512).status == 0
    finally:
        assert daemon.stop() == 0, daemon.log
    assert image(path, "two").read_bytes()[:512] == b"x" * 512
    assert not image(path).exists()


OWN = [
    "state/tapebay.db",
    "state/tapebay.db-wal",
    "state/lock",
    "state/../tapebay.toml",
    "cartridges/TAP001L6/mam.json",
]


@pytest.mark.parametrize("name", [*OWN, "hard link"])
def test_what_the_library_itself_keeps_is_no_disk(path: Path, name: str) -> None:
    offline(path, "cartridge.create", barcode="TAP001L6")
    (path.parent / "hard link").hardlink_to(path.parent / "state/tapebay.db")
    path.write_text(path.read_text() + f'[[disks]]\nname = "own"\nsize = "4 MiB"\nimage = "{name}"\n')
    content = (path.parent / name).read_bytes() if (path.parent / name).exists() else None
    with opened(path) as units:
        assert "is the library's own" in (units["own"].unavailable or "")
    with pytest.raises(OperatorError, match="is the library's own"):
        offline(path, "disk.grow", name="own", size="8 MiB")
    assert [line for line in problems_of(config_file.load(path)) if "own" in line.partition(":")[0]]
    if name.endswith((".toml", ".json")):
        assert (path.parent / name).read_bytes() == content


def test_an_image_may_lie_beside_the_library_s_own_files(path: Path) -> None:
    path.write_text(path.read_text() + '[[disks]]\nname = "beside"\nsize = "1 MiB"\nimage = "state/data.img"\n')
    with opened(path) as units:
        assert units["beside"].loaded
