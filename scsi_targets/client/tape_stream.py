"""A stream of tape blocks, gathered from disks and from this program, that a copy manager writes: what a backup of many
files is.

    stream = TapeStream(CopyingUnit(session, drive_lun), Tape(session, drive_lun), [Disk(session, disk_lun)])
    stream.add_data(header)                    # from here, through the parameter list
    stream.add_extent(0, offset, length)       # of the first disk, never through here
    stream.end()                               # padded to a whole block, and sent

As many EXTENDED COPY commands are sent as it takes. While one copies, the next is gathered; it is sent when that one
has ended well, as what follows upon one that failed would be written in the wrong place. Each ends on a whole block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from scsi_targets.client.copy_manager import CopyingUnit, StartedCopy
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense, sense_data

# One command copies about so much: what is asked of the copy manager at one time, and the step of a progress report.
COMMAND_BYTES = 1 << 30
MOST_BLOCKS = 0xFFFF  # of one segment of type 00h
MOST_BYTES = 0xFFFFFFFF  # of one segment of type 08h
INLINE_ALIGNMENT = 4
LOOK_SEGMENTS = 64  # after so many it is asked whether the command that copies has ended


class StreamFailed(Exception):
    """An EXTENDED COPY failed. whole_bytes: of the stream, in blocks that earlier commands have written; `failed`: what
    the copy manager answered, with the source's or destination's own sense data; piece: how many add_...() came before
    the one that failed, None when it was none of them."""

    def __init__(self, failed: CommandFailed, whole_bytes: int, piece: int | None) -> None:
        super().__init__(f"after {whole_bytes} bytes: {failed}")
        self.failed = failed
        self.whole_bytes = whole_bytes
        self.piece = piece


class Sent(NamedTuple):
    """A command that has been done. whole_bytes: of the stream, so far; pieces: of each of its segments, how many
    add_...() came before that which it is of (None: none of them); durable: whether it ended with a checkpoint."""

    whole_bytes: int
    pieces: Sequence[int | None]
    durable: bool


class _Running(NamedTuple):
    """A command that copies: which pieces its segments are of, and how much of the stream it holds."""

    copy: StartedCopy
    pieces: Sequence[int | None]
    length: int
    durable: bool


class TapeStream:
    """block_length: of the tape's blocks, in bytes. command_bytes: about how much one command copies; what is of 1 MiB
    or less goes to the tape in one write. checkpoint_bytes: at the first whole block after so many the tape is made
    durable; None: only when write_filemarks() is called. sent: called after each command. written_before: bytes of the
    stream that are on the tape already, whole blocks.

    past_warning: early warning is no failure, as something has to be written after it; needs commands of one write.
    Every method may send commands, and raises StreamFailed for the one before; what came after that is lost then.
    end() and write_filemarks() return when everything has been done. whole_bytes: of the stream, done so far."""

    def __init__(
        self,
        manager: CopyingUnit,
        tape: Tape,
        disks: Sequence[Disk],
        *,
        block_length: int = 256 << 10,
        command_bytes: int | None = None,
        checkpoint_bytes: int | None = None,
        written_before: int = 0,
        past_warning: bool = False,
        sent: Callable[[Sent], None] = lambda sent: None,
    ) -> None:
        self.whole_bytes = self._begun_bytes = self._durable_bytes = written_before
        self._command_bytes = command_bytes or COMMAND_BYTES
        self._checkpoint_bytes = checkpoint_bytes
        self._past_warning = past_warning
        self._due = False
        self._manager = manager
        self._cscds = [*(disk.cscd() for disk in disks), tape.cscd(pad=True)]
        self._sectors = [disk.capacity.block_length for disk in disks]
        self._block_length = block_length
        common = {"cat": 1, "destination": self._tape, "stream_device_transfer_length": block_length}
        self._inline_segment = copy.InlineToStream.encoder(
            "inline_data_offset", "inline_data_number_of_bytes", **common
        )
        self._block_segments = [
            copy.BlockToStream.encoder("logical_block_address", "number_of_blocks", source=number, **common)
            for number in range(len(disks))
        ]
        self._byte_segments = [
            copy.BlockWithOffsetToStream.encoder(
                "logical_block_address", "byte_offset", "number_of_bytes", source=number, **common
            )
            for number in range(len(disks))
        ]
        self._sent = sent
        limits = manager.operating_parameters()
        # A block begun is finished before the command is sent; it takes a segment for each 512 bytes at most, or so.
        self._most_segments = limits.maximum_segment_descriptor_count // 2
        self._most_inline_bytes = limits.maximum_inline_data_length // 4
        self._pieces = 0
        self._running: _Running | None = None
        self._begin()

    def _begin(self) -> None:
        self._segments: list[tuple[int | None, bytes]] = []  # and which piece it is of
        self._inline = bytearray()
        self._length = 0  # of the stream, in this command

    # ---- what goes into the stream ---------------------------------------------------------------------------------

    def add_data(self, data: bytes | bytearray) -> None:
        """Bytes of this program's: headers, padding."""
        at = 0
        while at < len(data):
            length = min(len(data) - at, self._room(), self._most_inline_bytes)
            self._inline += bytes(-len(self._inline) % INLINE_ALIGNMENT)
            start = len(self._inline)
            self._inline += data[at : at + length]
            self._add(length, self._inline_segment(start, length))
            at += length
        self._pieces += 1

    def add_extent(self, disk: int, offset: int, length: int) -> None:
        """Bytes of a disk, the number of which is its place in the list that was given."""
        while length:
            taken = min(length, self._room(), MOST_BYTES)
            self._add(taken, self._extent(disk, offset, taken))
            offset, length = offset + taken, length - taken
        self._pieces += 1

    def _extent(self, disk: int, offset: int, length: int) -> bytes:
        sector = self._sectors[disk]
        address, past = divmod(offset, sector)
        blocks, rest = divmod(length, sector)
        if past or rest or blocks > MOST_BLOCKS:
            return self._byte_segments[disk](address, past, length)
        return self._block_segments[disk](address, blocks)

    def end(self) -> None:
        """The last block is filled up with zeros, and everything is sent. Something else may follow."""
        if self._length % self._block_length:
            pad = copy.InlineToStream.encode(destination=self._tape, stream_device_transfer_length=self._block_length)
            self._segments.append((None, pad))
            self._length += -self._length % self._block_length
        self._send()
        self.settle()

    def write_filemarks(self, count: int = 1) -> None:
        """After end(): everything is durable then, with count 0 (a checkpoint), too."""
        self._mark(count)
        self._send()
        self.settle()

    def checkpoint_soon(self) -> None:
        """At the end of the command that is being gathered."""
        self._due = True

    def _mark(self, count: int) -> None:
        self._due = False
        mark = copy.WriteFilemarks.encode(destination=self._tape, filemark_count=count)
        self._segments.append((None, mark))
        self._durable_bytes = self._begun_bytes + self._length

    # ---- commands --------------------------------------------------------------------------------------------------

    @property
    def _tape(self) -> int:
        return len(self._cscds) - 1

    def _room(self) -> int:
        """How many bytes may be added to this command at once: past its limits up to the next whole block."""
        to_block = self._block_length - self._length % self._block_length
        full = (
            len(self._segments) >= self._most_segments
            or len(self._inline) >= self._most_inline_bytes
            or self._length >= self._command_bytes
        )
        if full and to_block == self._block_length:
            if self._due or (self._checkpoint_bytes and self._unsaved() >= self._checkpoint_bytes):
                self._mark(0)
            self._send()
            full = False
        return to_block if full else max(to_block, self._command_bytes - self._length)

    def _unsaved(self) -> int:
        """Bytes since the last checkpoint."""
        return self._begun_bytes + self._length - self._durable_bytes

    def _add(self, length: int, segment: bytes) -> None:
        self._segments.append((self._pieces, segment))
        self._length += length
        running = self._running
        if running is not None and not len(self._segments) % LOOK_SEGMENTS and self._manager.has_ended(running.copy):
            self.settle()

    def _send(self) -> None:
        self.settle()
        if not self._segments:
            return
        pieces, segments = [piece for piece, _ in self._segments], [segment for _, segment in self._segments]
        started = self._manager.start(self._cscds, segments, bytes(self._inline))
        self._begun_bytes += self._length
        durable = self._durable_bytes == self._begun_bytes
        self._running = _Running(started, pieces, self._length, durable)
        self._begin()

    def settle(self) -> None:
        """Waits until the command that copies has ended. Raises StreamFailed."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            self._manager.finish(running.copy)
        except CommandFailed as failed:
            if not (self._past_warning and is_early_warning(failed)):
                number = (failed.sense.command_specific or 0) & 0xFFFF if failed.sense is not None else 0
                piece = running.pieces[number] if number < len(running.pieces) else None
                raise StreamFailed(failed, self.whole_bytes, piece) from failed
        self.whole_bytes += running.length
        self._sent(Sent(self.whole_bytes, running.pieces, running.durable))


def is_early_warning(failed: CommandFailed) -> bool:
    """Whether a copy ended only because the tape told that its end is near: what was handed to it then is written."""
    forwarded = failed.sense.forwarded if failed.sense is not None else None
    if forwarded is None or not forwarded.by_destination:
        return False
    told = sense_data.decode(forwarded.sense)
    return told is not None and told.end_of_medium and told.code.key == sense.NO_SENSE
