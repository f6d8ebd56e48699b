"""WRITE SAME, UNMAP and GET LBA STATUS (SBC-4 4.7, 5): space taken, given back, and told."""

from __future__ import annotations

from collections.abc import Iterator

from scsi_targets.devices.disk.capacity import MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BLOCKS
from scsi_targets.devices.disk.storage import BlockStorage
from scsi_targets.devices.unit.dispatch import READS, REQUIRED, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.task import Deferred, Response, Task
from scsi_targets.t10 import sbc, sbc_pages, sense
from scsi_targets.t10.sense import CheckCondition
from vlib_images.disk.image import Provisioning, fill_steps

# A WRITE SAME that writes more than this does so on a thread of its own.
LONG_FILL_BYTES = 16 << 20
# GET LBA STATUS looks at no more of the image than it can tell about: one descriptor counts at most 2^32 - 1 blocks.
MAX_STATUS_DESCRIPTORS = 1024
MAX_DESCRIPTOR_BLOCKS = 0xFFFFFFFF

STATUS_CODES = {Provisioning.MAPPED: 0, Provisioning.DEALLOCATED: 1, Provisioning.ANCHORED: 2}


class ProvisioningCommands(Part):
    """Logical block provisioning on holes (deallocated) and unwritten extents (anchored) of the image."""

    def __init__(self, disk: BlockStorage) -> None:
        self._disk = disk

    # ---- WRITE SAME ------------------------------------------------------------------------------------------------

    @handles(sbc.WriteSame10, medium=REQUIRED, writes=True, concurrent=True, timeout_seconds=600)
    @handles(sbc.WriteSame16, medium=REQUIRED, writes=True, concurrent=True, timeout_seconds=600)
    def write_same(self, cdb: sbc.WriteSame10 | sbc.WriteSame16, task: Task) -> Response | Deferred:
        self._disk.refuse_protection_information(cdb)
        if cdb.anchor and not cdb.unmap:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).anchor)
        if cdb.unmap and not self._disk.thin:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).unmap)
        # A number of zero is up to the end of the medium (WSNZ is 0).
        count = cdb.number_of_logical_blocks or max(0, self._disk.capacity - cdb.logical_block_address)
        offset, length = self._disk.span(cdb, cdb.logical_block_address, count)
        if count > MAX_WRITE_SAME_BLOCKS:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).number_of_logical_blocks)
        pattern = self._same_block(cdb, task)
        if cdb.unmap and not (self._disk.read_zeros and any(pattern)):
            # With LBPRZ only zeros may be unmapped, for that is what is read back then; anything else is written.
            # Without LBPRZ what is read back from unmapped blocks is anything (SBC-4 4.7.3.4).
            self._release(offset, length, anchor=bool(cdb.anchor))
            return Response(data_length=len(task.data()))
        if length <= LONG_FILL_BYTES:
            return self._fill(task, pattern, offset, length)
        return self._disk.defer(task, lambda: self._fill(task, pattern, offset, length))

    def _same_block(self, cdb: sbc.WriteSame10 | sbc.WriteSame16, task: Task) -> bytes:
        """The one logical block to write, which NDOB makes a block of zeros without Data-Out."""
        if isinstance(cdb, sbc.WriteSame16) and cdb.no_data_out_buffer:
            self._disk.exact_data(task, 0)
            return bytes(self._disk.block_length)
        return bytes(self._disk.exact_data(task, self._disk.block_length))

    def _fill(self, task: Task, pattern: bytes, offset: int, length: int) -> Response:
        for at, step in fill_steps(offset, length, self._disk.block_length):
            if task.aborted:
                break
            with self._disk.gate.shared:
                self._disk.medium.fill(pattern, at, step)
        if not self._disk.writeback_cache:
            self._disk.medium.synchronize()
        return Response(data_length=len(task.data()))

    def _release(self, offset: int, length: int, *, anchor: bool) -> None:
        with self._disk.gate.shared:
            (self._disk.medium.anchor if anchor else self._disk.medium.deallocate)(offset, length)
        if not self._disk.writeback_cache:
            self._disk.medium.synchronize()

    # ---- UNMAP -----------------------------------------------------------------------------------------------------

    @handles(sbc.Unmap, medium=REQUIRED, writes=True, concurrent=True)
    def unmap(self, cdb: sbc.Unmap, task: Task) -> Response:
        moved = cdb.parameter_list_length
        if not moved:
            return Response()
        data = parameter_list(task, moved, sbc.Unmap.parameter_list_length)
        if len(data) < sbc_pages.UnmapParameterListHeader.length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR, transferred=moved)
        ranges = list(self._unmap_ranges(data))
        for offset, length in ranges:
            self._release(offset, length, anchor=bool(cdb.anchor))
        return Response(data_length=moved)

    def _unmap_ranges(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Every descriptor is checked before the first is carried out. Descriptors that are not whole are none (SBC-4
        5.35.2)."""
        header, descriptor = sbc_pages.UnmapParameterListHeader, sbc_pages.UnmapBlockDescriptor
        available = min(header(data).block_descriptor_data_length, len(data) - header.length)
        count = available // descriptor.length
        if count > MAX_UNMAP_DESCRIPTORS:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, header.block_descriptor_data_length)
        for at in range(header.length, header.length + count * descriptor.length, descriptor.length):
            row = descriptor.decode(data[at:])
            address, blocks = row.logical_block_address, row.number_of_logical_blocks
            if address + blocks > self._disk.capacity:
                raise CheckCondition(sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, transferred=len(data))
            yield address * self._disk.block_length, blocks * self._disk.block_length

    # ---- GET LBA STATUS --------------------------------------------------------------------------------------------

    @handles(sbc.GetLbaStatus16, medium=REQUIRED, reservation=READS)
    def get_lba_status(self, cdb: sbc.GetLbaStatus16, task: Task) -> Response:
        start = cdb.starting_logical_block_address
        if start >= self._disk.capacity:
            field = sbc.GetLbaStatus16.starting_logical_block_address
            raise CheckCondition(sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, field)
        room = min(max(1, (cdb.allocation_length - 8) // sbc_pages.LbaStatusDescriptor.length), MAX_STATUS_DESCRIPTORS)
        body = b"".join(
            sbc_pages.LbaStatusDescriptor.encode(
                logical_block_address=address, number_of_logical_blocks=blocks, provisioning_status=STATUS_CODES[state]
            )
            for (address, blocks, state), _ in zip(self._block_ranges(start), range(room), strict=False)
        )
        header = sbc_pages.LbaStatusHeader.encode(parameter_data_length=4 + len(body))
        return reply(header + body, cdb.allocation_length)

    def _block_ranges(self, start: int) -> Iterator[tuple[int, int, Provisioning]]:
        """(address, number of blocks, state) from `start` to the end of the medium; neighbours differ in state unless
        the number would not fit in 32 bits. A block of which any part is mapped is mapped."""
        pending: tuple[int, Provisioning] | None = None
        for address, state in self._changes(start):
            if pending is not None and state is not pending[1]:
                yield from _split(pending[0], address, pending[1])
                pending = None
            pending = pending or (address, state)
        if pending is not None:
            yield from _split(pending[0], self._disk.capacity, pending[1])

    def _changes(self, start: int) -> Iterator[tuple[int, Provisioning]]:
        """(address, state from there on), addresses ascending."""
        unit = self._disk.block_length
        reached = start
        for extent in self._disk.medium.extents(start * unit, (self._disk.capacity - start) * unit):
            end = extent.offset + extent.length
            mapped = extent.state is Provisioning.MAPPED
            first = max(reached, extent.offset // unit if mapped else -(-extent.offset // unit))
            stop = -(-end // unit) if mapped else end // unit
            if stop > first:
                yield first, extent.state
                reached = stop


def _split(start: int, stop: int, state: Provisioning) -> Iterator[tuple[int, int, Provisioning]]:
    for address in range(start, stop, MAX_DESCRIPTOR_BLOCKS):
        yield address, min(MAX_DESCRIPTOR_BLOCKS, stop - address), state
