"""The tables. A change here needs a migration in `migrations/versions` and its number in REVISION.

Every row that the library is made from carries a CRC32C over its values (`seal`), because neither SQLite nor a disk
tells a flipped bit in a value from what was written.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from datamover.engine import crc32c

REVISION: Final = "0010"  # the newest migration, which these tables are the outcome of

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

# One row for each cartridge, inside the library or on the shelf (element_type and element_index are null). Elements are
# named by type and index, not by address: a library that changes its model keeps its cartridges where they were.
inventory = Table(
    "inventory",
    metadata,
    Column("barcode", String(32), primary_key=True),
    Column("element_type", SmallInteger),
    Column("element_index", Integer),
    Column("source_type", SmallInteger),
    Column("source_index", Integer),
    Column("placed_by_operator", Boolean, nullable=False),
    Column("crc32c", BigInteger, nullable=False),
    UniqueConstraint("element_type", "element_index"),
    sqlite_with_rowid=False,
)


def _documents(name: str) -> Table:
    """JSON documents by namespace and key."""
    return Table(
        name,
        metadata,
        Column("namespace", String(63), primary_key=True),
        Column("key", String(255), primary_key=True),
        Column("document", Text, nullable=False),
        Column("crc32c", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


reservations = _documents("reservations")  # persistent reservations with APTPL, a row for each logical unit
saved_mode_pages = _documents("saved_mode_pages")  # a row for each logical unit
state = _documents("state")  # counters, erasures under way, the library's identity


def _content(name: str) -> Table:
    """What the library contains: JSON documents by name, in the order in which they were given."""
    return Table(
        name,
        metadata,
        Column("name", String(512), primary_key=True),
        Column("position", Integer, nullable=False),
        Column("document", Text, nullable=False),
        Column("crc32c", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


devices = _content("devices")  # changer, drives, disks
targets = _content("targets")
accounts = _content("accounts")  # secrets included
zones = _content("zones")
partitions = _content("partitions")
remotes = _content("remotes")  # secrets included
pools = _content("pools")

# Requests for drives and volumes, and the grants that came of them; some of those that are over too.
requests = Table(
    "requests",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("document", Text, nullable=False),
    Column("crc32c", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What applications show to be let in by the API; never the token itself.
tokens = Table(
    "tokens",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256, in hexadecimal
    Column("scope", String(16), nullable=False),
    Column("partitions", Text),  # JSON list of what is in its reach; null: all
    Column("pools", Text),  # likewise
    Column("created_at_ms", BigInteger, nullable=False),  # since 1970-01-01 00:00 UTC
    Column("expires_at_ms", BigInteger),
    Column("crc32c", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Backups of disks: what each is to do, and how it stands. Their files are in catalogues of their own.
backups = Table(
    "backups",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("crc32c", BigInteger, nullable=False),
)

# Who changed what, when: each row is written in the transaction of the change that it tells of.
events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_microseconds", BigInteger, nullable=False),  # since 1970-01-01 00:00 UTC
    Column("actor", String(255), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("details", Text, nullable=False),  # JSON object
    Column("hash", String(64), nullable=False, server_default=""),  # over the row and the hash before it (audit_chain)
)

# Where the chain of hashes begins and ends.
audit_marks = Table(
    "audit_marks",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    sqlite_with_rowid=False,
)

# Requests that were made with an idempotency key, so that the same one is not done twice.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", String(255), primary_key=True),
    Column("key", String(64), primary_key=True),  # SHA-256, in hexadecimal
    Column("request", String(64), nullable=False),  # SHA-256 of the verb and its parameters
    Column("at_ms", BigInteger, nullable=False),  # since 1970-01-01 00:00 UTC
    Column("answer", LargeBinary),  # encrypted, since some hold secrets; null: it is at work, or was when all ended
    sqlite_with_rowid=False,
)

DOCUMENTS: Final = (reservations, saved_mode_pages, state)


def seal(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row, by column name, with their checksum, which is the last column; one not given is null."""
    names = table.columns.keys()[:-1]
    return {**values, "crc32c": _checksum(table, [values.get(name) for name in names])}


def is_sealed(table: Table, row: Sequence[Any]) -> bool:
    """Whether a row, with all columns in their order, is what seal() made."""
    return bool(row[-1] == _checksum(table, row[:-1]))


def _checksum(table: Table, values: Sequence[Any]) -> int:
    # default: a damaged row may have a value of any type.
    return crc32c(json.dumps([table.name, *values], separators=(",", ":"), default=repr).encode())
