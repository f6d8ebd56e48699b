"""One archive on one volume: members go in, blocks on tape come out, and what is whole there is told.

The bytes of an archive are decided by its members and their order alone, never by how they came to the tape, so any of
them can be made again. That is what everything here rests on: writing goes on after a checkpoint, which is at a whole
block wherever that lies in a member; and where the tape is full the last command is done again as far as the beginning
of the member in progress, and the archive is closed there.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from appliance.backup import pax
from appliance.backup.entries import Entry, FileExtent
from appliance.backup.faults import is_of_the_medium, is_overflow
from datamover.engine import crc32c, crc32c_combine
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.tape_stream import Sent, StreamFailed, TapeStream, is_early_warning

TAPE_BLOCK: Final = 256 << 10  # "tar -b 512"
COMMAND_BYTES: Final = 256 << 20  # what is done again at most where a tape is full; the step of progress
ONE_WRITE: Final = 1 << 20
MEMBER_BYTES: Final = 2500  # of memory, as measured; and of each of its extents
EXTENT_BYTES: Final = 170

StreamPiece: TypeAlias = "bytes | FileExtent"


@dataclass(slots=True, eq=False)
class Member:
    """A file in the archive. number: in the whole backup, from 0. disk: which of the sources its extents lie on.
    before: how much of its content earlier volumes have; part: on how many volumes it is, this one included.
    start, content_start, end: in this archive. crc32c, checked_bytes: of its extents, as far as they are on tape.
    identity: a digest of all that was known of it when it was found."""

    number: int
    disk: int
    entry: Entry
    before: int = 0
    part: int = 1
    start: int = 0
    content_start: int = 0
    end: int = 0
    crc32c: int = 0
    checked_bytes: int = 0
    identity: bytes = b""
    content_bytes: int = field(init=False)
    _map: bytes = field(init=False)

    def __post_init__(self) -> None:
        """content_bytes: what the archive holds of it beside headers, on all volumes: the map of a sparse file, and its
        data."""
        stored = self.entry.stored_bytes
        self._map = pax.sparse_map(self.entry) if stored < self.entry.size else b""
        self.content_bytes = stored + len(self._map)

    @property
    def stored_bytes(self) -> int:
        """How much of its content there is on the disk: all but the map of a sparse file."""
        return self.content_bytes - len(self._map)

    @property
    def memory_bytes(self) -> int:
        """About how much of the process's memory it takes."""
        entry = self.entry
        known = MEMBER_BYTES + EXTENT_BYTES * len(entry.extents) + len(self._map) + len(entry.content or b"")
        return known + len(entry.dumpdir) + sum(map(len, entry.attributes.values()))

    def lay(self, start: int, comment: str) -> list[StreamPiece]:
        """Its place in the archive, from `start` on, and all that it is made of there."""
        entry, pieces = self.entry, list[StreamPiece]()
        if self._map or entry.content:
            pieces = [self._map, entry.content or b""]
        pieces += entry.extents
        if self.before:
            head = pax.continued_header(entry, self.before, comment, self.part)
            pieces = list(cut(pieces, self.before))
        else:
            head = pax.header(entry, self._map)
        content = self.content_bytes - self.before
        fill = -content % pax.BLOCK
        self.start, self.content_start = start, start + len(head)
        self.end = self.content_start + content + fill
        pieces.insert(0, head)
        if fill:
            pieces.append(bytes(fill))
        return pieces


def length_of(piece: StreamPiece) -> int:
    """In bytes."""
    return piece.length if isinstance(piece, FileExtent) else len(piece)


