"""What is backed up: the file systems of disks, as members of one archive, in an order that is the same each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from appliance.backup.archive import Member
from appliance.backup.entries import Entry, Kind, Skipped
from appliance.backup.filesystems.isolated import IsolatedFileSystem
from appliance.backup.filesystems.known import FileSystem
from appliance.backup.filesystems.partitions import partitions
from appliance.backup.filesystems.raw import RawImage
from appliance.backup.filesystems.reader import NotReadable, Reader
from vlib_images.disk.image import Image

KEPT_SKIPPED: Final = 100_000
TICK_FILES: Final = 1000


@dataclass(frozen=True, slots=True)
class StillDisk:
    """A disk that is still: nobody changes what `image` shows."""

    name: str
    image: Image
    block_length: int


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One file system, or what is saved as an image. prefix: of all of its names. disk: its number among the sources.
    kind: in an operator's words."""

    prefix: bytes
    disk: int
    kind: str
    files: FileSystem


@dataclass(slots=True)
class SourceTotals:
    """What is to be written. content_bytes: of files, holes left out. digest: of all that is known of all files.
    skipped: the first of those that cannot be backed up; skipped_files: how many there are."""

    files: int = 0
    content_bytes: int = 0
    digest: str = ""
    skipped: list[Skipped] = field(default_factory=list)
    skipped_files: int = 0

    def count(self, found: Member | Skipped) -> None:
        """One more."""
        if isinstance(found, Skipped):
            self.skipped_files += 1
            if self.skipped_files <= KEPT_SKIPPED:
                self.skipped.append(found)
        else:
            self.files += 1
            self.content_bytes += found.stored_bytes


class Sources:
    """Disks, all at one instant, and what is on them."""

    def __init__(self, disks: Sequence[StillDisk], parts: Sequence[SourcePart]) -> None:
        self.disks = list(disks)
        self.parts = list(parts)

    @classmethod
    def found_on(
        cls, disks: Sequence[StillDisk], *, raw: bool = False, alive: Callable[[], None] = lambda: None
    ) -> Sources:
        """What can be seen on them from outside. raw: as images, whatever is on them. alive: called while a file system
        is waited for, and may raise. Raises NotReadable, OSError."""
        return cls.listed(disks, {}, raw=raw, alive=alive)

    @classmethod
    def listed(
        cls, disks: Sequence[StillDisk], lists: Mapping[str, tuple[str, FileSystem]], *, raw: bool = False,
        alive: Callable[[], None] = lambda: None,
    ) -> Sources:  # fmt: skip
        """What agents say is on them. lists: by disk, what goes before its names (of several servers, the name of each)
        and what was listed; disks without a list are looked at from outside. Raises NotReadable, OSError."""
        parts: list[SourcePart] = []
        for number, disk in enumerate(disks):
            if disk.name in lists:
                prefix, files = lists[disk.name]
                parts.append(SourcePart(prefix.encode(), number, "files, as its server listed them", files))
            else:
                parts += _parts_of(number, disk, alive, raw=raw)
        return cls(disks, parts)

    def close(self) -> None:
        """What reads the file systems is no longer needed."""
        for part in self.parts:
            if isinstance(part.files, IsolatedFileSystem):
                part.files.close()

    def members(self) -> Iterator[Member | Skipped]:
        """All files, numbered from 0; the same each time."""
        number = 0
        for part in self.parts:
            for found in part.files.walk():
                named = _named(found, part.prefix)
                if isinstance(named, Skipped):
                    yield named
                else:
                    yield Member(number, part.disk, named)
                    number += 1

    def totals(
        self, keep: Callable[[Member], None] = lambda member: None, tick: Callable[[], None] = lambda: None
    ) -> SourceTotals:
        """Walks through all of it. keep: called with each file. tick: called on the way; both may raise."""
        totals, digest = SourceTotals(), hashlib.blake2b(digest_size=16)
        for count, found in enumerate(self.members()):
            if count % TICK_FILES == 0:
                tick()
            totals.count(found)
            digest.update(identified(found) + b"\n")
            if isinstance(found, Member):
                keep(found)
        totals.digest = digest.hexdigest()
        return totals


def identified(found: Member | Skipped) -> bytes:
    """Everything that is known of it, in bytes; a member has the digest of that from now on."""
    if isinstance(found, Skipped):
        return found.name + b"\0skipped"
    known = b"%d " % found.disk + found.entry.identity()
    found.identity = hashlib.blake2b(known, digest_size=16).digest()
    return known


def _named(found: Entry | Skipped, prefix: bytes) -> Entry | Skipped:
    if not prefix:
        return found
    name = prefix if found.name == b"." else prefix + b"/" + found.name
    if isinstance(found, Skipped):
        return found._replace(name=name)
    found.name = name
    if found.kind is Kind.HARD_LINK:
        found.link = prefix + b"/" + found.link
    return found


def _parts_of(number: int, disk: StillDisk, alive: Callable[[], None], *, raw: bool) -> Iterator[SourcePart]:
    name, reader = disk.name.encode(), Reader(disk.image)
    if raw:
        yield _image(name, number, disk, 0, disk.image.size_bytes, "an image, as asked")
        return
    table = partitions(reader, disk.block_length)
    for partition in table:
        prefix = name + b"/p%d" % partition.number
        yield _part(prefix, number, disk, partition.offset, partition.size_bytes, alive)
    if not table:
        yield _part(name, number, disk, 0, disk.image.size_bytes, alive)


def _part(
    prefix: bytes, number: int, disk: StillDisk, offset: int, size_bytes: int, alive: Callable[[], None]
) -> SourcePart:
    try:
        found = IsolatedFileSystem(disk.image, offset, size_bytes, alive)
    except NotReadable as reason:
        where = prefix.decode()
        raise NotReadable(f"{where}: {reason}. To save it as an image all the same: --raw") from None
    if found.files:
        return SourcePart(prefix, number, found.kind, found)
    found.close()
    return _image(prefix, number, disk, offset, size_bytes, found.kind)


def _image(prefix: bytes, number: int, disk: StillDisk, offset: int, size_bytes: int, why: str) -> SourcePart:
    return SourcePart(prefix + b".img", number, f"image: {why}", RawImage(disk.image, offset, size_bytes))
