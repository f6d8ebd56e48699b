"""Devices, targets, accounts and zones as rows: what was kept is there, what differs is written, and all is told."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.database import new_database, open_again
from tests.support.full_disk import nothing_can_be_written
from vlib_images.library.actor import acting_as
from vlib_images.library.database import events
from vlib_images.library.database.content_rows import Rows, StoredContent, change, load
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged

FIRST: Rows = {
    "devices": {"changer": {"kind": "changer"}, "drive1": {"kind": "drive", "lun": 2}, "drive0": {"kind": "drive"}},
    "targets": {"iqn.2026-11.io.tapebay:t": {"initiators": ["*"]}},
    "accounts": {"u (initiator *, target *)": {"user": "u", "secret": "twelve chars"}},
    "zones": {"z": {"name": "z", "devices": ["drive0"]}},
    "partitions": {"p": {"name": "p", "slots": "1-20"}},
    "remotes": {"array": {"name": "array", "secret": "s"}},
    "pools": {"db": {"name": "db", "barcodes": "DB*"}},
}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = new_database(tmp_path)
    change(database, load(database), StoredContent(FIRST, {"drives": [{"name": "drive0"}]}))
    return database


def told(database: Database) -> list[tuple[str, str, str, dict[str, Any]]]:
    with database.read() as connection:
        return [(e.actor, e.action, e.subject, e.details) for e in reversed(events.latest(connection, 100))]


def test_nothing_was_ever_kept(tmp_path: Path) -> None:
    nothing: Rows = {name: {} for name in FIRST}
    assert load(new_database(tmp_path)) == StoredContent(nothing, None)


def test_what_was_kept_is_there_in_its_order(database: Database, tmp_path: Path) -> None:
    again = load(open_again(tmp_path))
    assert again == StoredContent(FIRST, {"drives": [{"name": "drive0"}]})
    assert list(again.rows["devices"]) == ["changer", "drive1", "drive0"]


def test_each_difference_is_written_and_told_without_its_values(database: Database, tmp_path: Path) -> None:
    before = load(database)
    after: Rows = {
        "devices": {"changer": {"kind": "changer"}, "drive0": {"kind": "drive", "lun": 1}, "d": {"kind": "disk"}},
        "targets": FIRST["targets"],
        "accounts": {"u (initiator *, target *)": {"user": "u", "secret": "another secret"}},
        "zones": {"z": {"name": "z", "devices": ["drive0", "drive1"]}},
        "partitions": {"p": {"name": "p", "slots": "1-30"}},
        "remotes": {"array": {"name": "array", "secret": "t"}},
        "pools": {"db": {"name": "db", "barcodes": "DB*", "cartridges": ["A00001L6"]}},
    }
    seen = len(told(database))
    with acting_as("operator"):
        change(database, before, StoredContent(after, before.applied))
    assert load(open_again(tmp_path)).rows == after
    assert told(database)[seen:] == [
        ("operator", "device removed", "drive1", {}),
        ("operator", "device changed", "drive0", {"fields": ["lun"]}),
        ("operator", "device added", "d", {}),
        ("operator", "account changed", "u (initiator *, target *)", {"fields": ["secret"]}),
        ("operator", "zone changed", "z", {"fields": ["devices"]}),
        ("operator", "partition changed", "p", {"fields": ["slots"]}),
        ("operator", "remote unit changed", "array", {"fields": ["secret"]}),
        ("operator", "pool changed", "db", {"fields": ["cartridges"]}),
    ]
    assert "another secret" not in str(told(database))


def test_a_failed_change_leaves_what_there_was(database: Database, tmp_path: Path) -> None:
    before, seen = load(database), told(database)
    with nothing_can_be_written(), pytest.raises(OSError, match=r"tapebay\.db"):
        change(database, before, StoredContent({name: {} for name in FIRST}, {}))
    assert load(database) == before == load(open_again(tmp_path))
    assert told(database) == seen


def test_damage_names_what_is_damaged(database: Database, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "tapebay.db") as other:
        other.execute("UPDATE targets SET document = '{}'")
    with pytest.raises(StateDamaged, match=r"tapebay\.db: damaged: target iqn.2026-11.io.tapebay:t fails its checksum"):
        load(open_again(tmp_path))
