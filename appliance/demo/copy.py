"""The demonstration's initiator: everything it does to the library it does over iSCSI, as any host could.

Loads a cartridge with MOVE MEDIUM, has the disk copied by EXTENDED COPY, reads tape and disk back and compares them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.progress import Progress
from datamover.initiator import InitiatorSession
from scsi_targets.client.changer import Changer
from scsi_targets.client.copy_manager import CopyManager
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.t10 import copy_descriptors as copy

BLOCK_BYTES = 256 << 10  # of the tape
SEGMENT_BYTES = 16 << 20  # of one segment descriptor: a number of disk blocks that fits into its 16 bits
SEGMENTS = 4  # of one EXTENDED COPY
COMMAND_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done, for the report."""

    name: str
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Copied:
    """What the demonstration found out."""

    steps: list[Step]
    disk_sha256: str
    tape_sha256: str


@dataclass(frozen=True, slots=True)
class DemoSite:
    """Where things are: LUNs, and the element addresses of the cartridge's slot and of the drive, which is empty."""

    changer_lun: int
    drive_lun: int
    disk_lun: int
    cartridge_address: int
    drive_address: int


def run(session: InitiatorSession, place: DemoSite, progress: Progress) -> Copied:
    """Load the cartridge, copy the disk to it, read both back, put the cartridge back.

    Raises CommandFailed and NoSuchAnswer of scsi_targets.client, InitiatorError.
    """
    changer = Changer(session, place.changer_lun, timeout_seconds=COMMAND_SECONDS)
    tape = Tape(session, place.drive_lun, timeout_seconds=COMMAND_SECONDS)
    disk = Disk(session, place.disk_lun, timeout_seconds=COMMAND_SECONDS)
    changer.move(place.cartridge_address, place.drive_address)
    tape.load()
    tape.use_variable_blocks()
    size = disk.capacity.size_bytes
    steps: list[Step] = []

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        steps.append(Step(name, size, time.monotonic() - began))

    with timed("EXTENDED COPY, disk to tape"):
        copy_disk(disk, tape, progress)
    with timed("read the tape over iSCSI"):
        tape.rewind()
        tape_sha256 = tape.sha256_of_file(size, BLOCK_BYTES)
    with timed("read the disk over iSCSI"):
        disk_sha256 = disk.sha256()
    tape.unload()
    changer.move(place.drive_address, place.cartridge_address)
    return Copied(steps, disk_sha256=disk_sha256, tape_sha256=tape_sha256)


def copy_disk(disk: Disk, tape: Tape, progress: Progress) -> None:
    """EXTENDED COPY from the disk's first block to its last, then a filemark: durable when this returns."""
    manager = CopyManager(tape.session, tape.lun, timeout_seconds=COMMAND_SECONDS)
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
