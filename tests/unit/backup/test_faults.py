"""Drives, cartridges, disks and the state's storage fail under a backup, in a library within this process: each time it
goes on by itself, or ends by name and can be resumed. What is on the tapes is read by Python's tarfile."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.backup.catalogue import Catalogue, Volume
from appliance.backup.records import Backup, BackupState
from appliance.backup.volume import MountedDrive
from appliance.failures import OperatorError
from appliance.library.library import Library
from appliance.operations import setup
from appliance.operations.perform import find, parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from datamover.engine import storage_fault, storage_faults_clear
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition, SenseCode
from tests.support.full_disk import nothing_can_be_written
from tests.support.waiting import eventually
from tests.unit.backup.support import archive_of
from tests.unit.backup.test_job import MEBIBYTE, files_in, fill, make_ext4
from vlib_images.cartridge.cartridge import Cartridge, ReadKind

FOR_EVER = 10**9
FIRST, SECOND = "A00001L6", "A00002L6"


class Site:
    """A library of two drives, with a disk of 40 files of 700 KB."""

    def __init__(self, directory: Path, files: int = 40, length: int = 700_000) -> None:
        self.directory = directory
        plan = setup.plan(directory, portal="127.0.0.1:0", slots=8, import_export=1, drives=2)
        path = setup.create(directory, plan)
        self.expected = fill(directory / "tree", files, length)
        self.library = Library.open(config_file.load(path), apply=True)
        self.context = OnLibrary(self.library.settings, path, self.library.files, self.library)
        self.do("disk.create", name="data", size="64 MiB")
        make_ext4(self.image, directory / "tree", 64)
        self.do("cartridge.create", barcode=FIRST, count=4)

    @property
    def image(self) -> Path:
        return self.directory / "disks" / "data.img"

    def do(self, verb: str, /, **given: Any) -> Any:
        found = find(verb)
        return perform(found, self.context, parameters_of(found, given))

    def begin(self, *cartridges: str, **options: Any) -> int:
        options = {"checkpoint_bytes": 4 * MEBIBYTE, **options}
        return self.library.backups.begin(["data"], list(cartridges or [FIRST, SECOND]), **options).number

    def ended(self, number: int) -> Backup:
        assert self.library.backups.wait(number, 120)
        return self.library.backups.records.get(number)

    def backup(self, *cartridges: str, **options: Any) -> Backup:
        return self.ended(self.begin(*cartridges, **options))

    def resume(self, backup: Backup, *cartridges: str, drive: str | None = None) -> Backup:
        self.library.backups.resume(backup.number, cartridges, drive, overwrite=False)
        return self.ended(backup.number)

    def volumes(self, backup: Backup) -> list[Volume]:
        catalogue = Catalogue.open(self.library.backups.path_of(backup))
        try:
            return catalogue.volumes()
        finally:
            catalogue.close()

    def on_tape(self, backup: Backup) -> dict[str, bytes]:
        """What the cartridges hold; of one that was cut short, the files that are whole."""
        found: dict[str, bytes] = {}
        for volume in self.volumes(backup):
            path = self.directory / f"{volume.barcode}.tar"
            with Cartridge.open(self.directory / "cartridges" / volume.barcode, read_only=True) as cartridge:
                found |= whole_files(cartridge, path) if volume.cut else files_in(archive_of(cartridge, path))
        return found

    def space_is_given_back(self) -> bool:
        """Soon after the end: a thread of the snapshot closes its store."""
        return eventually(lambda: not list(self.directory.glob("**/*.snapshot")), despite=(FileNotFoundError,))


def whole_files(cartridge: Cartridge, path: Path) -> dict[str, bytes]:
    """As tar finds them on a tape whose archive has no end."""
    import tarfile

    buffer, found = bytearray(256 << 10), {}
    cartridge.rewind()
    with path.open("wb") as file:
        while (result := cartridge.read_block(buffer)).length == len(buffer):
            file.write(buffer)
        assert result.length == 0
    with suppress(tarfile.ReadError), tarfile.open(path, mode="r|", bufsize=256 << 10) as tar:
        for member in tar:
            if member.isfile():
                found[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**options: Any) -> Site:
        made.append(Site(tmp_path / "library", **options))
        return made[-1]

    yield make
    storage_faults_clear()
    for site in made:
        site.library.stop()
        site.library.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


def failing(drive: Any, monkeypatch: pytest.MonkeyPatch, code: SenseCode, after: int) -> list[int]:
    """A drive whose writes fail after so many blocks, for ever. The blocks that it was asked for."""
    write, asked = drive.write_blocks, []

    def write_blocks(data: Any, block_length: int, count: int, **options: Any) -> Any:
        asked.append(count)
        if sum(asked) > after:
            raise CheckCondition(code)
        return write(data, block_length, count, **options)

    monkeypatch.setattr(drive, "write_blocks", write_blocks)
    return asked


# ---- drives ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 40, 90])
@pytest.mark.parametrize("code", [sense.INTERNAL_TARGET_FAILURE, sense.MANUAL_INTERVENTION_REQUIRED])
def test_a_drive_dies_and_the_other_goes_on(site, monkeypatch, code, after):
    asked = failing(site.library.drives["drive0"], monkeypatch, code, after)
    backup = site.backup()
    assert asked
    assert (backup.state, backup.reason) == (BackupState.DONE, "")
    assert [volume.barcode for volume in site.volumes(backup)] == [FIRST]
    assert site.on_tape(backup) == site.expected
    assert site.space_is_given_back()
    assert site.do("verify", number=backup.number)["equal"]


def test_both_drives_die_and_one_comes_back(site, monkeypatch):
    for name, after in (("drive0", 20), ("drive1", 30)):
        failing(site.library.drives[name], monkeypatch, sense.INTERNAL_TARGET_FAILURE, after)
    backup = site.backup()
    assert backup.state is BackupState.FAILED
    assert "the drive answered INTERNAL TARGET FAILURE (4h/44h/00h) after" in backup.reason
    assert site.space_is_given_back()
    monkeypatch.undo()
    assert site.resume(backup, drive="drive1").state is BackupState.DONE
    assert site.on_tape(backup) == site.expected


def test_a_drive_that_dies_does_not_let_go_of_its_cartridge(site, monkeypatch):
    """The robot cannot get it: it goes on on the next one, as the first is full as far as it can be known."""
    drive = site.library.drives["drive0"]
    failing(drive, monkeypatch, sense.INTERNAL_TARGET_FAILURE, 40)

    def stuck(*_given: Any, **_options: Any) -> Any:
        raise CheckCondition(sense.MEDIA_LOAD_OR_EJECT_FAILED)

    monkeypatch.setattr(drive, "removing", stuck)
    backup = site.backup()
    assert backup.state is BackupState.FAILED
    assert f"cartridge {FIRST} cannot be loaded into drive1" in backup.reason
    monkeypatch.undo()
    assert site.resume(backup).state is BackupState.DONE
    assert site.on_tape(backup) == site.expected


# ---- cartridges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [3, 25, 60])
def test_a_cartridge_that_cannot_be_written_any_more_is_left_for_the_next(site, after):
    storage_fault("write", errno.EIO, after=after, times=FOR_EVER, path=f"{FIRST}/")
    backup = site.backup()
    storage_faults_clear()
    assert (backup.state, backup.reason) == (BackupState.DONE, "")
    first, *_, last = site.volumes(backup)
    assert (first.barcode, last.barcode, first.cut, last.indexed) == (FIRST, SECOND, True, True)
    assert site.on_tape(backup) == site.expected
    assert site.space_is_given_back()
    assert site.do("verify", number=backup.number)["equal"]


def test_one_place_of_a_cartridge_cannot_be_written_and_the_archive_is_closed_before_it(site):
    storage_fault("write", errno.EIO, after=40, times=1, path=f"{FIRST}/")
    backup = site.backup()
    storage_faults_clear()
    assert backup.state is BackupState.DONE
    assert not any(volume.cut for volume in site.volumes(backup))
    assert site.on_tape(backup) == site.expected


def test_the_last_cartridge_cannot_be_written_any_more(site):
    storage_fault("write", errno.EIO, after=30, times=FOR_EVER, path=f"{FIRST}/")
    backup = site.backup(FIRST)
    assert backup.state is BackupState.FAILED
    assert "WRITE ERROR (3h/0Ch/00h)" in backup.reason
    assert site.space_is_given_back()
    backup = site.resume(backup, SECOND)  # the first still fails
    storage_faults_clear()
    assert backup.state is BackupState.DONE, backup.reason
    assert [volume.barcode for volume in site.volumes(backup)] == [FIRST, SECOND]
    assert site.on_tape(backup) == site.expected


class Gate:
    """A drive that stops before one of its writes until it may go on."""

    def __init__(self, drive: Any, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self._write, self._left = drive.write_blocks, after
        self.reached, self.may_go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(drive, "write_blocks", self._write_blocks)

    def _write_blocks(self, *given: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            assert self.may_go_on.wait(120)
        return self._write(*given, **options)


def test_an_operator_pulls_the_cartridge_meanwhile_and_after_it_was_stopped(site, monkeypatch):
    gate = Gate(site.library.drives["drive0"], monkeypatch, 10)
    number = site.begin(FIRST)
    assert gate.reached.wait(120)
    with pytest.raises(OperatorError, match="in use"):
        site.do("unload", drive="drive:0")
    site.library.backups.job(number).cancelled.set()
    gate.may_go_on.set()
    backup = site.ended(number)
    assert backup.state is BackupState.CANCELLED
    site.do("move", cartridge=FIRST, to="shelf")
    backup = site.resume(backup)
    assert (backup.state, f"cartridge {FIRST} is on the shelf; put it into a slot" in backup.reason) == (
        BackupState.FAILED, True,
    )  # fmt: skip
    site.do("move", cartridge=FIRST, to="slot:1")
    assert site.resume(backup).state is BackupState.DONE
    assert site.on_tape(backup) == site.expected


@pytest.mark.parametrize("code", [sense.WRITE_PAST_END_OF_PARTITION, sense.WRITE_ERROR])
def test_a_cartridge_takes_the_archive_and_not_the_index(site, monkeypatch, code):
    drive, write_file = site.library.drives["drive0"], MountedDrive.write_file

    def write_index(self: MountedDrive, pieces: Iterator[bytes]) -> None:
        with monkeypatch.context() as patched:
            failing(drive, patched, code, 0)
            write_file(self, pieces)

    monkeypatch.setattr(MountedDrive, "write_file", write_index)
    backup = site.backup(FIRST, checkpoint_bytes=1 << 30)
    assert (backup.state, backup.reason) == (BackupState.DONE, "")
    (volume,) = site.volumes(backup)
    assert (volume.closed, volume.indexed, volume.cut) == (True, False, False)
    assert site.on_tape(backup) == site.expected
    with Cartridge.open(site.directory / "cartridges" / FIRST, read_only=True) as cartridge:
        archive_of(cartridge, site.directory / "archive.tar")
        assert cartridge.read_block(bytearray(1 << 20)).kind is ReadKind.FILEMARK  # and nothing of an index


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_read(site):
    """Its image is shorter than the disk, which cannot be read from there on."""
    gone = site.image.read_bytes()
    os.truncate(site.image, 12 * MEBIBYTE)
    backup = site.backup()
    assert backup.state is BackupState.FAILED
    assert backup.reason
    assert site.space_is_given_back()
    site.image.write_bytes(gone)
    assert site.resume(backup).state is BackupState.DONE
    assert site.on_tape(backup) == site.expected


# ---- the state's storage ---------------------------------------------------------------------------------------------


def test_the_file_system_of_the_state_is_full(site, monkeypatch):
    """Neither the catalogue nor the library's database takes anything from some moment on, and the index has no room
    to be made in."""
    gate = Gate(site.library.drives["drive0"], monkeypatch, 10)
    number = site.begin(FIRST)
    assert gate.reached.wait(120)
    with nothing_can_be_written():
        gate.may_go_on.set()
        backup = site.ended(number)
        assert backup.state is BackupState.FAILED
        assert "could not be kept" in backup.reason
    assert site.space_is_given_back()
    assert site.resume(backup).state is BackupState.DONE
    assert site.on_tape(backup) == site.expected
    assert site.do("verify", number=number)["equal"]
