"""The state store: what was stored is there after reopening, and damage is told from content."""

import errno
import json
import threading
from pathlib import Path

import pytest

from datamover.engine import storage_fault, storage_faults_clear
from vlib_images.library.state import JsonValue, StateDamaged, StateStore


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore.create(tmp_path / "state")


def reopened(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


def test_values_survive_reopening(store: StateStore, tmp_path: Path) -> None:
    store.put("mode-pages", "drive0", {"0f": "8000", "nested": [1, None, 2.5, "ä"]})
    store.put("mode-pages", "drive1", {"0f": "00"})
    assert reopened(tmp_path).items("mode-pages") == {
        "drive0": {"0f": "8000", "nested": [1, None, 2.5, "ä"]},
        "drive1": {"0f": "00"},
    }


def test_missing_namespace_and_key_read_as_nothing(store: StateStore) -> None:
    assert store.items("reservations") == {}
    assert store.get("reservations", "drive0") is None


def test_none_deletes(store: StateStore, tmp_path: Path) -> None:
    store.update("reservations", {"a": 1, "b": 2})
    store.update("reservations", {"a": None, "c": 3})
    assert reopened(tmp_path).items("reservations") == {"b": 2, "c": 3}


def test_callers_cannot_change_what_is_stored(store: StateStore) -> None:
    value: JsonValue = ["first"]
    store.put("serials", "drive0", value)
    assert isinstance(value, list)
    value.append("added after put")
    got = store.get("serials", "drive0")
    assert isinstance(got, list)
    got.append("added after get")
    assert store.get("serials", "drive0") == ["first"]


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"bytes"])
def test_a_value_json_does_not_have_changes_nothing(store: StateStore, tmp_path: Path, value: object) -> None:
    store.put("serials", "drive0", "A")
    with pytest.raises((TypeError, ValueError)):
        store.update("serials", {"drive0": "B", "drive1": value})  # type: ignore[dict-item]
    assert store.items("serials") == {"drive0": "A"} == reopened(tmp_path).items("serials")


@pytest.mark.parametrize("namespace", ["", "../x", "a/b", "Upper", ".hidden", "a" * 64])
def test_a_namespace_is_a_plain_name(store: StateStore, namespace: str) -> None:
    with pytest.raises(ValueError, match="not a namespace"):
        store.put(namespace, "key", 1)


def test_every_damaged_byte_is_found_or_harmless(store: StateStore, tmp_path: Path) -> None:
    data: dict[str, JsonValue] = {"drive0": "IBM1068000", "drive1": 17}
    store.update("serials", data)
    path = tmp_path / "state" / "serials.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
        try:
            assert reopened(tmp_path).items("serials") == data  # white space turned into other white space
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
def test_a_file_that_is_not_ours_says_what_is_wrong(
    store: StateStore, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "state" / "serials.json"
    path.write_bytes(content)
    with pytest.raises(StateDamaged, match=said):
        store.items("serials")
    with pytest.raises(StateDamaged, match=said):
        store.put("serials", "a", 2)
    assert path.read_bytes() == content


def test_a_failed_write_leaves_the_old_state(store: StateStore, tmp_path: Path) -> None:
    store.put("serials", "drive0", "A")
    storage_fault("sync", errno.ENOSPC, path=".serials.json.new")
    try:
        with pytest.raises(OSError, match="No space"):
            store.put("serials", "drive0", "B")
    finally:
        storage_faults_clear()
    assert store.get("serials", "drive0") == "A"
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["serials.json"]


def test_threads_lose_no_update(store: StateStore, tmp_path: Path) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            store.put("reservations", f"{thread}-{number}", number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reopened(tmp_path).items("reservations")) == 80


def test_the_file_is_readable_by_people(store: StateStore, tmp_path: Path) -> None:
    store.put("serials", "drive0", "A")
    document = json.loads((tmp_path / "state" / "serials.json").read_text())
    assert (document["format"], document["version"], document["data"]) == ("tapebay-state", 1, {"drive0": "A"})


def test_a_namespace_is_a_store_of_its_own(store: StateStore) -> None:
    store.namespace("devices").put("drive0/reservations", {"type": 3})
    assert store.namespace("devices").get("drive0/reservations") == {"type": 3}
    assert store.namespace("serials").get("drive0/reservations") is None
    assert store.items("devices") == {"drive0/reservations": {"type": 3}}
