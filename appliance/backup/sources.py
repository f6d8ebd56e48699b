"""What is backed up: the file systems of disks, as members of one archive, in an order that is the same each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from appliance.backup.archive import Member
from appliance.backup.entries import Entry, Kind, Skipped
from appliance.backup.filesystems.partitions import partitions
from appliance.backup.filesystems.raw import RawImage
from appliance.backup.filesystems.reader import NotReadable, Reader
from appliance.backup.filesystems.xfs import XfsFileSystem
from vlib_images.disk.image import Image

_TICK_FILES: Final = 1000
_EXT_MAGIC: Final = (1080, b"\x53\xef")
# Signatures of what is saved as an image, because what is in it cannot be seen from outside.
_CLOSED: Final = (
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"), (3, b"-FVE-FS-", "encrypted (BitLocker)"),
    (512, b"LABELONE", "an LVM physical volume"), (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID (md)"),
    (65600, b"_BHRfS_M", "btrfs"), (4086, b"SWAPSPACE2", "swap"), (3, b"EXFAT   ", "exFAT"),
)  # fmt: skip


class FileSystem(Protocol):
    """What can be walked."""

    def walk(self) -> Iterator[Entry | Skipped]:
        """Every file, directories before what is in them; extents count from the beginning of the disk."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that is still: nobody changes what `image` shows."""

    name: str
    image: Image
    block_length: int


@dataclass(frozen=True, slots=True)
class Part:
    """One file system, or what is saved as an image. prefix: of all of its names. disk: its number among the sources.
    kind: in an operator's words."""

    prefix: bytes
    disk: int
    kind: str
    files: FileSystem


@dataclass(slots=True)
class Totals:
    """What is to be written. content_bytes: of files, holes left out. digest: of all that is known of all files."""

    files: int = 0
    content_bytes: int = 0
    digest: str = ""
    skipped: list[Skipped] = field(default_factory=list)


class Sources:
    """Disks, all at one instant, and what is on them."""

    def __init__(self, disks: Sequence[Disk], parts: Sequence[Part]) -> None:
        self.disks = list(disks)
        self.parts = list(parts)

    @classmethod
    def found_on(cls, disks: Sequence[Disk], *, raw: bool = False) -> Sources:
        """What can be seen on them from outside. raw: as images, whatever is on them. Raises NotReadable, OSError."""
        return cls(disks, [part for number, disk in enumerate(disks) for part in _parts_of(number, disk, raw=raw)])

    @classmethod
    def listed(cls, disks: Sequence[Disk], lists: Sequence[FileSystem]) -> Sources:
        """What an agent says is on them, with the names that it gives."""
        kind = "files, as its server listed them"
        return cls(disks, [Part(b"", number, kind, files) for number, files in enumerate(lists)])

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

    def totals(self, tick: Callable[[], None] = lambda: None) -> Totals:
        """Walks through all of it. tick: called on the way, and may raise."""
        totals, digest = Totals(), hashlib.blake2b(digest_size=16)
        for found in self.members():
            if totals.files % _TICK_FILES == 0:
                tick()
            if isinstance(found, Skipped):
                totals.skipped.append(found)
                digest.update(found.name + b"\0skipped\n")
            else:
                totals.files += 1
                totals.content_bytes += found.entry.stored_bytes
                digest.update(b"%d " % found.disk + found.entry.identity() + b"\n")
        totals.digest = digest.hexdigest()
        return totals


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


def _parts_of(number: int, disk: Disk, *, raw: bool) -> Iterator[Part]:
    name, reader = disk.name.encode(), Reader(disk.image)
    if raw:
        yield _image(name, number, disk, 0, disk.image.size_bytes, "an image, as asked")
        return
    table = partitions(reader, disk.block_length)
    for partition in table:
        prefix = name + b"/p%d" % partition.number
        yield _part(prefix, number, disk, reader.part(partition.offset, partition.size_bytes))
    if not table:
        yield _part(name, number, disk, reader)


def _part(prefix: bytes, number: int, disk: Disk, reader: Reader) -> Part:
    try:
        found = _file_system(reader)
    except NotReadable as reason:
        where = prefix.decode()
        raise NotReadable(f"{where}: {reason}. To save it as an image all the same: --raw") from None
    if isinstance(found, str):
        return _image(prefix, number, disk, reader.offset, reader.size_bytes, found)
    kind, files = found
    return Part(prefix, number, kind, files)


def _file_system(reader: Reader) -> tuple[str, FileSystem] | str:
    """(its kind, itself); or why it is saved as an image. Raises NotReadable."""
    head = reader.read(0, 66 << 10)
    if head[_EXT_MAGIC[0] :][:2] == _EXT_MAGIC[1]:
        return "ext2, ext3 or ext4", _sleuth().ExtFileSystem(reader)
    if head[:4] == b"XFSB":
        return "XFS", XfsFileSystem(reader)
    if head[3:11] == b"NTFS    ":
        return "NTFS", _sleuth().DosFileSystem(reader)
    for at, signature, words in _CLOSED:
        if head[at : at + len(signature)] == signature:
            return words
    if b"FAT" in (head[54:57], head[82:85]) and head[510:512] == b"\x55\xaa":
        return "FAT", _sleuth().DosFileSystem(reader)
    return "no file system that is known"


def _sleuth() -> Any:
    """The module, which is there with the extra `agent` only."""
    try:
        from appliance.backup.filesystems import sleuth
    except ImportError:
        message = "The Sleuth Kit for Python is needed for this file system: pip install 'tapebay[agent]'"
        raise NotReadable(message) from None
    return sleuth


def _image(prefix: bytes, number: int, disk: Disk, offset: int, size_bytes: int, why: str) -> Part:
    return Part(prefix + b".img", number, f"image: {why}", RawImage(disk.image, offset, size_bytes))
