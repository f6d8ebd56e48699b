"""What of the files of disks an increment has to write: those that the backup before it has not, as they are now.

A file need not be written again when everything that is known of it is the same as then, where it lies on the disk
included, and no chunk of the disk under it has been written since (vlib_images.disk.changes). That is a proof, and not
a guess from times. A hard link is written whenever the file is that it leads to, since tar makes that one anew.

Of an image of a disk or partition only the chunks that were written since are written, as a file of their own beside it
(DISK.img.changes), sparse like the image: restoring the image applies them in their order.

Every directory is written, with the names of all that is in it (GNU tar's "dumpdir"), so that `tar -G` removes what is
no longer there. Full backup and increments, extracted in their order, are the files as they were.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from appliance.backup.archive import Member
from appliance.backup.catalogue import Catalogue, Kept
from appliance.backup.entries import Entry, FileExtent, Kind, Skipped
from appliance.backup.filesystems.raw import RawImage
from appliance.backup.house import Instant
from appliance.backup.sources import TICK_FILES, SourcePart, Sources, SourceTotals, StillDisk, identified
from appliance.backup.spool import Spool
from vlib_images.disk.changes import Mark, NoIncrement
from vlib_images.disk.snapshot_store import CHUNK_BYTES

_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE found (position INTEGER PRIMARY KEY, directory BLOB NOT NULL, base BLOB NOT NULL, code TEXT NOT NULL);
CREATE INDEX found_by_name ON found (directory, base);
"""
# What a dumpdir says of a name (GNU tar, "Dumpdir"): a directory, a file in this archive, a file that is not in it.
_DIRECTORY, _WRITTEN, _UNCHANGED = "D", "Y", "N"
_PAGE_ROWS: Final = 10_000
_ROOT: Final = b"."
_RUNS: Final = re.compile(b"\1+")
CHANGES: Final = b".changes"  # what the name of a file of an image's changes ends with


