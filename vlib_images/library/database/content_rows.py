"""What the library contains: devices, partitions, pools, targets, accounts and zones, a row each, in the order given.

This room does not know what a drive is: a row is a JSON document with a name, and the table it stands in. Whoever keeps
content here says all of it each time; only the rows that differ are written, with an audit record for each, which names
the fields that changed and never their values (some are secrets).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, delete, insert, select, update

from vlib_images.library.database import schema
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.database.events import Event

TABLES: Final = {
    "devices": schema.devices,
    "targets": schema.targets,
    "accounts": schema.accounts,
    "zones": schema.zones,
    "partitions": schema.partitions,
    "remotes": schema.remotes,
    "pools": schema.pools,
}
_NOUN: Final = {
    "devices": "device",
    "targets": "target",
    "accounts": "account",
    "zones": "zone",
    "partitions": "partition",
    "remotes": "remote unit",
    "pools": "pool",
}
_APPLIED: Final = "content/applied"  # a key of schema.state: what was declared when it was last applied
_NAMESPACE: Final = "content"

Rows: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Table to name to document; names in their order."""


@dataclass(frozen=True, slots=True)
class StoredContent:
    """applied: what was declared when it was last applied, a JSON document; None: nothing was ever kept."""

    rows: Rows = field(default_factory=lambda: {table: {} for table in TABLES})
    applied: Any = None


def load(database: Database) -> StoredContent:
    """All of it. Raises StateDamaged, OSError."""
    with database.read() as connection:
        rows = {name: dict(_read(connection, database, name)) for name in TABLES}
        where = (schema.state.c.namespace == _NAMESPACE) & (schema.state.c.key == _APPLIED)
        applied = connection.scalar(select(schema.state.c.document).where(where))
    return StoredContent(rows, None if applied is None else json.loads(applied))


def change(database: Database, before: StoredContent, after: StoredContent) -> None:
    """From what load() gave to something else, in one transaction. Raises OSError, and then nothing has changed."""
    events = [event for name in TABLES for event in _differences(name, before.rows[name], after.rows[name])]
    if after.applied != before.applied:
        events.append(Event("declared content applied", "tapebay.toml"))
    with database.change(*events) as connection:
        for name in TABLES:
            _write(connection, name, before.rows[name], after.rows[name])
        if after.applied != before.applied:
            _write_applied(connection, after.applied)


def _read(connection: Connection, database: Database, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    table = TABLES[name]
    for row in connection.execute(select(table).order_by(table.c.position)):
        if not schema.is_sealed(table, row):
            raise StateDamaged(database.path, f"damaged: {_NOUN[name]} {row.name} fails its checksum")
        yield row.name, json.loads(row.document)


def _write(
    connection: Connection, name: str, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> None:
    """Touches only what differs: sealing costs more than comparing, and a change is mostly of one row of many."""
    table = TABLES[name]
    old = {key: (position, document) for position, (key, document) in enumerate(before.items())}
    for gone in old.keys() - after.keys():
        connection.execute(delete(table).where(table.c.name == gone))
    added = []
    for position, (key, document) in enumerate(after.items()):
        if old.get(key) == (position, document):
            continue
        row = schema.seal(table, {"name": key, "position": position, "document": _canonical(document)})
        if key in old:
            connection.execute(update(table).where(table.c.name == key).values(row))
        else:
            added.append(row)
    if added:
        connection.execute(insert(table), added)


def _write_applied(connection: Connection, applied: Any) -> None:
    table = schema.state
    this = (table.c.namespace == _NAMESPACE) & (table.c.key == _APPLIED)
    row = schema.seal(table, {"namespace": _NAMESPACE, "key": _APPLIED, "document": _canonical(applied)})
    if connection.execute(update(table).where(this).values(row)).rowcount == 0:
        connection.execute(insert(table), [row])


def _differences(
    name: str, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> Iterator[Event]:
    noun = _NOUN[name]
    for key in before.keys() - after.keys():
        yield Event(f"{noun} removed", key)
    for key, document in after.items():
        if key not in before:
            yield Event(f"{noun} added", key)
        elif document != before[key]:
            fields = document.keys() | before[key].keys()
            changed = sorted(each for each in fields if document.get(each) != before[key].get(each))
            yield Event(f"{noun} changed", key, {"fields": changed})


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
