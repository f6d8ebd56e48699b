"""A whole disk to a tape by EXTENDED COPY, ordered by an initiator."""

from collections.abc import Callable

from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.t10 import copy_descriptors as copy

BLOCK_BYTES = 256 << 10  # of the tape
SEGMENT_BYTES = 16 << 20  # of one segment descriptor: a number of disk blocks that fits into its 16 bits
SEGMENTS = 4  # of one EXTENDED COPY
COMMAND_SECONDS = 600.0

Progress = Callable[[int, int], None]


def copy_disk(disk: Disk, tape: Tape, progress: Progress) -> None:
    """EXTENDED COPY from the disk's first block to its last, then a filemark: durable when this returns."""
    manager = CopyingUnit(tape.session, tape.lun, timeout_seconds=COMMAND_SECONDS)
    cscds, size = [disk.cscd(), tape.cscd()], disk.capacity.size_bytes
    for start in range(0, size, SEGMENTS * SEGMENT_BYTES):
        end = min(start + SEGMENTS * SEGMENT_BYTES, size)
        manager.extended_copy(cscds, segments(start, end, disk.capacity.block_length))
        progress(end, size)
    tape.write_filemarks()


def segments(start: int, end: int, block_length: int) -> list[bytes]:
    """Segment descriptors for a disk's bytes from `start` to `end`; CSCD descriptor 0 is the disk, 1 the tape."""
    return [
        copy.BlockToStream.encode(
            source=0,
            destination=1,
            stream_device_transfer_length=BLOCK_BYTES,
            number_of_blocks=min(SEGMENT_BYTES, end - at) // block_length,
            logical_block_address=at // block_length,
        )
        for at in range(start, end, SEGMENT_BYTES)
    ]
