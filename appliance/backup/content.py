"""The content of files where it lies on a disk, as a checksum: it is read into the engine's hands and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final

from appliance.backup.archive import Checkpoint, Member
from appliance.backup.catalogue import File
from appliance.backup.entries import Entry
from appliance.backup.sources import StillDisk
from datamover.engine import crc32c
from vlib_images.disk.image import Image

_STEP_BYTES: Final = 1 << 20


class ChangedSince(Exception):
    """The disks do not hold any more what the tape has; str() says which file differs first."""


def checksum(
    image: Image,
    entry: Entry,
    buffer: bytearray,
    limit_bytes: int | None = None,
    alive: Callable[[], None] = lambda: None,
) -> int:
    """The CRC32C of what of a file is stored, holes left out; of its first bytes only, with a limit. alive: called on
    the way, and may raise. Raises OSError."""
    if entry.content is not None:
        return crc32c(entry.content)
    found, left = 0, entry.stored_bytes if limit_bytes is None else limit_bytes
    for extent in entry.extents:
        at, end = extent.disk_offset, extent.disk_offset + min(extent.length, left)
        left -= end - at
        while at < end:
            view = memoryview(buffer)[: min(len(buffer), end - at)]
            alive()
            image.read_into(view, at)
            found = crc32c(view, found)
            at += len(view)
    return found


def check_same(
    members: Iterator[Member],
    disks: Sequence[StillDisk],
    files: Iterable[File],
    checkpoint: Checkpoint,
    known: Container[int] = (),
    alive: Callable[[], None] = lambda: None,
) -> None:
    """The first of the members are these files, and hold what the files held; and so does the beginning of the next,
    as far as the checkpoint has it. known: the numbers of disks whose content is known to be the same. alive: called on
    the way, and may raise. Raises ChangedSince, OSError."""
    buffer = bytearray(_STEP_BYTES)
    for file in files:
        member = next(members, None)
        if member is None or member.entry.name != file.name:
            raise ChangedSince(f"{_shown(file.name)} is on tape and not on the disk now; begin a new backup")
        alive()
        if member.disk in known:
            continue
        if checksum(disks[member.disk].image, member.entry, buffer, alive=alive) != file.crc32c:
            raise _changed(member)
    if checkpoint.checked_bytes:
        member = next(members, None)
        if member is None:
            raise ChangedSince("the file that the tape ends in is not on the disk now; begin a new backup")
        if member.disk in known:
            return
        found = checksum(disks[member.disk].image, member.entry, buffer, checkpoint.checked_bytes, alive)
        if found != checkpoint.crc32c:
            raise _changed(member)


def _changed(member: Member) -> ChangedSince:
    return ChangedSince(f"{_shown(member.entry.name)} has changed since it was written to tape; begin a new backup")


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
