"""The state store: what was stored is there after reopening, and damage is told from content."""

import json
import random
import sqlite3
import threading
from pathlib import Path

import pytest

from tests.support.database import new_database, open_again
from tests.support.full_disk import nothing_can_be_written
from vlib_images.library.state import JsonValue, LibraryState, StateDamaged


@pytest.fixture
def store(tmp_path: Path) -> LibraryState:
    return LibraryState(new_database(tmp_path / "state"))


def reopened(tmp_path: Path) -> LibraryState:
    return LibraryState(open_again(tmp_path / "state"))


def test_values_survive_reopening(store: LibraryState, tmp_path: Path) -> None:
    store.put("mode-pages", "drive0", {"0f": "8000", "nested": [1, None, 2.5, "ä"]})
    store.put("mode-pages", "drive1", {"0f": "00"})
    assert reopened(tmp_path).items("mode-pages") == {
        "drive0": {"0f": "8000", "nested": [1, None, 2.5, "ä"]},
        "drive1": {"0f": "00"},
    }


def test_missing_namespace_and_key_read_as_nothing(store: LibraryState) -> None:
    assert store.items("reservations") == {}
    assert store.get("reservations", "drive0") is None


def test_none_deletes(store: LibraryState, tmp_path: Path) -> None:
    store.update("reservations", {"a": 1, "b": 2})
    store.update("reservations", {"a": None, "c": 3})
    assert reopened(tmp_path).items("reservations") == {"b": 2, "c": 3}


def test_callers_cannot_change_what_is_stored(store: LibraryState) -> None:
    value: JsonValue = ["first"]
    store.put("serials", "drive0", value)
    assert isinstance(value, list)
    value.append("added after put")
    got = store.get("serials", "drive0")
    assert isinstance(got, list)
    got.append("added after get")
    assert store.get("serials", "drive0") == ["first"]


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"bytes"])
def test_a_value_json_does_not_have_changes_nothing(store: LibraryState, tmp_path: Path, value: object) -> None:
    store.put("serials", "drive0", "A")
    with pytest.raises((TypeError, ValueError)):
        store.update("serials", {"drive0": "B", "drive1": value})  # type: ignore[dict-item]
    assert store.items("serials") == {"drive0": "A"} == reopened(tmp_path).items("serials")


@pytest.mark.parametrize("namespace", ["", "../x", "a/b", "Upper", ".hidden", "a" * 64])
def test_a_namespace_is_a_plain_name(store: LibraryState, namespace: str) -> None:
    with pytest.raises(ValueError, match="not a namespace"):
        store.put(namespace, "key", 1)


def test_every_damaged_byte_is_found_or_harmless(store: LibraryState, tmp_path: Path) -> None:
    data: dict[str, JsonValue] = {"drive0": "IBM1068000", "drive1": 17, "drive0/reservations": {"type": 3}}
    store.update("serials", data)
    path = tmp_path / "state" / "tapebay.db"
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    whole = path.read_bytes()
    written = [position for position, byte in enumerate(whole) if byte] + list(range(0, len(whole), 512))
    seed = random.randrange(1 << 32)
    for position in random.Random(seed).sample(written, 400):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
        try:
            database = open_again(tmp_path / "state")
            found = LibraryState(database).items("serials")
            database.close()
            assert found == data, f"byte {position}, seed {seed}"
        except StateDamaged as error:
            assert str(path) in str(error)
            assert "Restore the file from a backup" in str(error) or "Use the version" in str(error)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_not_ours_says_what_is_wrong(store: LibraryState, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state" / "tapebay.db"
    path.write_bytes(content)
    with pytest.raises(StateDamaged, match=r"tapebay\.db: .*Restore the file from a backup"):
        reopened(tmp_path)
    assert path.read_bytes() == content


def test_another_program_s_database_is_refused(store: LibraryState, tmp_path: Path) -> None:
    path = tmp_path / "state" / "tapebay.db"
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE inventory (id INTEGER)")
    with pytest.raises(StateDamaged, match="not the database of a Tapebay library"):
        reopened(tmp_path)


def test_a_failed_write_leaves_the_old_state(store: LibraryState, tmp_path: Path) -> None:
    store.put("serials", "drive0", "A")
    with nothing_can_be_written(), pytest.raises(OSError, match=r"tapebay\.db"):
        store.put("serials", "drive0", "B")
    assert store.get("serials", "drive0") == "A" == reopened(tmp_path).get("serials", "drive0")
    store.put("serials", "drive0", "C")
    assert store.get("serials", "drive0") == "C" == reopened(tmp_path).get("serials", "drive0")


def test_threads_lose_no_update(store: LibraryState, tmp_path: Path) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            store.put("reservations", f"{thread}-{number}", number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reopened(tmp_path).items("reservations")) == 80


def test_what_is_stored_can_be_read_with_any_sqlite(store: LibraryState, tmp_path: Path) -> None:
    store.update(
        "devices", {"drive0/reservations": {"type": 3}, "drive0/mode": {"0f": "80"}, "drive0/life": {"loads": 1}}
    )
    other = sqlite3.connect(tmp_path / "state" / "tapebay.db")
    for table, key, document in (
        ("reservations", "drive0/reservations", {"type": 3}),
        ("saved_mode_pages", "drive0/mode", {"0f": "80"}),
        ("state", "drive0/life", {"loads": 1}),
    ):
        ((found_key, found),) = other.execute(f"SELECT key, document FROM {table} WHERE namespace = 'devices'")
        assert (found_key, json.loads(found)) == (key, document)
    assert other.execute("SELECT action, subject FROM events").fetchall() == [
        ("reservations changed", "drive0"),
        ("mode pages saved", "drive0"),
    ]


def test_a_namespace_is_a_store_of_its_own(store: LibraryState) -> None:
    store.namespace("devices").put("drive0/reservations", {"type": 3})
    assert store.namespace("devices").get("drive0/reservations") == {"type": 3}
    assert store.namespace("serials").get("drive0/reservations") is None
    assert store.items("devices") == {"drive0/reservations": {"type": 3}}
