"""State files of version 0.1 become the database at the first start; whenever that is interrupted, nothing is lost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from datamover.engine import crc32c
from vlib_images.library.database import database, events, takeover
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import DatabaseMissing, StateDamaged
from vlib_images.library.database.takeover import open_database
from vlib_images.library.inventory import Inventory, Layout
from vlib_images.library.state import LibraryState

LAYOUT = Layout(range(1, 2), range(4096, 4100), range(16, 18), range(256, 258))
INVENTORY = {
    "A00001L6": {"place": "storage:0", "source": None, "by_operator": True},
    "A00002L6": {"place": "drive:1", "source": "storage:3", "by_operator": False},
    "A00003L6": {"place": None, "source": None, "by_operator": False},
}
DEVICES = {"drive0/reservations": {"type": 3, "names": ["ä"]}, "changer/statistics": {"0": 7}}
IDENTITY = {"library_id": "0b4d2c0e-5ba5-4c3e-9d0e-4c8a31c6b3a7"}
OLD = {"inventory.json": INVENTORY, "devices.json": DEVICES, "identity.json": IDENTITY}


def old_file(data: object) -> bytes:
    """As version 0.1 wrote it."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    document = {"format": "tapebay-state", "version": 1, "crc32c": f"{crc32c(canonical.encode()):08x}", "data": data}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, data in OLD.items():
        (tmp_path / name).write_bytes(old_file(data))
    return tmp_path


def check_taken_over(directory: Path) -> None:
    """Everything is in the database, and the old files are what they were, under their new names."""
    opened = open_database(directory)
    inventory, store = Inventory(opened, LAYOUT), LibraryState(opened)
    first, second = inventory.find("A00001L6"), inventory.find("A00002L6")
    assert first is not None
    assert second is not None
    assert (first.address, first.source, first.placed_by_operator) == (4096, None, True)
    assert (second.address, second.source, second.placed_by_operator) == (257, 4099, False)
    assert inventory.shelf() == ["A00003L6"]
    assert store.items("devices") == DEVICES
    assert store.items("identity") == IDENTITY
    with opened.read() as connection:
        assert [event.action for event in events.latest(connection, 10)] == ["state files taken over"]
    opened.close()
    kept = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "tapebay.db"}
    assert kept == {f"{name}.taken-over": old_file(data) for name, data in OLD.items()}


def test_everything_is_taken_over_once(directory: Path) -> None:
    check_taken_over(directory)
    check_taken_over(directory)


class Killed(BaseException):
    """Stands for the end of the process between two system calls."""


@pytest.mark.parametrize("moment", range(30))
def test_a_kill_between_any_two_steps_loses_nothing(
    directory: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = moment

    def dies_before(call: Any) -> Any:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return call(*arguments, **named)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", dies_before(os.open))
        patch.setattr(database, "sync_directory", dies_before(database.sync_directory))
        patch.setattr(takeover, "sync_directory", dies_before(takeover.sync_directory))
        patch.setattr(Path, "rename", dies_before(Path.rename))
        patch.setattr(takeover, "put_document", dies_before(takeover.put_document))
        patch.setattr(takeover.inventory_rows, "write", dies_before(takeover.inventory_rows.write))
        patch.setattr(takeover.events, "record", dies_before(takeover.events.record))
        try:
            open_database(directory).close()
        except Killed:
            pass
        else:
            assert moment > 10, "the steps of the takeover are not what this test interrupts"
    check_taken_over(directory)


def test_a_file_that_was_not_taken_over_is_not_passed_over(directory: Path) -> None:
    open_database(directory).close()
    (directory / "inventory.json").write_bytes(old_file({}))
    with pytest.raises(StateDamaged, match=r"inventory\.json: a state file of an earlier version beside tapebay\.db"):
        open_database(directory)
    assert (directory / "inventory.json").read_bytes() == old_file({})


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing, match=r"tapebay\.db: missing; .* tapebay init"):
        open_database(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_identity_is_not_made_anew(directory: Path) -> None:
    (directory / "identity.json").unlink()
    with pytest.raises(StateDamaged, match=r"identity\.json: missing"):
        open_database(directory)
    assert not (directory / "tapebay.db").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"A": INVENTORY["A00001L6"], "B": INVENTORY["A00001L6"]}, "A and B are both in storage:0"),
        ({"A": "nonsense"}, "not understood: 'nonsense'"),
        ({"A": {**INVENTORY["A00001L6"], "place": "attic:1"}}, "place not understood: 'attic:1'"),
    ],
)
def test_contradicting_records_are_refused(directory: Path, data: object, said: str) -> None:
    (directory / "inventory.json").write_bytes(old_file(data))
    with pytest.raises(StateDamaged, match=said):
        open_database(directory)
    assert not (directory / "tapebay.db").exists()
    assert (directory / "inventory.json").read_bytes() == old_file(data)


def test_every_damaged_byte_is_found_or_harmless(directory: Path) -> None:
    path = directory / "devices.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
        try:
            found = takeover._document(path, path.read_bytes())
            assert found == DEVICES  # white space turned into other white space
        except StateDamaged as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[]", "not a Tapebay state file"),
        (b'{"format": "other"}', "not a Tapebay state file"),
        (b'{"format": "tapebay-state", "version": 2}', "its version is 2"),
        (b'{"format": "tapebay-state", "version": 1, "crc32c": "00000000"}', "checksum"),
        (b'{"format": "tapebay-state", "version": 1, "crc32c": "00000000", "data": {"a": 1}}', "checksum"),
    ],
)
def test_a_file_that_is_not_ours_says_what_is_wrong(directory: Path, content: bytes, said: str) -> None:
    path = directory / "devices.json"
    path.write_bytes(content)
    with pytest.raises(StateDamaged, match=said):
        open_database(directory)
    assert path.read_bytes() == content
    assert not (directory / "tapebay.db").exists()


def test_an_old_library_that_never_moved_anything(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_bytes(old_file(IDENTITY))
    opened = open_database(tmp_path)
    assert isinstance(opened, Database)
    assert Inventory(opened, LAYOUT).barcodes() == []
    assert LibraryState(opened).items("identity") == IDENTITY
