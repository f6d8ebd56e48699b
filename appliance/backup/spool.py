"""The files of a backup as they were found, in a file of their own while it runs.

What is on a disk is walked once, however often its files are wanted afterwards: to narrow the snapshot, to compare what
is on tape, to write. It takes some 150 bytes a file on the library's disk and none in memory.
"""

from __future__ import annotations

import bisect
import itertools
import marshal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from appliance.backup.archive import Member
from appliance.backup.entries import Entry, FileExtent, Kind

_BATCH_MEMBERS: Final = 256
_BATCH_BYTES: Final = 4 << 20
_LENGTH: Final = struct.Struct("<I")
_KINDS: Final = {kind.value: kind for kind in Kind}
_Row: TypeAlias = "tuple[Any, ...]"


class Spool:
    """Members in their order, numbered from 0. Written once, by add() and then end(); close() it.

    Everything raises OSError, as where the library's disk is full."""

    def __init__(self, directory: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory, prefix="files-of-a-backup-")  # noqa: SIM115
        self._batch: list[_Row] = []
        self._batch_bytes = 0
        self._count = 0
        self._firsts: list[int] = []  # of each batch: its first number,
        self._starts: list[int] = []  # and where it begins in the file
        self._end = 0

    def add(self, member: Member) -> None:
        """The next one."""
        self._batch.append(_row(member))
        self._batch_bytes += member.memory_bytes
        if len(self._batch) == _BATCH_MEMBERS or self._batch_bytes >= _BATCH_BYTES:
            self._put()

    def end(self) -> None:
        """There are no more."""
        if self._batch:
            self._put()
        self._file.flush()

    def _put(self) -> None:
        data = marshal.dumps(self._batch)
        self._file.write(_LENGTH.pack(len(data)) + data)
        self._firsts.append(self._count)
        self._starts.append(self._end)
        self._end += _LENGTH.size + len(data)
        self._count += len(self._batch)
        self._batch, self._batch_bytes = [], 0

    def members(self, first: int = 0, tick: Callable[[], None] = lambda: None) -> Iterator[Member]:
        """From that number on. tick: called now and then, and may raise."""
        batch = max(bisect.bisect_right(self._firsts, first) - 1, 0)
        number = self._firsts[batch] if self._firsts else 0
        for rows in self._batches(batch):
            tick()
            yield from (_member(at, row) for at, row in enumerate(rows, number) if at >= first)
            number += len(rows)

    def extents(self, disk: int) -> Iterator[tuple[int, int]]:
        """What is read of one disk: (offset, length) in bytes."""
        for row in itertools.chain.from_iterable(self._batches(0)):
            if row[0] == disk:
                yield from ((at, length) for _, at, length in row[8])

    def _batches(self, first: int) -> Iterator[list[_Row]]:
        at = self._starts[first] if first < len(self._starts) else self._end
        while at < self._end:
            self._file.seek(at)  # others may read elsewhere meanwhile
            (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            yield marshal.loads(self._file.read(length))
            at += _LENGTH.size + length

    def close(self) -> None:
        """The file is gone."""
        self._file.close()


def _row(member: Member) -> _Row:
    entry = member.entry
    return (
        member.disk, entry.name, entry.kind.value, entry.mode, entry.user, entry.group, entry.modified_ns, entry.size,
        [tuple(extent) for extent in entry.extents], entry.content, entry.link, entry.device, entry.attributes,
        entry.dumpdir, member.identity,
    )  # fmt: skip


def _member(number: int, row: _Row) -> Member:
    disk, name, kind, mode, user, group, modified_ns, size, extents, content, link, device, attributes, *more = row
    dumpdir, identity = more
    entry = Entry(
        name, _KINDS[kind], mode, user, group, modified_ns, size, [FileExtent(*extent) for extent in extents], content,
        link, device, attributes, dumpdir,
    )  # fmt: skip
    return Member(number, disk, entry, identity=identity)
