"""Everything that is SQLite's own: connections, durability, checks, and what its errors mean.

WAL with synchronous=FULL: a commit is one write to the log and one fsync of it, and after a crash at any moment the
database is as it was after some commit, at or after the last that had returned. WAL readers never wait for the
writer.
"""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from vlib_images.library.database.errors import StateDamaged, StorageFailed

APPLICATION_ID: Final = 0x54504259  # "TPBY": what file(1) and we know the file by
BUSY_SECONDS: Final = 10.0  # how long to wait for somebody's sqlite3 shell
LIMIT_LOG_BYTES: Final = 64 << 20  # the write-ahead log shrinks to this after bulk work
INDEX_BYTES: Final = 32 << 10  # of the log's index, at least

WRITER: Final = "tapebay_writer"  # execution option of the connection that changes
COMPANIONS: Final = ("-wal", "-shm")  # what SQLite names the files beside a database

ERRORS: Final = (DBAPIError, sqlite3.Error)  # what work on the database may raise, for failure() to explain

_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
    sqlite3.SQLITE_PERM: errno.EACCES,
}
# SQLITE_ERROR: our own statements are right, so a column or a table that is not there was lost from the schema.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def make_engine(path: Path) -> Engine:
    """Connections to the database at `path`, which must exist: SQLite makes none by itself."""

    def connect() -> sqlite3.Connection:
        name = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(
            name, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=4, max_overflow=-1)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection) -> None:
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        "cell_size_check = ON",
        "trusted_schema = OFF",
        f"journal_size_limit = {LIMIT_LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    # The driver is told to begin nothing by itself (isolation_level None), or it would commit around DDL.
    writes = connection.get_execution_options().get(WRITER)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def make_file(path: Path) -> None:
    """An empty file for a new database; what an interrupted attempt left there is removed first. Raises OSError."""
    remove(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))


def remove(path: Path) -> None:
    """Delete a database that nobody has open, with its log. Raises OSError."""
    for name in ("", *COMPANIONS):
        path.with_name(path.name + name).unlink(missing_ok=True)


def mark(connection: Connection) -> None:
    """Write our application id into a new database."""
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def use_log(connection: Connection, path: Path) -> None:
    """Keep a write-ahead log; a database that was restored from a copy may not. Raises StorageFailed."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    (mode,) = driver.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageFailed(errno.EROFS, f"the database {path} cannot keep a write-ahead log on this file system")


def check(connection: Connection, path: Path) -> None:
    """Raises StateDamaged unless it is ours and its structure is sound: every page, every table, every index."""
    if connection.exec_driver_sql("PRAGMA application_id").scalar() != APPLICATION_ID:
        raise StateDamaged(path, "not the database of a Tapebay library (or damaged, or cut to nothing)")
    problems = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    if problems != ["ok"]:
        raise StateDamaged(path, f"damaged: {problems[0]}")


def settle(connection: Connection) -> None:
    """After a commit that failed: make sure that it did not happen, now or after a crash.

    Its frames may stand whole in the log, where the recovery of a later start would find them. This connection knows
    that they do not count: a checkpoint copies what does into the database, synchronizes that, and empties the log.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.rollback()
    busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StorageFailed(errno.EBUSY, "another program reads the database")


def failure(error: DBAPIError | sqlite3.Error, path: Path) -> StateDamaged | StorageFailed:
    """What an error of the driver means; the extended codes of SQLite have the basic one in their low byte."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = (getattr(cause, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGE:
        return StateDamaged(path, f"damaged: {cause}")
    if code == sqlite3.SQLITE_IOERR and is_full(path.parent):  # of the index of its log, for example
        return StorageFailed(errno.ENOSPC, f"the database {path}: no space is left on its file system; free some")
    return StorageFailed(_ERRNO.get(code, errno.EIO), f"the database {path}: {cause}")


def is_full(directory: Path) -> bool:
    """Whether its file system has no room for the index of a write-ahead log, without which nothing can be read."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < INDEX_BYTES
