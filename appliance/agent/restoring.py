"""Files of this server back from a backup, in place: the appliance writes their content from tape into the blocks where
they are now, and no byte of it crosses this server but those that are read back to be sure.

What is said first is which file goes which way, and why: a file that is gone, has another size or is in use comes back
by tar.
"""

from __future__ import annotations

import glob
import os
import signal
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from appliance.agent import in_place, kernel
from appliance.agent.asking import Asking
from appliance.agent.backup import MountedSource
from appliance.agent.in_place import NotInPlace
from appliance.agent.mount import Told, nobody
from appliance.backup.entries import FileExtent
from appliance.failures import Failure, OperatorError

MOST_FILES: Final = 100_000
MOST_EXTENTS: Final = 100_000
RESTORE_SECONDS: Final = 24 * 3600.0  # for the appliance to bring a cartridge and read it
END_SECONDS: Final = 10.0  # for an appliance that is away to hear that no more files come


@dataclass(frozen=True, slots=True)
class FileWay:
    """How a file comes back. row: as the catalogue has it. why: it does not come back in place; empty: it does."""

    path: Path
    row: Any
    why: str = ""

    def told(self) -> dict[str, Any]:
        """For people and for JSON."""
        way = "tar" if self.why else "in place"
        return {
            "path": str(self.path), "way": way, "why": self.why, "size": self.row["size"],
            "backup": self.row["backup"], **{name: self.row["places"][0][name] for name in ("cartridge", "block")},
        }  # fmt: skip


