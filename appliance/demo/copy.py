"""The demonstration's initiator: everything it does to the library it does over iSCSI, as any host could.

Loads a cartridge with MOVE MEDIUM, has the disk copied by EXTENDED COPY, reads tape and disk back and compares them.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datamover.initiator import Command, Result, Session
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc, smc, spc, ssc, vpd

BLOCK_BYTES = 256 << 10  # of the tape
SEGMENT_BYTES = 16 << 20  # of one segment descriptor: a number of disk blocks that fits into its 16 bits
SEGMENTS = 4  # of one EXTENDED COPY
DISK_READ_BYTES = 1 << 20
QUEUE_DEPTH = 8
COMMAND_SECONDS = 600.0

Progress = Callable[[int, int], None]

GOOD, CHECK_CONDITION = 0x00, 0x02
UNIT_ATTENTION = 0x6
FILEMARK_BIT = 0x80
NAA = 3


class CommandFailed(Exception):
    """A command did not end as it had to; str() names it and what it answered."""


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
class Place:
    """Where things are: LUNs, and the element addresses of the cartridge's slot and of the drive, which is empty."""

    changer_lun: int
    drive_lun: int
    disk_lun: int
    cartridge_address: int
    drive_address: int


def run(session: Session, place: Place, progress: Progress) -> Copied:
    """Load the cartridge, copy the disk to it, read both back, put the cartridge back.

    Raises CommandFailed, InitiatorError.
    """
    initiator = Initiator(session, place)
    initiator.load()
    size = initiator.disk_bytes()
    steps: list[Step] = []

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        steps.append(Step(name, size, time.monotonic() - began))

    with timed("EXTENDED COPY, disk to tape"):
        initiator.copy(size, progress)
    with timed("read the tape over iSCSI"):
        tape = initiator.hash_of_tape(size)
    with timed("read the disk over iSCSI"):
        disk = initiator.hash_of_disk(size)
    initiator.unload()
    return Copied(steps, disk_sha256=disk, tape_sha256=tape)


