"""A disk of an iSCSI session."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from scsi_targets.client.unit import NoSuchAnswer, Unit
from scsi_targets.t10 import copy_descriptors, sbc, vpd

if TYPE_CHECKING:
    from typing_extensions import Buffer

READ_BYTES = 1 << 20
CAPACITY_BYTES, SHORT_CAPACITY_BYTES = 32, 12  # those of SBC-2 say no more
LBPME_AND_LBPRZ = 0xC0  # READ CAPACITY(16), byte 14
MOST_SAME_BLOCKS = 0xFFFF  # of one WRITE SAME


class Capacity(NamedTuple):
    """READ CAPACITY(16)."""

    blocks: int
    block_length: int

    @property
    def size_bytes(self) -> int:
        """The whole disk."""
        return self.blocks * self.block_length


class Disk(Unit):
    """A direct access block device."""

    @cached_property
    def capacity(self) -> Capacity:
        """As it was when first asked for. Raises NoSuchAnswer."""
        data = self._capacity_data()
        capacity = Capacity(int.from_bytes(data[:8], "big") + 1, int.from_bytes(data[8:12], "big"))
        if not capacity.block_length:
            raise NoSuchAnswer(self.lun, "the disk has blocks of no bytes")
        return capacity

    def _capacity_data(self) -> bytes:
        cdb = sbc.ReadCapacity16.encode(allocation_length=CAPACITY_BYTES)
        data = bytes(self.run(cdb, data_in_length=CAPACITY_BYTES, least=SHORT_CAPACITY_BYTES))
        return data.ljust(CAPACITY_BYTES, b"\0")

    @cached_property
    def unmaps_to_zeros(self) -> bool:
        """Whether blocks that are unmapped read as zeros (SBC-4 5.20.2)."""
        return self._capacity_data()[14] & LBPME_AND_LBPRZ == LBPME_AND_LBPRZ

    def read(self, into: Buffer, logical_block_address: int) -> None:
        """READ(16): fills a buffer of whole blocks."""
        count = memoryview(into).nbytes // self.capacity.block_length
        self.run(sbc.Read16.encode(logical_block_address=logical_block_address, transfer_length=count), data_in=into)

    def write(self, data: Buffer, logical_block_address: int) -> None:
        """WRITE(16)."""
        count = memoryview(data).nbytes // self.capacity.block_length
        self.run(sbc.Write16.encode(logical_block_address=logical_block_address, transfer_length=count), data)

    def write_zeros(self, logical_block_address: int, count: int) -> None:
        """WRITE SAME(16) without data; unmaps where that reads as zeros."""
        end = logical_block_address + count
        for at in range(logical_block_address, end, MOST_SAME_BLOCKS):
            cdb = sbc.WriteSame16.encode(
                no_data_out_buffer=1, unmap=self.unmaps_to_zeros, logical_block_address=at,
                number_of_logical_blocks=min(MOST_SAME_BLOCKS, end - at),
            )  # fmt: skip
            self.run(cdb)

    def sha256(self) -> str:
        """Of the whole disk; several reads are under way at once."""
        digest, (blocks, block_length) = hashlib.sha256(), self.capacity
        step = READ_BYTES // block_length
        whole = blocks - blocks % step
        cdbs = (sbc.Read16.encode(logical_block_address=at, transfer_length=step) for at in range(0, whole, step))
        for data in self.stream(cdbs, READ_BYTES):
            digest.update(data)
        if rest := blocks - whole:
            data = bytearray(rest * block_length)
            self.read(data, whole)
            digest.update(data)
        return digest.hexdigest()

    def cscd(self, *, pad: bool = False) -> bytes:
        """A CSCD descriptor for this disk."""
        return copy_descriptors.identification_descriptor(
            self.naa(), device_type=vpd.DIRECT_ACCESS, block_length=self.capacity.block_length, pad=pad
        )
