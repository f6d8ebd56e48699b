"""A tape drive of an iSCSI session."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from scsi_targets.client.unit import CommandFailed, NoSuchAnswer, Unit
from scsi_targets.t10 import copy_descriptors, sense, spc, ssc, vpd

if TYPE_CHECKING:
    from typing_extensions import Buffer

LONG_POSITION_BYTES = 32
LONGEST_BLOCK_BYTES = 0xFFFFFF  # of READ(6)
BLOCKS, FILEMARKS, END_OF_DATA = 0, 1, 3  # CODE of SPACE(6)


class Position(NamedTuple):
    """READ POSITION, long form."""

    partition: int
    logical_object_number: int
    logical_file_identifier: int


class TapeFile(NamedTuple):
    """What lies between a position and the next filemark or the end of data: blocks of one length, in bytes, the last
    of which may be shorter."""

    blocks: int
    block_length: int
    last_length: int

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return max(0, self.blocks - 1) * self.block_length + self.last_length


class Tape(Unit):
    """A sequential access device, in variable-block mode where a method says nothing else."""

    def load(self) -> None:
        """LOAD UNLOAD: ready, at the beginning of partition 0."""
        self.run(ssc.LoadUnload.encode(load=1))

    def unload(self) -> None:
        """LOAD UNLOAD: the robot can take the cartridge."""
        self.run(ssc.LoadUnload.encode(load=0))

    def use_variable_blocks(self) -> None:
        """MODE SELECT: buffered mode, the medium's own density, block length 0."""
        parameters = bytes([0, 0, 0x10, 8]) + bytes(8)
        self.run(spc.ModeSelect6.encode(page_format=1, parameter_list_length=len(parameters)), parameters)

    def rewind(self) -> None:
        """REWIND."""
        self.run(ssc.Rewind.encode())

    def write_block(self, data: Buffer) -> None:
        """WRITE(6) of one block. Raises CommandFailed at early warning, too, when the block is written."""
        self.run(ssc.Write6.encode(transfer_length=memoryview(data).nbytes), data)

    def read_block(self, into: Buffer) -> int:
        """READ(6) of one block that is no longer than the buffer; returns its length. Raises CommandFailed for a
        filemark, the end of data or a longer block."""
        cdb = ssc.Read6.encode(transfer_length=memoryview(into).nbytes, suppress_incorrect_length=1)
        return len(self.run(cdb, data_in=into))

    def write_filemarks(self, count: int = 1) -> None:
        """WRITE FILEMARKS(6): everything is durable afterwards, with count 0, too."""
        self.run(ssc.WriteFilemarks6.encode(filemark_count=count))

    def position(self) -> Position:
        """READ POSITION."""
        data = bytes(self.run(ssc.ReadPositionLong.encode(), data_in_length=LONG_POSITION_BYTES, least=24))
        numbers = data[4:8], data[8:16], data[16:24]
        return Position(*(int.from_bytes(number, "big") for number in numbers))

    def locate(self, logical_object_number: int) -> None:
        """LOCATE(16) in the current partition."""
        self.run(ssc.Locate16.encode(logical_identifier=logical_object_number))

    def space(self, code: int, count: int = 1) -> None:
        """SPACE(6): over blocks or filemarks, backwards where `count` is negative, or to the end of data."""
        self.run(ssc.Space6.encode(code=code, count=count & 0xFFFFFF))

    def reserve(self) -> None:
        """RESERVE(6): nobody else uses the drive until release(), or until the session ends."""
        self.run(spc.Reserve6.encode())

    def release(self) -> None:
        """RELEASE(6)."""
        self.run(spc.Release6.encode())

    def file_ahead(self) -> TapeFile:
        """The file from the position on, which stays where it is. Reads its first and last block only. Raises
        NoSuchAnswer when there is nothing, the last block is longer than the first, or READ POSITION does not tell."""
        start = self.position().logical_object_number
        first = self._next_length()
        if self.position().logical_object_number != start + 1:
            raise NoSuchAnswer(
                self.lun, "READ POSITION does not say where the tape is: the drive must know its long form"
            )
        if first is None:
            self.locate(start)
            return TapeFile(0, 0, 0)
        blocks = self._blocks_from(start)
        self.locate(start + blocks - 1)
        last = self._next_length() or 0
        self.locate(start)
        if last > first:
            raise NoSuchAnswer(self.lun, f"blocks of {first} bytes at the file's beginning, {last} at its end")
        return TapeFile(blocks, first, last)

    def _next_length(self) -> int | None:
        """Of the next block, which is read; None: a filemark is next."""
        try:
            return self.read_block(bytearray(LONGEST_BLOCK_BYTES))
        except CommandFailed as stopped:
            found = stopped.sense
            if found is not None and found.filemark:
                return None
            if found is not None and found.code.key == sense.BLANK_CHECK:
                raise NoSuchAnswer(self.lun, "the tape ends here") from stopped
            if found is not None and found.incorrect_length and 0 < (found.information or 0) < LONGEST_BLOCK_BYTES:
                return LONGEST_BLOCK_BYTES - (found.information or 0)  # a drive that takes no notice of SILI
            raise

    def _blocks_from(self, start: int) -> int:
        """To the next filemark, or to the end of data."""
        try:
            self.space(FILEMARKS)
        except CommandFailed as stopped:
            if stopped.sense is None or stopped.sense.code.key != sense.BLANK_CHECK:
                raise
            return self.position().logical_object_number - start
        return self.position().logical_object_number - start - 1

    def sha256_of_file(self, size_bytes: int, block_length: int) -> str:
        """Of a file that has to be `size_bytes` in blocks of `block_length` bytes, from the position on and with the
        filemark behind it. Raises NoSuchAnswer when there is more."""
        digest, cdb = hashlib.sha256(), ssc.Read6.encode(transfer_length=block_length)
        for data in self.stream((cdb for _ in range(0, size_bytes, block_length)), block_length):
            digest.update(data)
        try:
            self.run(cdb, data_in_length=block_length)
        except CommandFailed as stopped:
            if stopped.sense is not None and stopped.sense.filemark:
                return digest.hexdigest()
            raise
        raise NoSuchAnswer(self.lun, f"the file goes on after {size_bytes} bytes")

    def cscd(self, *, pad: bool = False, block_length: int = 0) -> bytes:
        """A CSCD descriptor for this drive; block_length: for fixed-block transfers."""
        return copy_descriptors.identification_descriptor(
            self.naa(), device_type=vpd.SEQUENTIAL_ACCESS, pad=pad, fixed=bool(block_length), block_length=block_length
        )
