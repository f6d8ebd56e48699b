"""The catalogue of one backup: which file is where on which cartridge, and how far the backup has come.

A SQLite file of its own for each backup, as one may have millions of files, which the library's database shall not
feel. What is in it at a commit is what is durable on tape: rows of files are put in together with the checkpoint that
covers them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from appliance.backup.archive import Checkpoint, Member
from appliance.backup.entries import Kind, Skipped

_SCHEMA: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE volumes (
    number INTEGER PRIMARY KEY, barcode TEXT NOT NULL, archive_bytes INTEGER NOT NULL, closed INTEGER NOT NULL,
    indexed INTEGER NOT NULL
);
CREATE TABLE files (
    number INTEGER PRIMARY KEY, name BLOB NOT NULL, kind BLOB NOT NULL, size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL, stored_bytes INTEGER NOT NULL, crc32c INTEGER NOT NULL
);
CREATE INDEX files_by_name ON files (name);
CREATE TABLE parts (
    number INTEGER NOT NULL, part INTEGER NOT NULL, volume INTEGER NOT NULL, start INTEGER NOT NULL,
    content_start INTEGER NOT NULL, content_bytes INTEGER NOT NULL, map_bytes INTEGER NOT NULL,
    PRIMARY KEY (number, part)
) WITHOUT ROWID;
CREATE TABLE skipped (name BLOB NOT NULL, reason TEXT NOT NULL);
"""
# What version 2 has more: what a later increment compares, and what an increment need not write again.
_INCREMENTS: Final = """
ALTER TABLE files ADD COLUMN identity BLOB;
CREATE TABLE unchanged (
    position INTEGER PRIMARY KEY, number INTEGER NOT NULL, name BLOB NOT NULL, kind BLOB NOT NULL,
    size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, stored_bytes INTEGER NOT NULL, crc32c INTEGER NOT NULL,
    identity BLOB, origin INTEGER NOT NULL, before INTEGER NOT NULL
);
CREATE INDEX unchanged_by_name ON unchanged (name);
"""
_VERSION: Final = 2
_FILE: Final = "number, name, kind, size, modified_ns, stored_bytes, crc32c, identity"
_PUT_FILE: Final = f"INSERT OR REPLACE INTO files ({_FILE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
# All files of the instant, wherever they are.
_STATE: Final = f"(SELECT {_FILE}, NULL AS origin FROM files UNION ALL SELECT {_FILE}, origin FROM unchanged)"
_LATEST_NS: Final = (1 << 63) - 1  # of a file's time, in the year 2262: as much as a column holds
_CUT, _LOST = 2, 3  # in the column `closed`
_PAGE_ROWS: Final = 10_000
_KINDS: Final = {kind.value: kind for kind in Kind}


class CatalogueDamaged(Exception):
    """A catalogue that cannot be read; `tapebay catalogue rebuild` makes it anew from its cartridges."""


class File(NamedTuple):
    """A file that is on tape. stored_bytes, crc32c: of what of its content is stored, which is all but the holes.
    identity: a digest of all that was known of it; two that are equal are the same at the same places."""

    number: int
    name: bytes
    kind: Kind
    size: int
    modified_ns: int
    stored_bytes: int
    crc32c: int
    identity: bytes | None = None


class Kept(NamedTuple):
    """A file of the instant of a backup, and on the tapes of which backup it is: its number in the chain of those that
    this one follows, the full one first; None: of this one. file.number: its number there. before: the number of the
    first file on the tapes of this one that comes after it."""

    file: File
    origin: int | None
    before: int = 0


class ArchivePart(NamedTuple):
    """Where a file lies in the archive of a volume, in bytes from its beginning: its headers, and its content.
    content_bytes: of it that are on this volume; the first map_bytes of these are the map of a sparse file."""

    number: int
    part: int
    volume: int
    start: int
    content_start: int
    content_bytes: int
    map_bytes: int


@dataclass(frozen=True, slots=True)
class Volume:
    """One cartridge of the backup. closed: no more is written to it. indexed: an index is on it. cut: its archive ends
    at a checkpoint, without an end of its own, as the cartridge took nothing more. lost: another backup was written
    over the cartridge."""

    number: int
    barcode: str
    archive_bytes: int = 0
    closed: bool = False
    indexed: bool = False
    cut: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """How far a backup has come: which volume is written, and its last checkpoint."""

    volume: int = 1
    checkpoint: Checkpoint = field(default_factory=Checkpoint)