class Initiator:
    """One session, and what the demonstration asks of its logical units."""

    def __init__(self, session: Session, place: Place) -> None:
        self._session = session
        self._place = place

    def load(self) -> None:
        """The cartridge is in the drive, ready and rewound; the drive reads and writes variable blocks."""
        place = self._place
        self._move(place.cartridge_address, place.drive_address)
        self._run(place.drive_lun, ssc.LoadUnload.encode(load=1))
        descriptor = bytes([0, 0, 0x10, 8]) + bytes(8)  # buffered mode, density 0 (the medium's), block length 0
        cdb = spc.ModeSelect6.encode(page_format=1, parameter_list_length=len(descriptor))
        self._run(place.drive_lun, cdb, descriptor)

    def unload(self) -> None:
        """The cartridge is back where it came from."""
        self._run(self._place.drive_lun, ssc.LoadUnload.encode(load=0))
        self._move(self._place.drive_address, self._place.cartridge_address)

    def _move(self, source: int, destination: int) -> None:
        cdb = smc.MoveMedium.encode(source_element_address=source, destination_element_address=destination)
        self._run(self._place.changer_lun, cdb)

    def disk_bytes(self) -> int:
        """The disk's size."""
        data = self._run(self._place.disk_lun, sbc.ReadCapacity10.encode(), data_in_length=8)
        self._block_length = int.from_bytes(data[4:8], "big")
        return (int.from_bytes(data[:4], "big") + 1) * self._block_length

    def copy(self, size: int, progress: Progress) -> None:
        """EXTENDED COPY from the disk's first block to its last, then a filemark: durable when this returns."""
        disk = copy.identification_descriptor(
            self._naa(self._place.disk_lun), device_type=vpd.DIRECT_ACCESS, block_length=self._block_length
        )
        tape = copy.identification_descriptor(self._naa(self._place.drive_lun), device_type=vpd.SEQUENTIAL_ACCESS)
        for start in range(0, size, SEGMENTS * SEGMENT_BYTES):
            end = min(start + SEGMENTS * SEGMENT_BYTES, size)
            parameters = copy.parameter_list([disk, tape], self._segments(start, end), list_identifier=1)
            cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(parameters))
            self._run(self._place.drive_lun, cdb, parameters)
            progress(end, size)
        self._run(self._place.drive_lun, ssc.WriteFilemarks6.encode(filemark_count=1))

    def _segments(self, start: int, end: int) -> list[bytes]:
        """Segment descriptors for the disk's bytes from `start` to `end`; CSCD descriptor 0 is the disk, 1 the tape."""
        return [
            copy.BlockToStream.encode(
                source=0,
                destination=1,
                stream_device_transfer_length=BLOCK_BYTES,
                number_of_blocks=min(SEGMENT_BYTES, end - at) // self._block_length,
                logical_block_address=at // self._block_length,
            )
            for at in range(start, end, SEGMENT_BYTES)
        ]

    def hash_of_tape(self, size: int) -> str:
        """SHA-256 of the tape's first file, which has to be `size` bytes in blocks of BLOCK_BYTES."""
        self._run(self._place.drive_lun, ssc.Rewind.encode())
        cdb = ssc.Read6.encode(transfer_length=BLOCK_BYTES)
        digest = self._hash(self._place.drive_lun, (cdb for _ in range(0, size, BLOCK_BYTES)), BLOCK_BYTES)
        result = self._session.command(self._place.drive_lun, cdb, None, BLOCK_BYTES)
        if result.status != CHECK_CONDITION or not result.sense[2] & FILEMARK_BIT:
            raise _failure(self._place.drive_lun, cdb, result)
        return digest

    def hash_of_disk(self, size: int) -> str:
        """SHA-256 of the whole disk."""
        count = DISK_READ_BYTES // self._block_length
        blocks = range(0, size // self._block_length, count)
        cdbs = (sbc.Read10.encode(logical_block_address=block, transfer_length=count) for block in blocks)
        return self._hash(self._place.disk_lun, cdbs, DISK_READ_BYTES)

    def _hash(self, lun: int, cdbs: Iterator[bytes], length: int) -> str:
        """SHA-256 of what many reads of `length` bytes return, several of them under way at once."""
        digest = hashlib.sha256()
        waiting: deque[tuple[bytes, Command]] = deque()
        while True:
            while len(waiting) < QUEUE_DEPTH and (cdb := next(cdbs, None)) is not None:
                waiting.append((cdb, self._session.submit(lun, cdb, data_in_length=length)))
            if not waiting:
                return digest.hexdigest()
            cdb, command = waiting.popleft()
            result = self._session.wait(command)
            if result.status != GOOD or result.residual:
                raise _failure(lun, cdb, result)
            digest.update(result.data)

    def _naa(self, lun: int) -> bytes:
        """The NAA designator of a logical unit, from its Device Identification VPD page (SPC-5 7.8.6)."""
        cdb = spc.Inquiry.encode(enable_vital_product_data=1, page_code=0x83, allocation_length=0xFF)
        page = bytes(self._run(lun, cdb, data_in_length=0xFF))
        at = 4
        while at < 4 + int.from_bytes(page[2:4], "big"):
            end = at + 4 + page[at + 3]
            if page[at + 1] & 0x3F == NAA:  # association 0: the logical unit
                return page[at + 4 : end]
            at = end
        raise CommandFailed(f"LUN {lun} has no NAA designator in VPD page 83h")

    def _run(self, lun: int, cdb: bytes, data_out: bytes | None = None, data_in_length: int = 0) -> memoryview:
        """A command that must end GOOD. Unit attentions tell of what happened before, so they are passed over.

        Raises CommandFailed, InitiatorError.
        """
        while True:
            result = self._session.command(lun, cdb, data_out, data_in_length, timeout_seconds=COMMAND_SECONDS)
            if result.status == GOOD:
                return result.data
            if len(result.sense) < 3 or result.sense[2] & 0x0F != UNIT_ATTENTION:
                raise _failure(lun, cdb, result)


def _failure(lun: int, cdb: bytes, result: Result) -> CommandFailed:
    return CommandFailed(
        f"LUN {lun}: CDB {cdb.hex()} ended with status {result.status:02X}h, sense {result.sense.hex() or 'none'}"
    )
