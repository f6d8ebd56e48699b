"""Small durable facts of a library: reservations, saved mode pages, counters, the library's identity.

Keys and JSON values in namespaces, in the database. A CRC32C for each tells damage from content.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Row, Table, delete, insert, select, update

from vlib_images.library.database import schema
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.database.events import Event
from vlib_images.library.later import Later

__all__ = ["JsonValue", "LibraryState", "Namespace", "StateDamaged"]

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]{0,62}")
# What the last part of a key says: where it stands, and what its change is called in the audit record. Everything
# else is counters and the like, which nobody changes on purpose.
_AUDITED: Final = {
    "reservations": (schema.reservations, "reservations changed"),
    "mode": (schema.saved_mode_pages, "mode pages saved"),
}


class LibraryState:
    """Keys and JSON values, grouped into namespaces. Thread-safe.

    What a caller gets is a copy and what it gave is copied, so nothing changes a stored value but update().
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._later = Later(self._write_later)

    def get(self, namespace: str, key: str) -> JsonValue:
        """The value of `key`, None when there is none. Raises StateDamaged, OSError."""
        if (document := self._later.waiting().get((namespace, key))) is not None:
            return _value(document)
        table = _table(key)
        statement = select(table).where(table.c.namespace == _checked(namespace), table.c.key == key)
        with self._database.read() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else self._value(table, row)

    def items(self, namespace: str) -> dict[str, JsonValue]:
        """Every key and value of `namespace`; empty when nothing was ever stored. Raises StateDamaged, OSError."""
        _checked(namespace)
        with self._database.read() as connection:
            return {
                row.key: self._value(table, row)
                for table in schema.DOCUMENTS
                for row in connection.execute(select(table).where(table.c.namespace == namespace))
            }

    def put(self, namespace: str, key: str, value: JsonValue) -> None:
        """Set one key, durable when this returns; None deletes it. Raises as update() does."""
        self.update(namespace, {key: value})

    def put_soon(self, namespace: str, key: str, value: JsonValue) -> None:
        """Set one key within a second or so, without waiting for it: for counts. Raises TypeError or ValueError for a
        value that JSON does not have."""
        self._later.put((_checked(namespace), key), _canonical(value))

    def flush(self) -> None:
        """What put_soon() was given is written, or the log says why not."""
        self._later.flush()

    def _write_later(self, documents: Mapping[tuple[str, str], str]) -> None:
        with self._database.change() as connection:
            for (namespace, key), document in documents.items():
                put_document(connection, namespace, key, document)

    def update(self, namespace: str, changes: Mapping[str, JsonValue]) -> None:
        """Set several keys in one step, durable when this returns; the value None deletes its key.

        Raises OSError when the storage fails, TypeError or ValueError for a value that JSON does not have. In each case
        nothing has changed.
        """
        documents = {key: None if value is None else _canonical(value) for key, value in changes.items()}
        _checked(namespace)
        kinds = [(key, _AUDITED[kind]) for key in changes if (kind := key.rpartition("/")[2]) in _AUDITED]
        events = [Event(action, key.rpartition("/")[0] or namespace) for key, (_, action) in kinds]
        with self._database.change(*events) as connection:
            for key, document in documents.items():
                put_document(connection, namespace, key, document)

    def namespace(self, namespace: str) -> "Namespace":
        """One namespace as a store of its own: what a logical unit is given for its reservations and mode pages."""
        return Namespace(self, namespace)

    def _value(self, table: Table, row: Row[Any]) -> JsonValue:
        if not schema.is_sealed(table, row):
            name = f"{row.namespace}/{row.key} in {table.name}"
            raise StateDamaged(self._database.path, f"damaged: {name} fails its checksum")
        return _value(row.document)


class Namespace:
    """What a logical unit asks of one namespace of a library's state; they raise what the store's own raise."""

    def __init__(self, state: LibraryState, name: str) -> None:
        self._state = state
        self._name = name

    def get(self, key: str, /) -> JsonValue:
        return self._state.get(self._name, key)

    def put(self, key: str, value: JsonValue, /) -> None:
        self._state.put(self._name, key, value)

    def put_soon(self, key: str, value: JsonValue, /) -> None:
        self._state.put_soon(self._name, key, value)


def put_document(connection: Connection, namespace: str, key: str, document: str | None) -> None:
    """Set, or (None) delete, one key within a transaction; `document` is JSON."""
    table = _table(key)
    this = (table.c.namespace == namespace) & (table.c.key == key)
    if document is None:
        connection.execute(delete(table).where(this))
        return
    row = schema.seal(table, {"namespace": namespace, "key": key, "document": document})
    if connection.execute(update(table).where(this).values(row)).rowcount == 0:
        connection.execute(insert(table), [row])


def _value(document: str) -> JsonValue:
    value: JsonValue = json.loads(document)
    return value


def _table(key: str) -> Table:
    audited = _AUDITED.get(key.rpartition("/")[2])
    return schema.state if audited is None else audited[0]


def _canonical(value: JsonValue) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _checked(namespace: str) -> str:
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"not a namespace: {namespace!r}")
    return namespace
