"""The statements and migrations that run on SQLite run on PostgreSQL: a server of its own, as an ordinary user."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, text

from tests.support import packages
from vlib_images.library.database import content_rows, events, schema
from vlib_images.library.database.content_rows import StoredContent
from vlib_images.library.database.database import Database
from vlib_images.library.database.events import Event
from vlib_images.library.database.upgrade import configuration
from vlib_images.library.inventory import Inventory, Layout
from vlib_images.library.state import LibraryState

LAYOUT = Layout(range(1, 2), range(4096, 5096), range(16, 18), range(256, 258))
SMALLER = Layout(range(1, 2), range(4096, 4596), range(16, 18), range(256, 258))
PROGRAMS = (*os.environ.get("PATH", "").split(os.pathsep), *map(str, Path("/").glob("usr/lib/postgresql/*/bin")))


class OnPostgreSQL(Database):
    """The database of a library, on a server."""

    def __init__(self, url: str) -> None:
        self._url = url
        super().__init__(Path("postgresql"))

    def _connect(self) -> tuple[Engine, Connection]:
        engine = create_engine(self._url)
        return engine, engine.connect()


def program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join(PROGRAMS))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty database. The server listens on a Unix socket alone, and refuses to run as root."""
    packages.require("postgresql")
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="tapebay-pg-") as folder:  # short: the socket's path has 107 bytes
        if user:
            shutil.chown(folder, user)
        quiet = {"user": user, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        data, options = f"{folder}/data", f"-k {folder} -c listen_addresses= -c fsync=off"
        subprocess.run([program("initdb"), "-D", data, "-A", "trust", "-U", "tapebay"], **quiet)  # type: ignore[call-overload]
        subprocess.run([program("pg_ctl"), "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start"], **quiet)  # type: ignore[call-overload]
        try:
            yield f"postgresql+psycopg://tapebay@/postgres?host={folder}"
        finally:
            subprocess.run([program("pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop"], **quiet)  # type: ignore[call-overload]


@pytest.fixture
def url(server: str) -> str:
    """The same, with the schema that the migrations make."""
    engine = create_engine(server)
    with engine.connect() as connection, connection.begin():
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
        command.upgrade(configuration(connection), "head")
    engine.dispose()
    return server


def test_the_migrations_end_in_the_schema(url: str) -> None:
    with create_engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert context.get_current_revision() == schema.REVISION
        assert compare_metadata(context, schema.metadata) == []


def test_the_inventory(url: str) -> None:
    inventory = Inventory(OnPostgreSQL(url), LAYOUT)
    for _ in inventory.add_all([(f"A{number:05}L6", 4096 + number) for number in range(1000)]):
        pass
    inventory.move(4096, 256)
    inventory.exchange(4097, 256, 4096)
    assert inventory.remove(4098) == "A00002L6"
    inventory.insert("A00002L6", 16)
    inventory.discard("A00010L6")
    again = Inventory(OnPostgreSQL(url), LAYOUT)
    assert again.elements() == inventory.elements()
    assert again.barcodes() == inventory.barcodes()
    smaller = Inventory(OnPostgreSQL(url), SMALLER)
    assert len(smaller.evicted) == 500
    assert Inventory(OnPostgreSQL(url), LAYOUT).shelf() == smaller.shelf()


def test_the_state_of_units(url: str) -> None:
    store = LibraryState(OnPostgreSQL(url))
    store.update("devices", {"drive0/reservations": {"type": 3}, "drive0/mode": {"0f": "ä"}, "drive0/life": [1.5]})
    store.update("devices", {"drive0/mode": {"0f": "80"}, "drive0/life": None})
    assert LibraryState(OnPostgreSQL(url)).items("devices") == {
        "drive0/reservations": {"type": 3},
        "drive0/mode": {"0f": "80"},
    }


def test_content_and_events(url: str) -> None:
    database = OnPostgreSQL(url)
    nothing: dict[str, dict[str, Any]] = {name: {} for name in content_rows.TABLES}
    first = StoredContent({**nothing, "devices": {"b": {"k": 1}, "a": {"k": 2}}, "accounts": {"u": {}}}, {"z": 1})
    content_rows.change(database, content_rows.load(database), first)
    assert content_rows.load(OnPostgreSQL(url)) == first
    some: dict[str, dict[str, Any]] = {"targets": {"t": {}}, "zones": {"y": {}}, "partitions": {"p": {"slots": "1-3"}}}
    second = StoredContent({**nothing, **some, "devices": {"a": {"k": 3}}, "accounts": {"u": {}}}, {"z": 1})
    content_rows.change(database, first, second)
    assert content_rows.load(OnPostgreSQL(url)) == second
    with pytest.raises(ZeroDivisionError), database.change(Event("undone", "x")):
        raise ZeroDivisionError
    with database.change(Event("done", "y")) as connection:
        events.forget_oldest(connection, kept=5)
    with database.read() as connection:
        assert {event.action for event in events.latest(connection, 10)} == {
            "done", "target added", "device changed", "device removed", "zone added", "partition added",
        }  # fmt: skip
