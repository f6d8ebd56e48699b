"""No room for what a backup keeps of itself: the list of what it found, the catalogue, the index before it is on tape.
Each ends it by name, gives all space back, and once there is room it goes on to the same tapes."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.backup import index, spool
from appliance.backup.catalogue import Catalogue
from appliance.backup.records import Backup, BackupState
from appliance.failures import OperatorError
from tests.unit.backup.test_faults import FIRST, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "library", files=200, length=3_000)
    yield made
    made.library.stop()
    made.library.close()


def limited(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """Catalogues are full at so many pages: SQLite itself answers "database or disk is full"."""
    begin = Catalogue.__init__

    def begin_limited(self: Catalogue, path: Path) -> None:
        begin(self, path)
        self._connection.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(Catalogue, "__init__", begin_limited)


class FullDirectory:
    """tempfile, where no file has room."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> "FullDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, _: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def goes_on_when_there_is_room(site: Site, backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backup.state is BackupState.FAILED
    assert site.space_is_given_back()
    assert [one.name for one in (site.directory / "state" / "catalogues").iterdir() if one.suffix != ".db"] == []
    monkeypatch.undo()
    assert site.resume(backup).state is BackupState.DONE
    assert site.on_tape(backup) == site.expected
    assert site.do("verify", number=backup.number)["equal"]


def test_the_catalogue_is_full(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 16)  # its tables, and not the rows of 200 files
    backup = site.backup(FIRST)
    assert backup.reason.startswith("the catalogue ")
    assert backup.reason.endswith("cannot be written: database or disk is full")
    goes_on_when_there_is_room(site, backup, monkeypatch)


def test_there_is_no_room_for_a_catalogue_at_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 2)
    with pytest.raises(OperatorError, match=r"a backup cannot begin: the catalogue .* database or disk is full"):
        site.do("backup.start", disks=["data"], to=[FIRST])
    assert site.do("backup.list") == []
    assert list((site.directory / "state" / "catalogues").iterdir()) == []
    monkeypatch.undo()
    assert site.backup(FIRST).state is BackupState.DONE


def test_there_is_no_room_for_what_was_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", FullDirectory)
    backup = site.backup(FIRST)
    assert "No space left on device" in backup.reason
    goes_on_when_there_is_room(site, backup, monkeypatch)


def test_there_is_no_room_for_the_index(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are on tape then, and only the index is missing."""

    def full(*_: Any) -> None:
        FullDirectory().write(b"")

    monkeypatch.setattr(index, "_pack", full)
    backup = site.backup(FIRST)
    assert "No space left on device" in backup.reason
    (volume,) = site.volumes(backup)
    assert (volume.closed, volume.indexed) == (True, False)
    goes_on_when_there_is_room(site, backup, monkeypatch)
    (volume,) = site.volumes(backup)
    assert volume.indexed
