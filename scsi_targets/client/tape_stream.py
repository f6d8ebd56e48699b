"""A stream of tape blocks, gathered from disks and from this program, that a copy manager writes: what a backup of many
files is.

    stream = TapeStream(CopyManager(session, drive_lun), Tape(session, drive_lun), [Disk(session, disk_lun)])
    stream.add_data(header)                    # from here, through the parameter list
    stream.add_extent(0, offset, length)       # of the first disk, never through here
    stream.end()                               # padded to a whole block, and sent

As many EXTENDED COPY commands are sent as it takes. Each ends on a whole block, so one that fails can be sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scsi_targets.client.copy_manager import CopyManager
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import copy_descriptors as copy

# One command copies about so much: what is asked of the copy manager at one time, and the step of a progress report.
COMMAND_BYTES = 1 << 30
MOST_BLOCKS = 0xFFFF  # of one segment of type 00h
MOST_BYTES = 0xFFFFFFFF  # of one segment of type 08h
INLINE_ALIGNMENT = 4


class StreamFailed(Exception):
    """An EXTENDED COPY failed. whole_bytes: of the stream, in blocks that earlier commands have written; `failed`: what
    the copy manager answered, with the source's or destination's own sense data; piece: how many add_...() came before
    the one that failed, None when it was none of them."""

    def __init__(self, failed: CommandFailed, whole_bytes: int, piece: int | None) -> None:
        super().__init__(f"after {whole_bytes} bytes: {failed}")
        self.failed = failed
        self.whole_bytes = whole_bytes
        self.piece = piece


class TapeStream:
    """block_length: of the tape's blocks, in bytes. progress: called with the bytes written after each command.

    Every method may send commands, and raises StreamFailed then."""

    def __init__(
        self,
        manager: CopyManager,
        tape: Tape,
        disks: Sequence[Disk],
        *,
        block_length: int = 256 << 10,
        progress: Callable[[int], None] = lambda written_bytes: None,
    ) -> None:
        self.whole_bytes = 0
        self._manager = manager
        self._cscds = [*(disk.cscd() for disk in disks), tape.cscd(pad=True)]
        self._sectors = [disk.capacity.block_length for disk in disks]
        self._block_length = block_length
        self._progress = progress
        limits = manager.operating_parameters()
        # A block begun is finished before the command is sent; it takes a segment for each 512 bytes at most, or so.
        self._most_segments = limits.maximum_segment_descriptor_count // 2
        self._most_inline_bytes = limits.maximum_inline_data_length // 2
        self._pieces = 0
        self._begin()

    def _begin(self) -> None:
        self._segments: list[tuple[int | None, bytes]] = []  # and which piece it is of
        self._inline = bytearray()
        self._length = 0  # of the stream, in this command

    # ---- what goes into the stream ---------------------------------------------------------------------------------

    def add_data(self, data: bytes) -> None:
        """Bytes of this program's: headers, padding."""
        at = 0
        while at < len(data):
            length = min(len(data) - at, self._room())
            start = -(-len(self._inline) // INLINE_ALIGNMENT) * INLINE_ALIGNMENT
            self._inline += bytes(start - len(self._inline))
            self._inline += data[at : at + length]
            self._add(
                length,
                copy.InlineToStream.encode(
                    cat=1, destination=self._tape, stream_device_transfer_length=self._block_length,
                    inline_data_offset=start, inline_data_number_of_bytes=length,
                ),
            )  # fmt: skip
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
        common = {
            "cat": 1, "source": disk, "destination": self._tape, "stream_device_transfer_length": self._block_length,
            "logical_block_address": offset // sector,
        }  # fmt: skip
        if offset % sector or length % sector or length // sector > MOST_BLOCKS:
            return copy.BlockWithOffsetToStream.encode(**common, number_of_bytes=length, byte_offset=offset % sector)
        return copy.BlockToStream.encode(**common, number_of_blocks=length // sector)

    def end(self) -> None:
        """The last block is filled up with zeros, and everything is sent. Something else may follow."""
        if self._length % self._block_length:
            pad = copy.InlineToStream.encode(destination=self._tape, stream_device_transfer_length=self._block_length)
            self._segments.append((None, pad))
            self._length += -self._length % self._block_length
        self._send()

    def write_filemarks(self, count: int = 1) -> None:
        """After end(): everything is durable then, with count 0 (a checkpoint), too."""
        mark = copy.WriteFilemarks.encode(destination=self._tape, filemark_count=count)
        self._segments.append((None, mark))
        self._send()

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
            or self._length >= COMMAND_BYTES
        )
        if full and to_block == self._block_length:
            self._send()
            full = False
        return to_block if full else max(to_block, COMMAND_BYTES - self._length)

    def _add(self, length: int, segment: bytes) -> None:
        self._segments.append((self._pieces, segment))
        self._length += length

    def _send(self) -> None:
        if not self._segments:
            return
        pieces, segments = [piece for piece, _ in self._segments], [segment for _, segment in self._segments]
        try:
            self._manager.extended_copy(self._cscds, segments, bytes(self._inline))
        except CommandFailed as failed:
            number = (failed.sense.command_specific or 0) & 0xFFFF if failed.sense is not None else 0
            piece = pieces[number] if number < len(pieces) else None
            raise StreamFailed(failed, self.whole_bytes, piece) from failed
        self.whole_bytes += self._length
        self._begin()
        self._progress(self.whole_bytes)
