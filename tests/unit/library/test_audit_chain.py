"""The chain over the audit record: whoever tampers with rows is found, and the rows are named."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from tests.support.database import new_database, open_again
from tests.unit.library.test_database import migrated
from vlib_images.library.database import audit_chain, events, schema, sqlite
from vlib_images.library.database.audit_chain import GENESIS, ChainMark, ChainVerification
from vlib_images.library.database.database import Database
from vlib_images.library.database.events import Event

EVENTS = schema.events
MARKS = schema.audit_marks


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """With ten events in six changes."""
    made = new_database(tmp_path)
    for count in (1, 2, 1, 3, 2, 1):
        with made.change(*[Event("moved", f"{count}-{n}", {"ä": n}) for n in range(count)]):
            pass
    return made


def verified(database: Database, known: ChainMark | None = None) -> ChainVerification:
    with database.read() as connection:
        return audit_chain.verify(connection, known)


def problems(database: Database, known: ChainMark | None = None) -> list[str]:
    return [fault.problem for fault in verified(database, known).faults]


def tamper(database: Database, how: Callable[[Connection], Any]) -> list[str]:
    with database.change() as connection:
        how(connection)
    return problems(database)


def test_an_untouched_record_is_whole(database: Database, tmp_path: Path) -> None:
    found = verified(database)
    assert (found.events, found.first, found.head.number, found.faults) == (10, 1, 10, [])
    assert problems(database, found.head) == []
    again = open_again(tmp_path)
    with again.change(Event("later", "a")):
        pass
    assert problems(again, found.head) == []
    assert verified(again).head.number == 11


def test_an_empty_record_is_whole(tmp_path: Path) -> None:
    found = verified(new_database(tmp_path))
    assert (found.events, found.first, found.head, found.faults) == (0, 0, ChainMark(0, GENESIS), [])


@pytest.mark.parametrize("column", ["at_microseconds", "actor", "action", "subject", "details", "hash"])
@pytest.mark.parametrize("number", [1, 5, 10])
def test_a_changed_row_is_named(database: Database, column: str, number: int) -> None:
    value = 5 if column == "at_microseconds" else "x"
    found = tamper(database, lambda c: c.execute(update(EVENTS).where(EVENTS.c.id == number).values({column: value})))
    assert found[0].startswith(f"event {number} ")
    assert "is not what was written" in found[0]


def test_a_changed_row_with_a_hash_made_anew_is_found_by_the_next(database: Database) -> None:
    def forge(connection: Connection) -> None:
        rows = {row.id: row for row in connection.execute(select(EVENTS))}
        row = rows[5]
        hash_ = audit_chain.hash_of(
            rows[4].hash, 5, row.at_microseconds, "nobody", row.action, row.subject, row.details
        )
        connection.execute(update(EVENTS).where(EVENTS.c.id == 5).values(actor="nobody", hash=hash_))

    assert tamper(database, forge)[0].startswith("event 6 or event 5 is not what was written")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ([1], "event 1 is missing"),
        ([5], "event 5 is missing"),
        ([5, 6, 7], "events 5 to 7 are missing"),
        ([10], "event 10 is missing"),
        ([8, 9, 10], "events 8 to 10 are missing"),
        (list(range(1, 11)), "events 1 to 10 are missing"),
    ],
)
def test_removed_rows_are_named(database: Database, gone: list[int], said: str) -> None:
    assert tamper(database, lambda c: c.execute(delete(EVENTS).where(EVENTS.c.id.in_(gone)))) == [said]


def test_reordered_rows_are_named(database: Database) -> None:
    def swap(connection: Connection) -> None:
        for number, other in ((4, -1), (7, 4), (-1, 7)):
            connection.execute(update(EVENTS).where(EVENTS.c.id == number).values(id=other))

    found = tamper(database, swap)
    assert found[0].startswith("event 4 ")
    assert any(line.startswith("event 7 ") for line in found)


def test_an_inserted_row_is_named(database: Database) -> None:
    row = {"at_microseconds": 1, "actor": "a", "action": "b", "subject": "c", "details": "{}", "hash": "0" * 64}

    def insert_after(connection: Connection) -> None:
        connection.execute(insert(EVENTS), [{**row, "id": 11}])

    found = tamper(database, insert_after)
    assert found[0].startswith("event 11 ")
    assert "events after 10 were not written by the library" in found


def test_marks_that_are_gone_or_changed_are_said_and_not_made_anew(database: Database) -> None:
    head = verified(database).head
    said = "the mark of the newest event is missing"
    assert tamper(database, lambda c: c.execute(delete(MARKS).where(MARKS.c.name == "head"))) == [said]
    with database.change(Event("later", "a")):
        pass
    assert problems(database) == [said]
    assert problems(database, head) == [said]
    other = tamper(database, lambda c: c.execute(update(MARKS).where(MARKS.c.name == "anchor").values(hash="1" * 64)))
    assert other[1].startswith("event 1 ")


def test_a_record_made_anew_is_found_by_a_hash_kept_elsewhere(database: Database, tmp_path: Path) -> None:
    known = verified(database).head
    other = new_database(tmp_path / "other")
    with other.change(*[Event("moved", str(number)) for number in range(10)]):
        pass
    assert problems(other) == []
    assert problems(other, known) == [f"event 10 is not the one whose hash was {known.hash}"]
    assert problems(other, ChainMark(12, known.hash)) == ["event 12 is not there, so its hash cannot be compared"]


def test_pruning_keeps_an_anchor(database: Database) -> None:
    with database.change() as connection:
        events.forget_oldest(connection, kept=4)
    found = verified(database)
    assert (found.events, found.first, found.faults) == (4, 7, [])
    with database.read() as connection:
        assert events.pruned_to(connection) == 6
    assert problems(database, ChainMark(3, "0" * 64)) == ["event 3 has been pruned, so its hash cannot be compared"]
    assert tamper(database, lambda c: c.execute(delete(EVENTS).where(EVENTS.c.id == 7))) == ["event 7 is missing"]


def test_an_undone_change_leaves_the_chain_whole(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.change(Event("undone", "a")):
        raise ZeroDivisionError
    with database.change(Event("done", "b")):
        pass
    assert problems(database) == []
    assert verified(database).head.number == 11


def test_any_one_change_of_any_byte_is_found(database: Database) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    with database.read() as connection:
        rows = connection.execute(select(EVENTS)).all()
    for _ in range(50):
        row = rng.choice(rows)
        column = rng.choice(["actor", "action", "subject", "details", "hash"])
        old = getattr(row, column)
        at = rng.randrange(len(old))
        new = old[:at] + chr((ord(old[at]) + rng.randrange(1, 26)) % 128) + old[at + 1 :]
        where = EVENTS.c.id == row.id
        found = tamper(database, lambda c: c.execute(update(EVENTS).where(where).values({column: new})))  # noqa: B023
        assert found, f"seed {seed}: {column} of {row.id} {old!r} became {new!r}"
        assert tamper(database, lambda c: c.execute(update(EVENTS).where(where).values({column: old}))) == []  # noqa: B023


def test_faults_are_counted_not_listed_without_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_chain, "MOST_FAULTS", 3)
    found = tamper(database, lambda c: c.execute(update(EVENTS).values(actor="x")))
    assert len(found) == 4
    assert found[-1] == "there is more; this is enough"


def test_watchers_are_told_of_what_is_durable(database: Database) -> None:
    told: list[int] = []
    database.watch(told.append)
    with database.change(Event("a", "b"), Event("c", "d")):
        assert told == []
    with database.change():
        pass
    with pytest.raises(ZeroDivisionError), database.change(Event("undone", "a")):
        raise ZeroDivisionError
    assert told == [12]


def test_an_older_record_is_chained_by_the_upgrade(tmp_path: Path) -> None:
    old = migrated(tmp_path / "tapebay.db", "0005")
    names = ("at_microseconds", "actor", "action", "subject", "details")
    with old.begin():
        sqlite.mark(old)
        for number in range(7, 12):  # those before were pruned
            values = (number, "operator", "moved", "ä", "{}")
            old.execute(insert(EVENTS).values(id=number, **dict(zip(names, values, strict=True))).inline())
    old.close()
    database = open_again(tmp_path)
    found = verified(database)
    assert (found.events, found.first, found.head.number, found.faults) == (5, 7, 11, [])
    with database.change(Event("later", "a")):
        pass
    assert problems(database, found.head) == []
