"""One library's database, open: transactions to read, and one at a time to change.

A change is one transaction with its audit record. When it returns it is durable, and when it raises nothing has
changed. A commit that fails closes the database: nobody can say whether the transaction reached the disk, so nothing
may be built on it. The next change first opens the database anew, which makes sure that the failed one did not
happen; as long as the storage does not let it, every change is refused. Reading goes on meanwhile.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import structlog
from sqlalchemy import Connection, Engine, inspect, select, table, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.expression import column

from vlib_images.atomic import sync_directory
from vlib_images.library.database import events, schema, sqlite
from vlib_images.library.database.errors import DatabaseClosed, DatabaseMissing, StateDamaged, StorageFailed
from vlib_images.library.database.events import Event
from vlib_images.library.fair_lock import FairLock

log = structlog.get_logger(__name__)

FILE_NAME: Final = "tapebay.db"
UNFINISHED: Final = ".new"  # a database that is being made has this after its name
EVENTS_BETWEEN_PRUNES: Final = 1000

_version = table("alembic_version", column("version_num"))


class Database:
    """Made by create() or open(). Thread-safe; changes take turns, first come first served. close() it."""

    def __init__(self, path: Path) -> None:
        """Use create() or open()."""
        self.path = path
        self._turns = FairLock("a change of the database within a change of the database")
        self._failure: BaseException | None = None
        self._events_since_prune = 0
        self._watchers: list[Callable[[int], None]] = []
        self._engine, self._writer = self._connect()

    # ---- life ------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, empty database, whole or not at all. Raises FileExistsError, OSError."""
        with cls.being_made(path):
            pass
        return cls.open(path)

    @classmethod
    @contextmanager
    def being_made(cls, path: Path) -> Iterator[Connection]:
        """A new database that takes its name when the block ends, with what the block put into it."""
        if path.exists():
            raise FileExistsError(errno.EEXIST, "there is a database already", str(path))
        unfinished = path.with_name(path.name + UNFINISHED)
        sqlite.make_file(unfinished)
        engine = sqlite.make_engine(unfinished)
        try:
            with _translated(unfinished), engine.connect() as connection, connection.begin():
                sqlite.mark(connection)
                schema.metadata.create_all(connection)
                events.begin(connection)
                connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
                connection.execute(_version.insert(), {"version_num": schema.REVISION})
                yield connection
        finally:
            engine.dispose()
        unfinished.rename(path)
        sync_directory(path.parent)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises DatabaseMissing, StateDamaged (also: made by a newer version), OSError."""
        if not path.is_file():
            raise DatabaseMissing(path)
        with _translated(path):
            return cls(path)

    def close(self) -> None:
        """What was committed is in the one file afterwards, and its log is gone. No further call but close()."""
        with self._turns:
            self._disconnect()

    def _connect(self) -> tuple[Engine, Connection]:
        engine = sqlite.make_engine(self.path)
        try:
            with engine.connect() as connection:
                sqlite.check(connection, self.path)
                connection.rollback()
                sqlite.use_log(connection, self.path)
                self._bring_up_to_date(connection)
                self._check_documents(connection)
            return engine, engine.connect().execution_options(**{sqlite.WRITER: True})
        except BaseException:
            engine.dispose()
            raise

    def _disconnect(self) -> None:
        self._writer.close()
        self._engine.dispose()

    def _bring_up_to_date(self, connection: Connection) -> None:
        found = None
        if inspect(connection).has_table(_version.name):
            found = connection.scalar(select(_version.c.version_num))
        connection.rollback()
        if found != schema.REVISION:
            from vlib_images.library.database.upgrade import upgrade  # Alembic takes a quarter of a second to import

            upgrade(connection, self.path, found)

    def _check_documents(self, connection: Connection) -> None:
        """All of them: one whose damaged name hides it from who asks for it is found here. Inventory reads its own."""
        for documents in schema.DOCUMENTS:
            for row in connection.execute(select(documents)):
                if not schema.is_sealed(documents, row):
                    name = f"{row.namespace}/{row.key} in {documents.name}"
                    raise StateDamaged(self.path, f"damaged: {name} fails its checksum")

    def watch(self, told: Callable[[int], None]) -> None:
        """Call told(number) after each change with events: the number of its last one. It must neither raise nor
        wait, and may be called by any thread."""
        self._watchers.append(told)

    # ---- reading and changing ----------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one committed state, for as long as the block lasts. Waits for no change.

        Raises StateDamaged, StorageFailed."""
        with _translated(self.path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def change(self, *happened: Event) -> Iterator[Connection]:
        """One transaction, durable when the block has ended, with its audit records. Not to be nested.

        An exception in the block undoes it. Raises StorageFailed, IntegrityError (a constraint of the schema), and
        DatabaseClosed while the database cannot be opened anew after a failure; in each case nothing has changed.
        """
        with self._turns:
            if self._failure is not None:
                self._open_anew()
            with _translated(self.path, running=True), self._transaction():
                yield self._writer
                number = events.record(self._writer, happened)
                self._prune(len(happened))
            for told in self._watchers if number else ():
                told(number)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        committing = False
        try:
            if self._writer.in_transaction():  # of a thread that was ended before it could undo it
                self._writer.rollback()
            transaction = self._writer.begin()
            yield
            committing = True
            transaction.commit()
        except BaseException as error:
            if committing:
                self._close_after(error)
            else:
                self._undo()
            raise

    def _undo(self) -> None:
        try:
            self._writer.rollback()
        except Exception as error:  # noqa: BLE001 - whatever it says, what is open now cannot be trusted
            self._close_after(error)

    def _close_after(self, error: BaseException) -> None:
        self._failure = getattr(error, "orig", None) or error  # the driver's own words, without SQLAlchemy's
        log.error("a change of the database failed; it is closed", path=str(self.path), reason=self.failure)

    def _prune(self, recorded: int) -> None:
        self._events_since_prune += recorded
        if self._events_since_prune >= EVENTS_BETWEEN_PRUNES:
            self._events_since_prune = 0
            events.forget_oldest(self._writer)

    # ---- opening anew ------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> str | None:
        """Why changes are refused; None: they are not."""
        return None if self._failure is None else str(self._failure) or type(self._failure).__name__

    def reopen(self) -> None:
        """Open the database anew after a commit that failed. The next change would do it too. Raises DatabaseClosed."""
        with self._turns:
            if self._failure is not None:
                self._open_anew()

    def _open_anew(self) -> None:
        try:
            with _translated(self.path, running=True):
                if not self._writer.closed:
                    self._settle()
                    self._disconnect()
                self._engine, self._writer = self._connect()
        except (StateDamaged, OSError) as error:
            message = f"the database {self.path} is closed after a change that failed ({self.failure}), and cannot be"
            number = error.errno if isinstance(error, OSError) else None
            raise DatabaseClosed(number or errno.EIO, f"{message} opened anew: {error}") from error
        self._failure = None
        log.warning("the database is open again", path=str(self.path))

    def _settle(self) -> None:
        self._writer.rollback()
        sqlite.settle(self._writer)


@contextmanager
def _translated(path: Path, *, running: bool = False) -> Iterator[None]:
    """Errors of the driver in our words. `running`: damage found in the middle of work is a failure of the storage."""
    try:
        yield
    except IntegrityError:
        raise
    except sqlite.ERRORS as error:
        failure = sqlite.failure(error, path)
        if running and isinstance(failure, StateDamaged):
            failure = StorageFailed(errno.EIO, str(failure))
        raise failure from error