class ChangedChunks:
    """What of a disk was written since an instant, in chunks of 64 KiB."""

    def __init__(self, size_bytes: int, runs: Iterator[tuple[int, int]]) -> None:
        """runs: (offset, length) in bytes, within the disk."""
        self._chunks = bytearray(-(-size_bytes // CHUNK_BYTES))
        for offset, length in runs:
            first, end = offset // CHUNK_BYTES, -(-(offset + length) // CHUNK_BYTES)
            self._chunks[first:end] = b"\1" * (end - first)

    def under(self, extents: Sequence[FileExtent]) -> bool:
        """Whether any byte of these may have been written."""
        find = self._chunks.find
        return any(
            find(1, extent.disk_offset // CHUNK_BYTES, (extent.disk_offset + extent.length - 1) // CHUNK_BYTES + 1) >= 0
            for extent in extents
        )

    def within(self, offset: int, size_bytes: int) -> Iterator[FileExtent]:
        """What may have been written of that range, which is a file; in its order."""
        end = offset + size_bytes
        first, last = offset // CHUNK_BYTES, -(-end // CHUNK_BYTES)
        for run in _RUNS.finditer(self._chunks, first, last):
            at, until = max(run.start() * CHUNK_BYTES, offset), min(run.end() * CHUNK_BYTES, end)
            yield FileExtent(at - offset, at, until - at)


class Base:
    """The backup that an increment follows, and what was written to its disks since; close() it."""

    def __init__(self, path: Path, instant: Instant, disks: Sequence[StillDisk]) -> None:
        """path: of its catalogue. instant: of the increment. Raises NoIncrement, CatalogueDamaged, OSError."""
        self.catalogue = Catalogue.open(path)
        try:
            marks = self.catalogue.facts().get("marks") or {}
            self.changed = [
                ChangedChunks(disk.image.size_bytes, instant.changed_since(disk.name, _mark(marks.get(disk.name))))
                for disk in disks
            ]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.catalogue.close()


def _mark(text: Any) -> Mark:
    try:
        return Mark.parse(str(text))
    except ValueError:
        raise NoIncrement("only a full copy will do: the disk's changes were not counted then") from None


class Increment:
    """Stands in for Sources: totals() decides what is to be written. close() it, and with it what it is made of."""

    def __init__(self, sources: Sources, base: Base, scratch: Path) -> None:
        """scratch: a file that is used until close(). Raises OSError."""
        self.disks: list[StillDisk] = sources.disks
        self.parts: list[SourcePart] = sources.parts
        self._sources = sources
        self._base, self._known = base, base.catalogue
        self._images = {part.prefix: part.files for part in self.parts if isinstance(part.files, RawImage)}
        self._scratch = scratch
        scratch.unlink(missing_ok=True)
        self._found = sqlite3.connect(scratch, isolation_level=None)
        self._found.executescript(_SCHEMA)

    def close(self) -> None:
        """Neither what reads the file systems nor the earlier catalogue is needed any longer."""
        self._found.close()
        self._scratch.unlink(missing_ok=True)
        self._base.close()
        self._sources.close()

    def totals(
        self, keep: Callable[[Member], None] = lambda member: None, tick: Callable[[], None] = lambda: None
    ) -> SourceTotals:
        """Of what is to be written; digest: of that, and of all that was found. keep: called with each file of it,
        numbered from 0, when all has been found. tick: called on the way; both may raise."""
        self._found.execute("DELETE FROM found")
        with closing(Spool(self._scratch.parent)) as written:
            self._found.execute("BEGIN")
            totals = self._walk(written, tick)
            self._found.execute("COMMIT")
            written.end()
            for member in written.members(tick=tick):
                if member.entry.kind is Kind.DIRECTORY:
                    member.entry.dumpdir = self._dumpdir(member.entry.name)
                keep(member)
        return totals

    def _walk(self, written: Spool, tick: Callable[[], None]) -> SourceTotals:
        totals, digest, position = SourceTotals(), hashlib.blake2b(digest_size=16), 0
        for count, found in enumerate(self._sources.members()):
            if count % TICK_FILES == 0:
                tick()
            if isinstance(found, Skipped):
                digest.update(identified(found) + b"\n")
                totals.count(found)
                continue
            for member in (found, *self._changes(found)):
                digest.update(identified(member) + b"\n")
                code = self._decide(position, member)
                position += 1
                digest.update(code.encode())
                if code != _UNCHANGED:
                    totals.count(member)
                    written.add(member)
        totals.digest = digest.hexdigest()
        return totals

    def chain(self) -> list[str]:
        """The identifiers of the backups that this one rests on, the full one first."""
        facts = self._known.facts()
        return [*(facts.get("chain") or []), facts["identifier"]]

    def unchanged(self) -> Iterator[Kept]:
        """After totals(): what need not be written, and where it is."""
        itself, number = len(self.chain()) - 1, 0
        for directory, base, code in self._decided():
            if code != _UNCHANGED:
                number += 1
            elif (known := self._known.state_of(_joined(directory, base))) is not None:
                yield known._replace(origin=itself if known.origin is None else known.origin, before=number)

    def _decide(self, position: int, member: Member) -> str:
        directory, base = _split(member.entry.name)
        code = _DIRECTORY if member.entry.kind is Kind.DIRECTORY else _WRITTEN
        if code == _WRITTEN and self._is_unchanged(member):
            code = _UNCHANGED
        self._found.execute("INSERT INTO found VALUES (?, ?, ?, ?)", (position, directory, base, code))
        return code

    def _is_changed_image(self, entry: Entry) -> bool:
        """Whether what the backup before has, and the changes since, make an image."""
        if entry.name not in self._images:
            return False
        known = self._known.state_of(entry.name)
        return known is not None and known.file.size == entry.size

    def _changes(self, member: Member) -> Iterator[Member]:
        """What an image's changes are beside it: one file, or nothing."""
        entry = member.entry
        if not self._is_changed_image(entry):
            return
        image = self._images[entry.name]
        extents = list(self._base.changed[member.disk].within(image.offset, image.size_bytes))
        if extents:
            changes = Entry(entry.name + CHANGES, Kind.FILE, entry.mode, size=entry.size, extents=extents)
            yield replace(member, entry=changes)

    def images(self) -> dict[str, str]:
        """After totals(): the names of images that are not written whole, and of their changes."""
        query, found = "SELECT 1 FROM found WHERE directory = ? AND base = ? AND code = ?", dict[str, str]()
        for image in self._images:
            changes = image + CHANGES
            if self._found.execute(query, (*_split(changes), _WRITTEN)).fetchone() is not None:
                found[image.decode()] = changes.decode()
        return found

    def _is_unchanged(self, member: Member) -> bool:
        entry = member.entry
        if self._is_changed_image(entry):
            return True  # but for its changes
        known = self._known.state_of(entry.name)
        if known is None or known.file.identity != member.identity:
            return False
        if entry.kind is Kind.HARD_LINK:
            return self._code_of(entry.link) == _UNCHANGED
        return not self._base.changed[member.disk].under(entry.extents)

    def _code_of(self, name: bytes) -> str | None:
        query = "SELECT code FROM found WHERE directory = ? AND base = ?"
        row = self._found.execute(query, _split(name)).fetchone()
        return row[0] if row is not None else None

    def _decided(self) -> Iterator[tuple[bytes, bytes, str]]:
        """(directory, name in it, code) of all files, in the order in which they were found."""
        query, after = "SELECT * FROM found WHERE position > ? ORDER BY position LIMIT ?", -1
        while rows := self._found.execute(query, (after, _PAGE_ROWS)).fetchall():
            yield from (row[1:] for row in rows)
            after = rows[-1][0]

    def _dumpdir(self, directory: bytes) -> bytes:
        """What is in a directory: a letter, the name and a NUL for each, and one more NUL."""
        rows = self._found.execute("SELECT code, base FROM found WHERE directory = ? ORDER BY base", (directory,))
        return b"".join(code.encode() + base + b"\0" for code, base in rows) + b"\0"


ToWrite: TypeAlias = Sources | Increment


def _split(name: bytes) -> tuple[bytes, bytes]:
    """(the directory that it is in, its name there); the root is in none."""
    if name == _ROOT:
        return b"", _ROOT
    directory, _, base = name.rpartition(b"/")
    return directory or _ROOT, base


def _joined(directory: bytes, base: bytes) -> bytes:
    return base if directory in (b"", _ROOT) else directory + b"/" + base
