"""Is what is on tape what was written? Checksums of files, read from the tapes by EXTENDED COPY to nowhere, beside
those of the catalogue; and those of the disks as they are now."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from appliance.backup.archive import COMMAND_BYTES, TAPE_BLOCK, Member
from appliance.backup.catalogue import Catalogue, File
from appliance.backup.content import checksum
from appliance.backup.sources import Sources
from appliance.backup.volume import MountedDrive
from datamover.engine import crc32c_combine
from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import copy_descriptors as copy

_MOST_SEGMENTS: Final = 4096
MOST_PROBLEMS: Final = 1000


class Mismatch(NamedTuple):
    """A file that differs, or a cartridge that cannot be read; name: empty for the latter."""

    name: bytes
    cartridge: str
    what: str


@dataclass(slots=True)
class Verified:
    """files: those whose checksums were compared, with the bytes of their content."""

    files: int = 0
    content_bytes: int = 0
    problems: list[Mismatch] = field(default_factory=list)
    found: int = 0  # problems, also those beyond the list

    def say(self, problem: Mismatch) -> None:
        """One more."""
        self.found += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


class _Region(NamedTuple):
    """A run of the archive. file: whose content it is, or None."""

    length: int
    file: int | None


@dataclass(slots=True)
class _Sum:
    crc32c: int = 0
    length: int = 0


def verify_tapes(catalogue: Catalogue, drive: MountedDrive, progress: Callable[[int, int], None]) -> Verified:
    """Reads every volume. Raises OperatorError when one cannot be loaded, and what `progress` raises."""
    verified, sums = Verified(), dict[int, _Sum]()
    volumes = catalogue.volumes()
    total, done = sum(volume.archive_bytes for volume in volumes), 0
    for volume in volumes:
        if volume.lost:
            verified.say(Mismatch(b"", volume.barcode, "another backup was written over it"))
            continue
        drive.mount(volume.barcode)
        try:
            for segments, regions in _commands(_regions(catalogue, volume.number, volume.archive_bytes)):
                drive.writer().manager.extended_copy([drive.tape.cscd()], segments)
                for region, (taken, found) in zip(regions, drive.checksums(), strict=True):
                    if region.file is not None:
                        known = sums.setdefault(region.file, _Sum())
                        known.crc32c = crc32c_combine(known.crc32c, found, taken)
                        known.length += taken
                    done += taken
                progress(done, total)
        except CommandFailed as error:
            verified.say(Mismatch(b"", volume.barcode, f"it cannot be read: {error}"))
        _compare(catalogue, volume.number, volume.barcode, sums, verified)
    return verified


def _regions(catalogue: Catalogue, volume: int, archive_bytes: int) -> Iterator[_Region]:
    at = 0
    for _, part in catalogue.parts(volume):
        start = part.content_start + part.map_bytes
        if start > at:
            yield _Region(start - at, None)
        if length := part.content_bytes - part.map_bytes:
            yield _Region(length, part.number)
        at = start + length
    if archive_bytes > at:
        yield _Region(archive_bytes - at, None)


def _commands(regions: Iterator[_Region]) -> Iterator[tuple[list[bytes], list[_Region]]]:
    """Segment descriptors of commands that each end on a whole block, with the region of each."""
    segments: list[bytes] = []
    gathered: list[_Region] = []
    length = 0
    for region in regions:
        left = region.length
        while left:
            full = length >= COMMAND_BYTES or len(segments) >= _MOST_SEGMENTS
            room = TAPE_BLOCK - length % TAPE_BLOCK if full else COMMAND_BYTES - length
            taken = min(left, room)
            segments.append(
                copy.StreamToDiscard.encode(
                    cat=1, source=0, stream_device_transfer_length=TAPE_BLOCK, number_of_bytes=taken
                )
            )
            gathered.append(_Region(taken, region.file))
            length, left = length + taken, left - taken
            if length % TAPE_BLOCK == 0 and (length >= COMMAND_BYTES or len(segments) >= _MOST_SEGMENTS):
                yield segments, gathered
                segments, gathered, length = [], [], 0
    if segments:
        yield segments, gathered


def _compare(catalogue: Catalogue, volume: int, barcode: str, sums: dict[int, _Sum], verified: Verified) -> None:
    """The files that are whole with this volume."""
    split = catalogue.split_files()
    for file, part in catalogue.parts(volume):
        if file is None or part.part != split.get(part.number, 1):
            continue
        found = sums.pop(part.number, _Sum())
        if found.length != file.stored_bytes:
            verified.say(Mismatch(file.name, barcode, f"{found.length} of its {file.stored_bytes} bytes can be read"))
        elif found.crc32c != file.crc32c:
            verified.say(Mismatch(file.name, barcode, f"its CRC32C is {found.crc32c:08x}, not {file.crc32c:08x}"))
        verified.files += 1
        verified.content_bytes += found.length


def verify_disks(
    catalogue: Catalogue, sources: Sources, progress: Callable[[int, int], None], *, complete: bool
) -> Verified:
    """Compares the disks as they are now with what the tapes have; complete: which is all that there was. Raises
    NotReadable, OSError, and what `progress` raises."""
    verified, buffer = Verified(), bytearray(1 << 20)
    total = catalogue.state_bytes()
    files = (kept.file for kept in catalogue.all())
    for file, member in _paired(files, (m for m in sources.members() if isinstance(m, Member))):
        if file is None:
            assert member is not None  # one of the two there is
            if complete:
                verified.say(Mismatch(member.entry.name, "", "it is on the disk and not on tape"))
            continue
        if what := _difference(file, member, sources, buffer, lambda: progress(verified.content_bytes, total)):
            verified.say(Mismatch(file.name, "", what))
        verified.files += 1
        verified.content_bytes += file.stored_bytes
        progress(verified.content_bytes, total)
    return verified


def _paired(files: Iterator[File], members: Iterator[Member]) -> Iterator[tuple[File | None, Member | None]]:
    """Files and members of the same names. Both come in the same order, but for what came or went since: only that is
    kept until its other half comes."""
    lone_files: dict[bytes, File] = {}
    lone_members: dict[bytes, Member] = {}
    for file, member in itertools.zip_longest(files, members):
        if file is not None and member is not None and file.name == member.entry.name:
            yield file, member
            continue
        if file is not None:
            lone_files[file.name] = file
        if member is not None:
            lone_members[member.entry.name] = member
        for name in [one for one in (file and file.name, member and member.entry.name) if one]:
            if name in lone_files and name in lone_members:
                yield lone_files.pop(name), lone_members.pop(name)
    yield from ((file, None) for file in lone_files.values())
    yield from ((None, member) for member in lone_members.values())


def _difference(
    file: File, member: Member | None, sources: Sources, buffer: bytearray, alive: Callable[[], None]
) -> str:
    if member is None:
        return "it is on tape and not on the disk"
    if (member.entry.kind, member.entry.size) != (file.kind, file.size):
        return "it is another kind of file, or of another size, on the disk"
    found = checksum(sources.disks[member.disk].image, member.entry, buffer, alive=alive)
    return "" if found == file.crc32c else f"its CRC32C is {found:08x} on the disk, not {file.crc32c:08x}"