class Catalogue:
    """Open, for one thread that writes and any that read. close() it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)

    @classmethod
    def create(cls, path: Path, facts: dict[str, Any]) -> Self:
        """A new one, empty. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        path.unlink(missing_ok=True)
        made = cls(path)
        with made._changing() as connection:
            for statement in f"{_SCHEMA};{_INCREMENTS}".split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            made._put_facts({**facts, "place": asdict(StreamPlace())})
        return made

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises FileNotFoundError, CatalogueDamaged."""
        if not path.is_file():
            raise FileNotFoundError(f"there is no catalogue {path}")
        found = cls(path)
        try:
            (version,) = found._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            found.close()
            raise CatalogueDamaged(f"{path} cannot be read: {error}") from error
        if version == 1:
            found._bring_up_to_date()
        elif version != _VERSION:
            found.close()
            raise CatalogueDamaged(f"{path} is no catalogue that this version knows")
        return found

    def _bring_up_to_date(self) -> None:
        with self._changing() as connection:
            for statement in _INCREMENTS.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """No call after it."""
        self._connection.close()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._connection
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise OSError(f"the catalogue {self.path} cannot be written: {error}") from error
                raise

    # ---- facts -----------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What is known of the whole backup."""
        return {name: json.loads(value) for name, value in self._rows("SELECT name, value FROM facts")}

    def put_facts(self, **facts: Any) -> None:
        """Raises OSError."""
        with self._changing():
            self._put_facts(facts)

    def _put_facts(self, facts: dict[str, Any]) -> None:
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def place(self) -> StreamPlace:
        """How far the backup has come."""
        found = self.facts()["place"]
        return StreamPlace(found["volume"], Checkpoint(**found["checkpoint"]))

    # ---- what is written -------------------------------------------------------------------------------------------

    def commit(self, place: StreamPlace, members: Iterable[tuple[int, Member]]) -> None:
        """A checkpoint: members, each with the number of its volume, that are durable now. Raises OSError."""
        with self._changing():
            self._put_members(members)
            self._put_facts({"place": asdict(place)})

    def _put_members(self, members: Iterable[tuple[int, Member]]) -> None:
        files, parts = [], []
        for volume, member in members:
            entry = member.entry
            files.append(
                (
                    member.number, entry.name, entry.kind.value, entry.size, min(entry.modified_ns, _LATEST_NS),
                    member.stored_bytes, member.crc32c, member.identity or None,
                )
            )  # fmt: skip
            parts.append(part_of(volume, member))
        self._connection.executemany(_PUT_FILE, files)
        self._connection.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)", parts)

    def close_volume(
        self, volume: Volume, place: StreamPlace, members: Iterable[tuple[int, Member]], *parts: ArchivePart
    ) -> None:
        """The archive of a volume is complete. parts: of a file that goes on on the next. Raises OSError."""
        with self._changing() as connection:
            self._put_members(members)
            connection.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)", parts)
            self._put_volume(volume)
            self._put_facts({"place": asdict(place)})

    def put_volume(self, volume: Volume) -> None:
        """Raises OSError."""
        with self._changing():
            self._put_volume(volume)

    def _put_volume(self, volume: Volume) -> None:
        closed = _LOST if volume.lost else _CUT if volume.cut else int(volume.closed)
        row = (volume.number, volume.barcode, volume.archive_bytes, closed, volume.indexed)
        self._connection.execute("INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?)", row)

    def put_skipped(self, skipped: Iterable[Skipped]) -> None:
        """What cannot be backed up; in place of what was said before. Raises OSError."""
        with self._changing() as connection:
            connection.execute("DELETE FROM skipped")
            connection.executemany("INSERT INTO skipped VALUES (?, ?)", skipped)

    def put_read_back(self, rows: Iterable[tuple[File, list[ArchivePart]]]) -> None:
        """Files as an index has them. Raises OSError."""
        with self._changing() as connection:
            for file, parts in rows:
                connection.execute(_PUT_FILE, _row(file))
                connection.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)", parts)

    def put_unchanged(self, kept: Iterable[Kept]) -> None:
        """What earlier backups have already; in place of what was said before. Raises OSError."""
        with self._changing() as connection:
            connection.execute("DELETE FROM unchanged")
            rows = ((None, *_row(one.file), one.origin, one.before) for one in kept)
            connection.executemany("INSERT INTO unchanged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    # ---- what is asked ---------------------------------------------------------------------------------------------

    def volumes(self) -> list[Volume]:
        """In their order."""
        rows = self._rows("SELECT * FROM volumes ORDER BY number")
        return [
            Volume(number, barcode, size, bool(closed), bool(indexed), closed == _CUT, closed == _LOST)
            for number, barcode, size, closed, indexed in rows
        ]

    def totals(self) -> tuple[int, int]:
        """(files, bytes of content) that are on tape."""
        ((files, stored),) = self._rows("SELECT count(*), coalesce(sum(stored_bytes), 0) FROM files")
        return files, stored

    def state_bytes(self) -> int:
        """Of the content of all files of its instant."""
        ((stored,),) = self._rows(f"SELECT coalesce(sum(stored_bytes), 0) FROM {_STATE}")
        return int(stored)

    def files(self) -> Iterator[File]:
        """In the order of the tapes."""
        after = -1
        while rows := self._rows("SELECT * FROM files WHERE number > ? ORDER BY number LIMIT ?", after, _PAGE_ROWS):
            yield from (_file(row) for row in rows)
            after = rows[-1][0]

    def all_parts(self) -> Iterator[list[ArchivePart]]:
        """For each of files(), where it is."""
        query = (
            "SELECT parts.* FROM parts JOIN files USING (number) WHERE part = 1 AND parts.number > ? "
            "ORDER BY parts.number LIMIT ?"
        )
        split, after = self.split_files(), -1
        while rows := self._rows(query, after, _PAGE_ROWS):
            for row in rows:
                yield self.parts_of(row[0]) if row[0] in split else [ArchivePart(*row)]
            after = rows[-1][0]

    def split_files(self) -> dict[int, int]:
        """The files that are on several volumes, and on how many."""
        return dict(self._rows("SELECT number, max(part) FROM parts WHERE part > 1 GROUP BY number"))

    def parts(self, volume: int) -> Iterator[tuple[File | None, ArchivePart]]:
        """What is on a volume, in order; the file is None for a part of one that is not whole yet."""
        query = (
            "SELECT parts.*, files.* FROM parts LEFT JOIN files USING (number) WHERE volume = ? AND parts.number > ? "
            "ORDER BY parts.number LIMIT ?"
        )
        after = -1
        while rows := self._rows(query, volume, after, _PAGE_ROWS):
            for row in rows:
                yield _file((row[0], *row[8:])) if row[8] is not None else None, ArchivePart(*row[:7])
            after = rows[-1][0]

    def parts_of(self, number: int) -> list[ArchivePart]:
        """Where a file is."""
        return [ArchivePart(*row) for row in self._rows("SELECT * FROM parts WHERE number = ? ORDER BY part", number)]

    def find(self, pattern: bytes, limit: int) -> list[File]:
        """Files on the tapes of this backup whose names fit a pattern with *, ? and [...]; one without is the beginning
        of the name of a folder, or a name."""
        return [_file(row) for row in self._found("files", pattern, limit)]

    def state(self, pattern: bytes, limit: int) -> list[Kept]:
        """The same of all files of its instant: with those that earlier backups have."""
        return [_kept(row) for row in self._found(_STATE, pattern, limit)]

    def _found(self, source: str, pattern: bytes, limit: int) -> Any:
        if not any(letter in pattern for letter in b"*?["):
            folder = pattern.rstrip(b"/") + b"/"
            query = f"SELECT * FROM {source} WHERE name = ? OR (name >= ? AND name < ?) ORDER BY name LIMIT ?"
            return self._rows(query, pattern.rstrip(b"/"), folder, folder[:-1] + b"0", limit)
        query = f"SELECT * FROM {source} WHERE CAST(name AS TEXT) GLOB CAST(? AS TEXT) ORDER BY name LIMIT ?"
        return self._rows(query, pattern, limit)

    def state_of(self, name: bytes) -> Kept | None:
        """A file of its instant, by its whole name."""
        rows = self._rows(f"SELECT * FROM {_STATE} WHERE name = ?", name)
        return _kept(rows[0]) if rows else None

    def unchanged(self) -> Iterator[Kept]:
        """What earlier backups have, in the order in which it was found."""
        query, after = f"SELECT {_FILE}, origin, before, position FROM unchanged WHERE position > ? LIMIT ?", -1
        while rows := self._rows(query, after, _PAGE_ROWS):
            yield from (_kept(row[:-1]) for row in rows)
            after = rows[-1][-1]

    def all(self) -> Iterator[Kept]:
        """All files of its instant, in the order in which they were found."""
        unchanged = self.unchanged()
        following = next(unchanged, None)
        for file in self.files():
            while following is not None and following.before <= file.number:
                yield following
                following = next(unchanged, None)
            yield Kept(file, None)
        if following is not None:
            yield following
            yield from unchanged

    def skipped(self, limit: int = -1) -> list[Skipped]:
        """What could not be backed up."""
        return [Skipped(*row) for row in self._rows("SELECT name, reason FROM skipped LIMIT ?", limit)]

    def _rows(self, query: str, *values: Any) -> Any:
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise CatalogueDamaged(f"{self.path} cannot be read: {error}") from error


def part_of(volume: int, member: Member, content_bytes: int | None = None) -> ArchivePart:
    """Where a member lies on a volume; content_bytes: where that is not all that is left of it."""
    left = member.content_bytes - member.before if content_bytes is None else content_bytes
    map_left = max(0, member.content_bytes - member.stored_bytes - member.before)
    return ArchivePart(
        member.number, member.part, volume, member.start, member.content_start, left, min(map_left, left)
    )


def part_begun(volume: int, member: Member, on_tape: int) -> ArchivePart:
    """What a volume has of a member that goes on on the next; on_tape: the bytes of its archive."""
    content = on_tape - member.content_start
    earlier = replace(member, before=member.before - content, part=member.part - 1)
    return part_of(volume, earlier, content)


def entry_name(file: File) -> str:
    """For people and for JSON; bytes that are no UTF-8 are lone surrogates, as Python has them."""
    return file.name.decode(errors="surrogateescape")


def _kept(row: tuple[Any, ...]) -> Kept:
    return Kept(_file(row[:8]), *row[8:])


def _row(file: File) -> tuple[Any, ...]:
    return (*file[:2], file.kind.value, *file[3:])


def _file(row: tuple[Any, ...]) -> File:
    return File(row[0], row[1], _KINDS[row[2]], *row[3:])
