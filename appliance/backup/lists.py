"""The lists of files that agents send, kept in files until their snapshot is over.

A list comes in parts, which may be sent again; its end says how many lines there are and their digest. Only a list that
is whole is walked. A restart ends snapshots, and so all lists: what lies in the folder then is removed.
"""

from __future__ import annotations

import hmac
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from appliance.backup.entries import Entry, Skipped
from appliance.backup.listing import ListDigest, ListRefused, from_line

log = structlog.get_logger(__name__)

LIMIT_LIST_BYTES: Final = 8 << 30
LIMIT_LINES: Final = 100_000_000
_SUFFIX: Final = ".list"
_SAFE: Final = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(slots=True)
class FileList:
    """One disk's list. It is walked as a file system is, once it is whole."""

    path: Path
    disk_bytes: int
    digest: ListDigest
    parts: int = 0
    count: int = 0
    length_bytes: int = 0
    content_bytes: int = 0
    whole: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, number: int, lines: Sequence[str]) -> None:
        """A part; one that came already changes nothing. Raises ListRefused, OSError; then nothing of it is there."""
        with self.lock:
            if number <= self.parts:
                return
            if self.whole or number != self.parts + 1:
                raise ListRefused(
                    f"part {number} is not the next one, {self.parts + 1}; the list is begun anew by part 1"
                )
            content = 0
            for line in lines:
                if "\n" in line:
                    raise ListRefused("a line with a line end in it")
                found = from_line(line, self.disk_bytes)
                content += found.stored_bytes if isinstance(found, Entry) else 0
            data = "".join(f"{line}\n" for line in lines).encode()
            if self.length_bytes + len(data) > LIMIT_LIST_BYTES or self.count + len(lines) > LIMIT_LINES:
                raise ListRefused("the list is larger than one may be; back up fewer files at a time")
            with self.path.open("r+b") as file:
                file.seek(self.length_bytes)  # over what a part that failed has left
                file.write(data)
                file.truncate()
            for line in lines:
                self.digest.add(line)
            self.content_bytes += content
            self.parts, self.count, self.length_bytes = number, self.count + len(lines), self.length_bytes + len(data)

    def end(self, count: int, digest: str) -> None:
        """Raises ListRefused."""
        with self.lock:
            if count != self.count:
                raise ListRefused(f"the list is torn: {self.count} of {count} files came; send it again")
            if not hmac.compare_digest(digest.encode(errors="replace"), self.digest.hexdigest().encode()):
                raise ListRefused("the list's digest is another: it was changed on the way, or made for something else")
            self.whole = True

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, length) on the disk of all files. Raises ListRefused, OSError."""
        for found in self.walk():
            if isinstance(found, Entry):
                yield from ((extent.disk_offset, extent.length) for extent in found.extents)

    def walk(self) -> Iterator[Entry | Skipped]:
        """The files, as often as one likes. Raises ListRefused, OSError."""
        if not self.whole:
            raise ListRefused("the list of files is not whole yet")
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield from_line(line.rstrip("\n"), self.disk_bytes)


class FileLists:
    """Thread-safe. is_over: whether a snapshot has ended; forget_those_over() removes its lists."""

    def __init__(self, directory: Path, is_over: Callable[[str], bool]) -> None:
        """Raises OSError."""
        self._directory = directory
        self._is_over = is_over
        self._lists: dict[tuple[str, str], FileList] = {}
        self._lock = threading.Lock()
        for left in directory.glob(f"*{_SUFFIX}"):
            left.unlink()

    def add(self, snapshot: str, disk: str, disk_bytes: int, number: int, lines: Sequence[str], key: bytes) -> FileList:
        """A part of a list; the first makes it. Raises ListRefused, OSError."""
        if not _SAFE.fullmatch(snapshot) or not _SAFE.fullmatch(disk):
            raise ListRefused(f"{snapshot} and {disk} name no snapshot and disk")
        with self._lock:
            found = self._lists.get((snapshot, disk))
            if found is None:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                path = self._directory / f"{snapshot}.{disk}{_SUFFIX}"
                path.touch(0o600)
                found = FileList(path, disk_bytes, ListDigest(f"{snapshot} {disk}", key))
                self._lists[snapshot, disk] = found
        found.add(number, lines)
        return found

    def get(self, snapshot: str, disk: str) -> FileList:
        """Raises ListRefused."""
        with self._lock:
            found = self._lists.get((snapshot, disk))
        if found is None:
            raise ListRefused(f"no list of files of disk {disk} has come for snapshot {snapshot}")
        return found

    def content_bytes(self, snapshot: str, disk: str) -> int:
        """Of the files that have been listed so far; without a list none."""
        with self._lock:
            found = self._lists.get((snapshot, disk))
        return 0 if found is None else found.content_bytes

    def forget_those_over(self) -> None:
        """The lists of snapshots that have ended take no room any more."""
        with self._lock:
            for snapshot, disk in [both for both in self._lists if self._is_over(both[0])]:
                path = self._lists.pop((snapshot, disk)).path
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:  # the next start removes it
                    log.warning("a list of files cannot be removed", path=str(path), reason=str(error))
