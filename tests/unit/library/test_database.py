"""The database itself: whole changes in turn, what happens when one fails, its schema and its history."""

import errno
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, delete, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from tests.support.database import new_database, open_again
from tests.support.full_disk import nothing_can_be_written
from tests.support.waiting import eventually
from vlib_images.library.actor import acting_as
from vlib_images.library.database import events, schema, sqlite
from vlib_images.library.database.batches import batches
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import DatabaseClosed, DatabaseMissing, StateDamaged
from vlib_images.library.database.events import Event
from vlib_images.library.database.upgrade import configuration
from vlib_images.library.fair_lock import FairLock, ReentrantFairLock
from vlib_images.library.state import LibraryState


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return new_database(tmp_path)


def subjects(database: Database) -> list[str]:
    with database.read() as connection:
        return [event.subject for event in reversed(events.latest(connection, 1000))]


def test_a_change_and_its_audit_record_are_one(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), database.change(Event("tried", "a")) as connection:
        connection.execute(insert(schema.state), [dict.fromkeys(("namespace", "key", "document"), "x") | {"crc32c": 0}])
        raise ZeroDivisionError
    assert subjects(database) == []
    with acting_as("operator"), database.change(Event("done", "b", {"how": 1}), Event("done", "c")):
        pass
    with open_again(tmp_path).read() as connection:
        second, first = events.latest(connection, 10)
    assert (first.actor, first.action, first.subject, first.details) == ("operator", "done", "b", {"how": 1})
    assert (second.subject, second.number) == ("c", first.number + 1)


def test_the_oldest_events_go(database: Database) -> None:
    for number in range(4):
        with database.change(*[Event("e", f"{number}-{n}") for n in range(5)]) as connection:
            events.forget_oldest(connection, kept=7)
    with database.change() as connection:
        events.forget_oldest(connection, kept=7)
    assert subjects(database) == ["2-3", "2-4", *(f"3-{n}" for n in range(5))]


def test_a_change_within_a_change_is_refused_not_a_deadlock(database: Database) -> None:
    def change() -> None:
        with database.change(Event("inner", "b")):
            pass

    with database.change(Event("outer", "a")), pytest.raises(RuntimeError, match="within a change"):
        change()
    assert subjects(database) == ["a"]


def test_readers_wait_for_no_change(database: Database) -> None:
    with database.change(Event("done", "a")):
        seen: list[list[str]] = []
        reader = threading.Thread(target=lambda: seen.append(subjects(database)))
        reader.start()
        reader.join(60)
        assert seen == [[]]
    assert subjects(database) == ["a"]


def test_a_failed_commit_refuses_changes_until_it_is_opened_anew(database: Database, tmp_path: Path) -> None:
    LibraryState(database).put("serials", "drive0", "A")
    with nothing_can_be_written():
        with pytest.raises(OSError, match=r"tapebay\.db"), database.change(Event("lost", "a")):
            pass
        assert database.failure is not None
        with (
            pytest.raises(DatabaseClosed, match="closed after a change that failed"),
            database.change(Event("no", "b")),
        ):
            pass
        with pytest.raises(DatabaseClosed):
            database.reopen()
        assert LibraryState(database).get("serials", "drive0") == "A"
    database.reopen()
    assert database.failure is None
    with database.change(Event("done", "c")):
        pass
    assert subjects(database) == ["c"] == subjects(open_again(tmp_path))


def test_a_failed_commit_is_opened_anew_by_the_next_change(database: Database, tmp_path: Path) -> None:
    with nothing_can_be_written(), pytest.raises(OSError, match=r"tapebay\.db"), database.change(Event("lost", "a")):
        pass
    with database.change(Event("done", "b")):
        pass
    database.close()
    assert subjects(open_again(tmp_path)) == ["b"]


