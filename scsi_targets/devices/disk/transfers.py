"""READ, WRITE, VERIFY, WRITE AND VERIFY, PRE-FETCH and SYNCHRONIZE CACHE (SBC-4 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from datamover.engine import first_difference
from scsi_targets.devices.disk.statistics import Traffic
from scsi_targets.devices.disk.storage import BlockStorage
from scsi_targets.devices.unit.dispatch import READS, REQUIRED, handles
from scsi_targets.devices.unit.parameter_data import reply_buffer
from scsi_targets.devices.unit.task import Deferred, Response, Task
from scsi_targets.t10 import sbc, sense
from scsi_targets.t10.sense import CheckCondition
from vlib_images.disk.image import Provisioning

# BYTCHK (SBC-4 5.36)
NO_COMPARISON, COMPARE_ALL, COMPARE_ONE_BLOCK = 0, 1, 3
# Read in one piece while the medium is verified.
VERIFY_CHUNK_BYTES = 1 << 20
# A range longer than this is verified on a thread of its own.
LONG_RANGE_BYTES = 64 << 20
BLOCKS_OF_ZERO_6 = 256

VerifyCommand = sbc.Verify10 | sbc.Verify12 | sbc.Verify16
WriteAndVerify = sbc.WriteAndVerify10 | sbc.WriteAndVerify12 | sbc.WriteAndVerify16


class BlockTransfers(BlockStorage):
    """Payload goes between the image and the engine's buffers by preadv(2) and pwritev(2), on the connection's thread
    and outside the logical unit's lock. `traffic` counts it."""

    traffic: Traffic

    # ---- READ ------------------------------------------------------------------------------------------------------

    @handles(sbc.Read10, medium=REQUIRED, reservation=READS, concurrent=True)
    @handles(sbc.Read12, medium=REQUIRED, reservation=READS, concurrent=True)
    @handles(sbc.Read16, medium=REQUIRED, reservation=READS, concurrent=True)
    def read(self, cdb: sbc.Read10 | sbc.Read12 | sbc.Read16, task: Task) -> Response:
        self.refuse_protection_information(cdb)
        offset, length = self.transfer_span(cdb, cdb.logical_block_address, cdb.transfer_length)
        if cdb.force_unit_access:
            self.medium.synchronize()  # what the cache holds goes to the medium first (SBC-4 4.15.2)
        return self._read(task, offset, length)

    @handles(sbc.Read6, medium=REQUIRED, reservation=READS, concurrent=True)
    def read_6(self, cdb: sbc.Read6, task: Task) -> Response:
        offset, length = self.span(cdb, cdb.logical_block_address, cdb.transfer_length or BLOCKS_OF_ZERO_6)
        return self._read(task, offset, length)

    def _read(self, task: Task, offset: int, length: int) -> Response:
        wanted = min(length, task.data_in_limit)
        if not wanted:
            return Response(data_length=length)
        began = time.monotonic_ns()
        buffer = task.pool.acquire(wanted)
        with self.gate.shared:
            self.medium.read_into(buffer, offset)
        self.traffic.was_read(wanted, began)
        return reply_buffer(buffer, length)

    # ---- WRITE -----------------------------------------------------------------------------------------------------

    @handles(sbc.Write10, medium=REQUIRED, writes=True, concurrent=True)
    @handles(sbc.Write12, medium=REQUIRED, writes=True, concurrent=True)
    @handles(sbc.Write16, medium=REQUIRED, writes=True, concurrent=True)
    def write(self, cdb: sbc.Write10 | sbc.Write12 | sbc.Write16, task: Task) -> Response:
        self.refuse_protection_information(cdb)
        offset, length = self.transfer_span(cdb, cdb.logical_block_address, cdb.transfer_length)
        return self._write(task, offset, length, bool(cdb.force_unit_access))

    @handles(sbc.Write6, medium=REQUIRED, writes=True, concurrent=True)
    def write_6(self, cdb: sbc.Write6, task: Task) -> Response:
        offset, length = self.span(cdb, cdb.logical_block_address, cdb.transfer_length or BLOCKS_OF_ZERO_6)
        return self._write(task, offset, length, False)

    def _write(self, task: Task, offset: int, length: int, force_unit_access: bool) -> Response:
        data = self.whole_blocks(task, length)
        if data:
            began = time.monotonic_ns()
            with self.gate.shared:
                self.medium.write(data, offset, durable=force_unit_access or not self.writeback_cache)
            self.traffic.was_written(len(data), began)
        return Response(data_length=length)

    # ---- VERIFY ----------------------------------------------------------------------------------------------------

    @handles(sbc.Verify10, medium=REQUIRED, reservation=READS, concurrent=True)
    @handles(sbc.Verify12, medium=REQUIRED, reservation=READS, concurrent=True)
    @handles(sbc.Verify16, medium=REQUIRED, reservation=READS, concurrent=True)
    def verify(self, cdb: VerifyCommand, task: Task) -> Response | Deferred:
        self.refuse_protection_information(cdb)
        address, count = cdb.logical_block_address, cdb.verification_length
        if cdb.byte_check == COMPARE_ALL:
            offset, length = self.transfer_span(cdb, address, count)
            with self.gate.shared:
                self._compare(task, self.whole_blocks(task, length), offset)
            return Response(data_length=length)
        offset, length = self.span(cdb, address, count)
        if cdb.byte_check not in (NO_COMPARISON, COMPARE_ONE_BLOCK):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).byte_check)
        if not count:
            return Response()
        if cdb.byte_check == NO_COMPARISON:
            return self._long(task, length, 0, lambda: self._read_through(task, offset, length))
        block = self.exact_data(task, self.block_length)
        return self._long(task, length, len(block), lambda: self._compare_each(task, offset, length, block))

    @handles(sbc.WriteAndVerify10, medium=REQUIRED, writes=True, concurrent=True)
    @handles(sbc.WriteAndVerify12, medium=REQUIRED, writes=True, concurrent=True)
    @handles(sbc.WriteAndVerify16, medium=REQUIRED, writes=True, concurrent=True)
    def write_and_verify(self, cdb: WriteAndVerify, task: Task) -> Response | Deferred:
        self.refuse_protection_information(cdb)
        if cdb.byte_check not in (NO_COMPARISON, COMPARE_ALL):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).byte_check)
        offset, length = self.transfer_span(cdb, cdb.logical_block_address, cdb.transfer_length)
        data = self.whole_blocks(task, length)
        if data:
            with self.gate.shared:
                # On the medium before it is verified there (SBC-4 5.44); comparing is then no more work than reading.
                self.medium.write(data, offset, durable=True)
                self._compare(task, data, offset)
        return Response(data_length=length)

    def _compare(self, task: Task, data: memoryview, offset: int) -> None:
        """Compares data with the medium; raises MISCOMPARE with the offset of the first difference in INFORMATION."""
        if not data:
            return
        on_medium = task.pool.acquire(len(data))
        self.medium.read_into(on_medium, offset)
        if (at := first_difference(on_medium, data)) >= 0:
            raise CheckCondition(sense.MISCOMPARE_DURING_VERIFY, information=at, transferred=len(data))

    def _long(self, task: Task, length: int, moved: int, work: Callable[[], None]) -> Response | Deferred:
        """Runs `work`, on a thread of its own when the range it reads is long."""

        def finish() -> Response:
            work()
            return Response(data_length=moved)

        return finish() if length <= LONG_RANGE_BYTES else self.defer(task, finish)

    def _read_through(self, task: Task, offset: int, length: int) -> None:
        """Reads a range and keeps nothing: what is not mapped reads as zeros, which needs no medium."""
        chunk = memoryview(task.pool.acquire(min(length, VERIFY_CHUNK_BYTES)))
        for extent in self.medium.extents(offset, length):
            if extent.state is Provisioning.MAPPED:
                for _ in self._pieces(task, chunk, extent.offset, extent.length):
                    pass

    def _compare_each(self, task: Task, offset: int, length: int, block: memoryview) -> None:
        """Compares every block of a range with one block."""
        chunk = memoryview(task.pool.acquire(min(length, VERIFY_CHUNK_BYTES)))
        expected = memoryview(bytes(block) * (len(chunk) // self.block_length))
        for piece in self._pieces(task, chunk, offset, length):
            if (at := first_difference(piece, expected[: len(piece)])) >= 0:
                code = sense.MISCOMPARE_DURING_VERIFY
                raise CheckCondition(code, information=at % self.block_length, transferred=self.block_length)

    def _pieces(self, task: Task, chunk: memoryview, offset: int, length: int) -> Iterator[memoryview]:
        """A range read piece by piece into `chunk`; ends early when the task is aborted."""
        for at in range(offset, offset + length, len(chunk)):
            if task.aborted:
                return
            piece = chunk[: min(len(chunk), offset + length - at)]
            with self.gate.shared:
                self.medium.read_into(piece, at)
            yield piece

    # ---- the cache -------------------------------------------------------------------------------------------------

    @handles(sbc.PreFetch10, medium=REQUIRED, reservation=READS, concurrent=True)
    @handles(sbc.PreFetch16, medium=REQUIRED, reservation=READS, concurrent=True)
    def prefetch(self, cdb: sbc.PreFetch10 | sbc.PreFetch16, task: Task) -> Response:
        count = cdb.prefetch_length
        offset, length = self.span(cdb, cdb.logical_block_address, count)
        # A length of zero is up to the end of the medium (SBC-4 5.12).
        self.medium.prefetch(offset, length if count else self.medium.size_bytes - offset)
        return Response()  # not CONDITION MET: that promises that all of it fits in the cache

    @handles(sbc.SynchronizeCache10, medium=REQUIRED, concurrent=True, timeout_seconds=120)
    @handles(sbc.SynchronizeCache16, medium=REQUIRED, concurrent=True, timeout_seconds=120)
    def synchronize_cache(self, cdb: sbc.SynchronizeCache10 | sbc.SynchronizeCache16, task: Task) -> Response:
        # All of the cache, whatever the range; and IMMED or not, GOOD says that it is done: nobody can be hurt by more.
        self.span(cdb, cdb.logical_block_address, cdb.number_of_logical_blocks)
        self.medium.synchronize()
        return Response()