@dataclass(slots=True)
class Restoring:
    """Of what is at and below a path. names: what a backup may call it, the likeliest first. told: hears what is
    done."""

    api: Asking
    source: MountedSource
    path: Path
    names: Sequence[str]
    told: Told = nobody
    drive: str | None = None
    mapped: in_place.Mapped = field(default=kernel.mapped_extents)
    _run: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)

    def newest(self) -> int:
        """The number of the newest backup that has it. Raises OperatorError."""
        for backup in reversed(self.api.call("backup.list")):
            suits = backup["state"] == "done" and self.source.in_library in backup["disks"]
            if suits and any(self._rows(backup["number"], name, 1) for name in self.names):
                return int(backup["number"])
        names = " or ".join(self.names)
        message = f"no backup of disk {self.source.in_library} has {names}; name one of another disk by --backup"
        raise OperatorError(Failure.NOT_FOUND, f"{message}, see: tapebay catalogue find")

    def plan(self, number: int) -> list[FileWay]:
        """What a backup has of it, and how each file would come back now. Raises OperatorError, OSError."""
        found = ((name, self._rows(number, name, MOST_FILES)) for name in self.names)
        name, rows = next(((name, rows) for name, rows in found if rows), ("", []))
        if not rows:
            raise OperatorError(Failure.NOT_FOUND, f"backup {number} has no {' or '.join(self.names)}")
        if len(rows) == MOST_FILES:
            raise OperatorError(Failure.USAGE, f"{MOST_FILES} files or more at once; name a part of {self.path}")
        with _no_signals():
            return [self._way(row, row["name"][len(name) :].strip("/")) for row in rows]

    def _rows(self, number: int, name: str, limit: int) -> list[Any]:
        rows = self.api.call("catalogue.show", number=number, under=_pattern(name), limit=limit)
        return [row for row in rows if row["name"] == name or row["name"].startswith(f"{name}/")]

    def _way(self, row: Any, below: str) -> FileWay:
        path = self.path / below if below else self.path
        try:
            if ".." in path.parts:
                raise NotInPlace("its name in the backup is no plain path")
            if row["kind"] == "hard link":
                raise NotInPlace("it is a hard link; its content comes back by the name that the backup has it under")
            if row["kind"] != "file":
                raise NotInPlace(f"only the content of plain files comes back in place, and this is a {row['kind']}")
            if lost := [place["cartridge"] for place in row["places"] if place["lost"]]:
                raise NotInPlace(f"another backup was written over cartridge {lost[0]}")
            with self._held(path, row):
                return FileWay(path, row)
        except NotInPlace as reason:
            return FileWay(path, row, str(reason))

    @contextmanager
    def _held(self, path: Path, row: Any) -> Iterator[tuple[int, Callable[[], bool], Sequence[FileExtent]]]:
        """A file that nobody else can use meanwhile, where all of it lies. Raises NotInPlace, OSError."""
        in_place.check_mount(self.source.mount)
        in_place.check_swap(path)
        with in_place.opened(path) as descriptor:
            in_place.check_place(descriptor, path, self.source.mount)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotInPlace("it is no plain file now")
            if status.st_size != row["size"]:
                raise NotInPlace(f"it has {status.st_size} bytes now, and {row['size']} in the backup")
            in_place.check_flags(kernel.inode_flags(descriptor), kernel.extended_flags(descriptor))
            with in_place.leased(descriptor) as is_alone:
                blocks = self._blocks(descriptor, status.st_size)
                if len(blocks) > MOST_EXTENTS:
                    raise NotInPlace(f"it is in {len(blocks)} pieces")
                yield descriptor, is_alone, blocks

    def _blocks(self, descriptor: int, size: int) -> list[FileExtent]:
        stack = self.source.stack
        return in_place.blocks_of(descriptor, size, stack.locate, self.source.disk, self.mapped)

    def run(self, number: int, ways: Sequence[FileWay]) -> list[dict[str, Any]]:
        """Those that come back in place do; what became of each. Raises OperatorError, OSError: what is there then may
        hold a part, and is named."""
        with _no_signals(), self._one_run():
            return [self._restored(number, way) for way in _as_on_tape([way for way in ways if not way.why])]

    @contextmanager
    def _one_run(self) -> Iterator[None]:
        """The library keeps a cartridge in its drive from one file to the next."""
        try:
            yield
        finally:
            try:
                self.api.call("restore.end", run=self._run, patience_seconds=END_SECONDS)
            except OperatorError as error:  # the files are as they are, whatever becomes of the drive
                self.told(f"the library gives the drive back by itself in a minute: {error}")

    def _restored(self, number: int, way: FileWay) -> dict[str, Any]:
        try:
            with self._held(way.path, way.row) as (descriptor, is_alone, blocks):
                until = time.monotonic() + _break_seconds()
                in_place.forget_pages(descriptor)
                made = self._write(number, way, blocks)
                self._check(way, descriptor, blocks, made)
                if not is_alone() and time.monotonic() >= until:
                    message = f"{way.path} was opened before all of it was there, after waiting; restore it again"
                    raise OperatorError(Failure.REFUSED, message)
                os.utime(descriptor, ns=(os.fstat(descriptor).st_atime_ns, made["modified_ns"]))
        except NotInPlace as reason:
            self.told(f"{way.path}: {reason}; take it from the tape with tar")
            return FileWay(way.path, way.row, str(reason)).told()
        self.told(f"{way.path}: restored in place and read back")
        return way.told()

    def _write(self, number: int, way: FileWay, blocks: Sequence[FileExtent]) -> Any:
        return self.api.call(
            "restore.extents", number=number, file=way.row["name"], disk=self.source.in_library, size=way.row["size"],
            extents=[list(extent) for extent in blocks], drive=self.drive, run=self._run,
            timeout_seconds=RESTORE_SECONDS, patience_seconds=RESTORE_SECONDS,
        )  # fmt: skip

    def _check(self, way: FileWay, descriptor: int, blocks: Sequence[FileExtent], made: Any) -> None:
        """Raises OperatorError when what the file holds now is not what it should."""
        if self._blocks(descriptor, way.row["size"]) != blocks:
            raise OperatorError(Failure.REFUSED, f"{way.path} was moved on its disk meanwhile: check the file system")
        in_place.forget_pages(descriptor)
        direct, cached = in_place.checksums_of(descriptor)
        whole = made["stored_bytes"] == made["size_bytes"]
        if direct != cached or (whole and direct != made["crc32c"]):
            found = f"{direct:08x} past the page cache, {cached:08x} through it, and {made['crc32c']:08x} in the backup"
            raise OperatorError(Failure.REFUSED, f"{way.path} is not what it should be now: its CRC32C is {found}")


def _as_on_tape(ways: Sequence[FileWay]) -> list[FileWay]:
    """All that begin on one cartridge together, in the order of their places there."""
    runs: dict[str, list[FileWay]] = {}
    for way in sorted(ways, key=lambda way: way.row["places"][0]["block"]):
        runs.setdefault(way.row["places"][0]["cartridge"], []).append(way)
    return list(chain.from_iterable(runs.values()))


def _break_seconds() -> float:
    """How long the kernel lets somebody wait who opens a file that is leased."""
    return float(Path("/proc/sys/fs/lease-break-time").read_text())


@contextmanager
def _no_signals() -> Iterator[None]:
    """Those that tell of somebody who waits for a lease, and would end this process."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGIO, before)


def _pattern(name: str) -> str:
    """What finds a name, or the names below it, in a catalogue."""
    return f"{glob.escape(name)}*" if glob.has_magic(name) else name