def test_somebody_s_sqlite_shell_delays_a_change_and_breaks_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = sqlite3.connect(tmp_path / "tapebay.db", isolation_level=None)
    with database.change() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match="database is locked") as refused, database.change(Event("no", "a")):
        pass
    assert refused.value.errno == errno.EBUSY
    shell.execute("COMMIT")
    with database.change(Event("done", "b")):
        pass
    assert database.failure is None
    assert subjects(database) == ["b"]


def test_one_file_is_left_after_closing(database: Database, tmp_path: Path) -> None:
    with database.change(Event("done", "a")):
        pass
    assert (tmp_path / "tapebay.db-wal").exists()
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["tapebay.db"]
    assert (tmp_path / "tapebay.db").stat().st_mode & 0o777 == 0o640


def test_it_is_durable_by_the_log_and_a_full_sync(database: Database) -> None:
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_missing_one_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing, match="Mount its file system, or restore it"):
        open_again(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_creation_is_begun_anew(tmp_path: Path) -> None:
    for name in ("tapebay.db.new", "tapebay.db.new-wal", "tapebay.db.new-journal"):
        (tmp_path / name).write_bytes(b"half")
    assert subjects(new_database(tmp_path)) == []
    with pytest.raises(FileExistsError):
        new_database(tmp_path)


def test_a_copy_made_by_sqlite_serves(database: Database, tmp_path: Path) -> None:
    with database.change(Event("done", "a")):
        sqlite3.connect(tmp_path / "tapebay.db").execute(f"VACUUM INTO '{tmp_path / 'copy.db'}'")
    copy = Database.open(tmp_path / "copy.db")
    assert subjects(copy) == []
    with copy.change(Event("done", "b")):
        pass
    assert subjects(copy) == ["b"]
    test_it_is_durable_by_the_log_and_a_full_sync(copy)


# ---- schema ---------------------------------------------------------------------------------------------------------


def migrated(path: Path, revision: str) -> Connection:
    """A database that Alembic made from nothing."""
    connection = create_engine(f"sqlite:///{path}").connect()
    with connection.begin():
        command.upgrade(configuration(connection), revision)
    return connection


def test_the_migrations_end_in_the_schema(tmp_path: Path) -> None:
    connection = migrated(tmp_path / "m.db", "head")
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    assert context.get_current_revision() == schema.REVISION
    assert compare_metadata(context, schema.metadata) == []
    made = sqlite3.connect(new_database(tmp_path / "new").path)
    tables = "SELECT name, type FROM sqlite_schema ORDER BY name"
    assert made.execute(tables).fetchall() == [tuple(row) for row in connection.exec_driver_sql(tables)]


def test_an_older_schema_is_brought_up_to_date_and_keeps_what_it_held(tmp_path: Path) -> None:
    old = migrated(tmp_path / "tapebay.db", "0001")
    row = schema.seal(schema.state, {"namespace": "identity", "key": "library_id", "document": '"id"'})
    with old.begin():
        sqlite.mark(old)
        old.execute(insert(schema.state), [row])
    old.close()
    database = open_again(tmp_path)
    assert LibraryState(database).get("identity", "library_id") == "id"
    with database.read() as connection:
        assert connection.execute(select(schema.devices)).all() == []
    database.close()
    assert sqlite3.connect(tmp_path / "tapebay.db").execute("SELECT * FROM alembic_version").fetchall() == [
        (schema.REVISION,)
    ]


def test_an_interrupted_upgrade_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = migrated(tmp_path / "tapebay.db", "0001")
    with old.begin():
        sqlite.mark(old)
    old.close()
    tables = "SELECT name FROM sqlite_schema ORDER BY name"
    before = sqlite3.connect(tmp_path / "tapebay.db").execute(tables).fetchall()
    made = Operations.create_table

    def fails_in_the_middle(self: Operations, name: str, *arguments: Any, **named: Any) -> Any:
        if name == "accounts":
            raise OSError(28, "No space left on device")
        return made(self, name, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "create_table", fails_in_the_middle)
        with pytest.raises(OSError, match="No space"):
            open_again(tmp_path)
    assert sqlite3.connect(tmp_path / "tapebay.db").execute(tables).fetchall() == before
    open_again(tmp_path).close()


def test_a_newer_schema_is_refused(database: Database, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "tapebay.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StateDamaged, match=r"schema is 9999, which this version does not know. Use the version"):
        open_again(tmp_path)


@pytest.mark.parametrize("table", schema.metadata.sorted_tables, ids=lambda table: table.name)
def test_postgresql_takes_the_tables(table: schema.Table) -> None:
    assert "WITHOUT ROWID" not in str(CreateTable(table).compile(dialect=postgresql.dialect()))
    assert str(select(table).compile(dialect=postgresql.dialect())).startswith("SELECT")


# ---- turns and batches ----------------------------------------------------------------------------------------------


def test_who_came_first_is_next() -> None:
    lock, order = FairLock(), []
    ready = [threading.Event() for _ in range(5)]

    def take(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(lock._waiting) <= number:
                ready[number].wait(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_who_has_the_turn_enters_again_and_others_wait_for_all_of_it() -> None:
    lock, order = ReentrantFairLock(), list[str]()

    def take() -> None:
        with lock:
            order.append("another")

    with lock:
        with lock, lock:
            thread = threading.Thread(target=take)
            thread.start()
            eventually(lambda: lock.waiting == 1)
        order.append("one")
    thread.join()
    with lock:
        assert order == ["one", "another"]


class Killed(BaseException):
    """What ends a thread from outside."""


def end(what: Callable[[], object]) -> None:
    """On a thread of its own, which ends by it."""

    def run() -> None:
        with suppress(Killed):
            what()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", [FairLock, ReentrantFairLock])
def test_the_turn_of_a_thread_that_is_no_more_is_over(kind: type[FairLock]) -> None:
    """It was ended before it could give it away: nobody waits for ever, neither who waited before nor who comes."""
    lock, holds, told = kind(), threading.Event(), list[str]()
    go = threading.Event()

    def take_for_ever() -> None:
        lock.__enter__()
        holds.set()
        go.wait(60)

    def take() -> None:
        with lock:
            told.append("another")

    holder, waiter = threading.Thread(target=take_for_ever), threading.Thread(target=take)
    holder.start()
    assert holds.wait(60)
    waiter.start()
    eventually(lambda: lock.waiting == 1)
    go.set()
    holder.join(60)
    waiter.join(60)
    assert told == ["another"]
    end(lock.__enter__)
    take()
    assert told == ["another"] * 2


def test_a_transaction_whose_thread_is_no_more_is_undone(tmp_path: Path) -> None:
    """It was ended before it could undo it itself: the next change finds the database as it was."""
    database = new_database(tmp_path)
    state = LibraryState(database)

    def begin() -> None:
        database._turns.__enter__()
        database._writer.begin()
        for documents in schema.DOCUMENTS:
            database._writer.execute(delete(documents))
        raise Killed

    state.put("library", "before", 1)
    end(begin)
    state.put("library", "after", 2)
    assert state.items("library") == {"before": 1, "after": 2}
    database.close()


def test_batches_follow_the_time_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    sizes = []
    for batch in batches(range(20_000)):
        sizes.append(len(batch))
        now += len(batch) * 0.0001
    assert sum(sizes) == 20_000
    assert max(sizes) <= 250 + 1  # 25 ms
    assert sizes[5] >= 200


def test_an_index_of_the_log_that_finds_no_room_is_told_as_no_space(tmp_path, monkeypatch):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    path = tmp_path / "tapebay.db"
    assert sqlite.failure(error, path).errno == errno.EIO
    monkeypatch.setattr(sqlite.os, "statvfs", lambda _path: Mock(f_bavail=7, f_frsize=4096))
    told = sqlite.failure(error, path)
    assert told.errno == errno.ENOSPC
    assert "no space is left" in str(told)
