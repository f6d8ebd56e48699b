"""COMPARE AND WRITE, ORWRITE and WRITE ATOMIC: one uninterrupted action (SBC-4 4.26, 4.29)."""

from __future__ import annotations

from datamover.engine import first_difference, or_into
from scsi_targets.devices.disk.storage import BlockStorage
from scsi_targets.devices.unit.dispatch import REQUIRED, handles
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import sbc, sense
from scsi_targets.t10.sense import CheckCondition


class AtomicCommands(Part):
    """Commands that hold the disk's gate alone while they read and write."""

    def __init__(self, disk: BlockStorage) -> None:
        self._disk = disk

    @handles(sbc.CompareAndWrite, medium=REQUIRED, writes=True, concurrent=True)
    def compare_and_write(self, cdb: sbc.CompareAndWrite, task: Task) -> Response:
        self._disk.refuse_protection_information(cdb)
        offset, length = self._disk.span(cdb, cdb.logical_block_address, cdb.number_of_logical_blocks)
        if not length:
            # Nothing to do, and GOOD. But blocks to compare and to write say that the number did not fit its 8 bits.
            if len(task.data()) >= 2 * self._disk.block_length:
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, sbc.CompareAndWrite.number_of_logical_blocks)
            return Response()
        data = self._disk.exact_data(task, 2 * length)
        on_medium = task.pool.acquire(length)
        with self._disk.gate.alone:
            self._disk.medium.read_into(on_medium, offset)
            if (at := first_difference(on_medium, data[:length])) >= 0:
                raise CheckCondition(sense.MISCOMPARE_DURING_VERIFY, information=at, transferred=2 * length)
            durable = bool(cdb.force_unit_access) or not self._disk.writeback_cache
            self._disk.medium.write(data[length:], offset, durable=durable)
        return Response(data_length=2 * length)

    @handles(sbc.OrWrite16, medium=REQUIRED, writes=True, concurrent=True)
    def or_write(self, cdb: sbc.OrWrite16, task: Task) -> Response:
        self._disk.refuse_protection_information(cdb)
        offset, length = self._disk.transfer_span(cdb, cdb.logical_block_address, cdb.transfer_length)
        data = self._disk.whole_blocks(task, length)
        if not data:
            return Response(data_length=length)
        result = task.pool.acquire(len(data))
        with self._disk.gate.alone:
            self._disk.medium.read_into(result, offset)
            or_into(result, data)
            self._disk.medium.write(
                result, offset, durable=bool(cdb.force_unit_access) or not self._disk.writeback_cache
            )
        return Response(data_length=length)

    @handles(sbc.WriteAtomic16, medium=REQUIRED, writes=True, concurrent=True)
    def write_atomic(self, cdb: sbc.WriteAtomic16, task: Task) -> Response:
        self._disk.refuse_protection_information(cdb)
        offset, length = self._disk.span(cdb, cdb.logical_block_address, cdb.transfer_length)
        # ATOMIC BOUNDARY must be zero where MAXIMUM ATOMIC BOUNDARY SIZE is (SBC-4 5.48).
        for wrong, field in (
            (cdb.atomic_boundary, sbc.WriteAtomic16.atomic_boundary),
            (offset % self._disk.physical_block_length, sbc.WriteAtomic16.logical_block_address),
            (length % self._disk.physical_block_length, sbc.WriteAtomic16.transfer_length),
            (length > self._disk.medium.max_atomic_bytes, sbc.WriteAtomic16.transfer_length),
        ):
            if wrong:
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        if length:
            data = self._disk.exact_data(task, length)
            with self._disk.gate.alone:
                self._disk.medium.write_atomic(data, offset)
        return Response(data_length=length)