def cut(pieces: Iterable[StreamPiece], first: int, end: int | None = None) -> Iterator[StreamPiece]:
    """The bytes of the pieces from `first` on, as far as `end`."""
    at = 0
    for piece in pieces:
        length = length_of(piece)
        start, stop = max(first - at, 0), length if end is None else min(end - at, length)
        if start < stop:
            if isinstance(piece, FileExtent):
                yield FileExtent(piece.file_offset + start, piece.disk_offset + start, stop - start)
            else:
                yield piece[start:stop]
        at += length


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where writing can go on. first_number, first_before, first_part: of the first member on the volume.
    bytes_on_tape: of the archive, whole blocks, durable. crc32c, checked_bytes: of the member that they end in."""

    first_number: int = 0
    first_before: int = 0
    first_part: int = 1
    bytes_on_tape: int = 0
    crc32c: int = 0
    checked_bytes: int = 0


class VolumeFull(Exception):
    """The tape told that its end is near, has come to it, or cannot be written where it stands: close_early() comes
    next."""


class VolumeTooSmall(Exception):
    """A volume that does not even hold the beginning of one file."""


@dataclass(slots=True)
class ArchiveWriter:
    """What an archive is written with. checksums: (bytes, CRC32C) of each segment of the last command that was sent."""

    tape: Tape
    manager: CopyingUnit
    disks: Sequence[Disk]
    checksums: Callable[[], Sequence[tuple[int, int]]]


@dataclass(slots=True)
class Listener:
    """Whom an archive tells. whole: a member whose last byte is on tape; it is durable with the next checkpoint.
    durable: a checkpoint. written: bytes of the archive that are on tape."""

    whole: Callable[[Member], None]
    durable: Callable[[Checkpoint], None]
    written: Callable[[int], None]


@dataclass(slots=True)
class Archive:
    """The archive of one volume, from the beginning of the tape on. resumed: where it goes on; every member from the
    first of the volume on is add()ed all the same. Methods that write raise VolumeFull and StreamFailed."""

    writer: ArchiveWriter
    listener: Listener
    comment: str
    checkpoint_bytes: int
    resumed: Checkpoint = field(default_factory=Checkpoint)
    command_bytes: int = COMMAND_BYTES
    _members: deque[Member] = field(default_factory=deque)  # those not whole, and whatever is in a block with the first
    _whole: int = 0  # how many at the head of these are whole
    _offset: int = 0  # of what comes next
    _pieces: int = 0
    _owners: deque[tuple[int, Member]] = field(default_factory=deque)  # of pieces that are extents
    _pending: bytearray = field(default_factory=bytearray)
    _stream: TapeStream | None = None
    _ended: bool = False

    def begin(self) -> None:
        """The tape stands where writing begins."""
        self._stream = self._make_stream(self.resumed.bytes_on_tape, checkpoint_bytes=self.checkpoint_bytes)
        head = self._head()
        self._offset = len(head)
        self._put_all(cut([head], self.resumed.bytes_on_tape))

    def _head(self) -> bytes:
        """A volume that begins in the middle of a member has its own words there."""
        return b"" if self.resumed.first_before else pax.volume_header(self.comment)

    def _make_stream(
        self, written_before: int, *, checkpoint_bytes: int | None = None, past_warning: bool = False
    ) -> TapeStream:
        writer, self._pieces = self.writer, 0
        return TapeStream(
            writer.manager, writer.tape, writer.disks, block_length=TAPE_BLOCK, written_before=written_before,
            command_bytes=ONE_WRITE if past_warning else self.command_bytes, checkpoint_bytes=checkpoint_bytes,
            past_warning=past_warning, sent=self._on_sent,
        )  # fmt: skip

    @property
    def _open(self) -> TapeStream:
        assert self._stream is not None  # begin() made it
        return self._stream

    # ---- members ---------------------------------------------------------------------------------------------------

    def add(self, member: Member) -> None:
        """The next member."""
        first, on_tape = self.resumed, self.resumed.bytes_on_tape
        if member.number == first.first_number:
            member.before, member.part = first.first_before, first.first_part
        pieces = member.lay(self._offset, self.comment)
        self._offset = member.end
        self._members.append(member)
        if member.end <= on_tape:
            self._whole += 1
            self._forget()
            return
        started = member.start <= on_tape
        member.crc32c, member.checked_bytes = (first.crc32c, first.checked_bytes) if started else (0, 0)
        if member.entry.content is not None:
            member.crc32c, member.checked_bytes = crc32c(member.entry.content), member.entry.size
        with _translated():
            self._put_all(pieces if member.start >= on_tape else cut(pieces, on_tape - member.start), member)

    @property
    def first_needed(self) -> int | None:
        """The number of the first member whose content may have to be written again; those before it will not be."""
        return self._members[0].number if self._members else None

    def checkpoint_soon(self) -> None:
        """The next command ends with one."""
        self._open.checkpoint_soon()

    def _put_all(self, pieces: Iterable[StreamPiece], owner: Member | None = None) -> None:
        """Bytes are gathered, so that the end of one member and the head of the next are one segment."""
        for piece in pieces:
            if not isinstance(piece, FileExtent):
                self._pending += piece
                continue
            self._flush()
            if owner is not None:
                self._owners.append((self._pieces, owner))
            self._pieces += 1
            self._open.add_extent(owner.disk if owner is not None else 0, piece.disk_offset, piece.length)

    def _flush(self) -> None:
        if self._pending:
            self._pieces += 1
            self._open.add_data(self._pending)
            self._pending.clear()

    # ---- what became of it -----------------------------------------------------------------------------------------

    def _on_sent(self, sent: Sent) -> None:
        self._count_checksums(sent.pieces)
        while self._whole < len(self._members) and self._members[self._whole].end <= sent.whole_bytes:
            self._whole += 1
            self.listener.whole(self._members[self._whole - 1])
        self.listener.written(sent.whole_bytes)
        self._forget()
        if sent.durable and not self._ended:
            self.listener.durable(self._checkpoint(sent.whole_bytes))

    def _count_checksums(self, pieces: Sequence[int | None]) -> None:
        owners = self._owners
        for piece, (taken, checksum) in zip(pieces, self.writer.checksums(), strict=True):
            while piece is not None and owners and owners[0][0] < piece:
                owners.popleft()
            if piece is not None and owners and owners[0][0] == piece:
                member = owners[0][1]
                before = member.checked_bytes
                member.crc32c = crc32c_combine(member.crc32c, checksum, taken) if before else checksum
                member.checked_bytes = before + taken

    def _checkpoint(self, on_tape: int) -> Checkpoint:
        crc32c, checked = 0, 0
        if self._whole < len(self._members):
            crc32c, checked = self._members[self._whole].crc32c, self._members[self._whole].checked_bytes
        return replace(self.resumed, bytes_on_tape=on_tape, crc32c=crc32c, checked_bytes=checked)

    def _forget(self) -> None:
        """Members that are whole, and in no block that may have to be written again."""
        first = self._members[self._whole].start if self._whole < len(self._members) else self._offset
        while self._whole and self._members[0].end <= first - first % TAPE_BLOCK:
            self._members.popleft()
            self._whole -= 1

    # ---- the end ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """After the last member: the archive is complete, with a filemark after it."""
        with _translated():
            self._put_all([pax.END])
            self._end_here()

    def close_early(self) -> list[Member]:
        """After VolumeFull: the archive ends before the member in progress, with a filemark after it. The members that
        are not in it, in order. The first of them has `before` set when it is the only one of this volume, where it
        stays as far as it came. Raises VolumeTooSmall, StreamFailed."""
        on_tape = self.writer.tape.position().logical_object_number * TAPE_BLOCK
        rest = list(itertools.dropwhile(lambda member: member.end <= on_tape, self._members))
        sent = self._open.whole_bytes
        if rest and rest[0].number == self.resumed.first_number:
            until = _split_at(rest[0], on_tape)
            self._write_again(sent, until)
            self._end_here()
            return [self._next_part(rest[0], until), *rest[1:]]
        until = rest[0].start if rest else self._offset
        self._write_again(min(sent, until - until % TAPE_BLOCK), until)
        self._put_all([pax.END])
        self._end_here()
        return rest

    def _end_here(self) -> None:
        self._open.settle()
        self._ended = True  # there is nothing to go on with after the end
        self._flush()
        self._open.end()
        self._open.write_filemarks()

    def _write_again(self, first: int, until: int) -> None:
        """The bytes of the archive from a whole block on. What was whole before is counted once."""
        self._pending.clear()
        self._owners.clear()
        self.writer.tape.locate(first // TAPE_BLOCK)
        whole = set(itertools.islice(self._members, self._whole))
        self._stream = self._make_stream(first, past_warning=True)
        head = self._head()
        self._put_all(cut([head], first, until))
        for member in list(self._members):
            pieces = cut(member.lay(member.start, self.comment), first - member.start, until - member.start)
            self._put_all(pieces, member) if member not in whole else self._put_again(pieces, member)

    def _put_again(self, pieces: Iterable[StreamPiece], member: Member) -> None:
        """Of a member whose checksum is known."""
        self._put_all(pieces, replace(member))

    @staticmethod
    def _next_part(member: Member, until: int) -> Member:
        """What is left of a member that goes on on the next volume."""
        return replace(member, before=member.before + until - member.content_start, part=member.part + 1)


def _split_at(member: Member, on_tape: int) -> int:
    """The last whole block within the content of a member."""
    end = member.content_start + member.content_bytes - member.before
    until = min(on_tape, (end - 1) // TAPE_BLOCK * TAPE_BLOCK)
    if until <= member.content_start:
        raise VolumeTooSmall("the volume is full before the content of its first file; use larger cartridges")
    return until


class _translated:
    """VolumeFull in place of what a copy says of a tape that is full, or takes nothing more where it stands."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StreamFailed) and (
            is_early_warning(error.failed) or is_overflow(error) or is_of_the_medium(error)
        ):
            raise VolumeFull from error
