"""VERIFY(6): reads and checks, sends nothing (SSC-3 6.7; VTE and VBF of SSC-4).

Where logical block protection is on for reads, the lengths count the protection information, as in READ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datamover.engine import PROTECTION_BYTES
from scsi_targets.devices.tape.base import READ_ERRORS
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.tape.transfer import filemark_detected
from scsi_targets.devices.unit.dispatch import READS, REQUIRED, handles
from scsi_targets.t10 import sense, ssc
from scsi_targets.t10.sense import CheckCondition
from vlib_images.cartridge.cartridge import ReadKind, ReadResult

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Task


class Verification(TapePart):
    """Every block's checksum is verified as it is read; the data go nowhere."""

    @handles(ssc.Verify6, medium=REQUIRED, reservation=READS, slow=True, timeout_seconds=86400)
    def verify_6(self, cdb: ssc.Verify6, task: Task) -> None:
        self._refuse(cdb)
        self._drive.synchronize(deferred=True)
        self._drive.prepare_transfer(task.nexus, writing=False)
        if cdb.verify_to_end_of_data:
            self._verify_filemarks(task, None)
        elif cdb.verify_by_filemarks:
            self._verify_filemarks(task, cdb.verification_length)
        elif cdb.fixed:
            block_length = self._drive.fixed_block_length(
                ssc.Verify6.fixed, PROTECTION_BYTES if self._method(task) else 0
            )
            self._verify_blocks(task, block_length, cdb.verification_length)
        elif cdb.verification_length:
            self._verify_variable(task, cdb.verification_length)

    def _method(self, task: Task) -> int:
        return self._drive.protecting_reads.get(task.nexus, 0)

    @staticmethod
    def _refuse(cdb: ssc.Verify6) -> None:
        # BYTCMP would compare with Data-Out; VLBPM asks by which method each block was protected when it was written,
        # which this medium does not keep, since it gives out every method. VTE goes with neither VBF nor FIXED.
        for field in (ssc.Verify6.byte_compare, ssc.Verify6.verify_logical_block_protection_method):
            if getattr(cdb, field.name):
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        if (cdb.verify_to_end_of_data or cdb.verify_by_filemarks) and cdb.fixed:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Verify6.fixed)
        if cdb.verify_to_end_of_data and cdb.verify_by_filemarks:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Verify6.verify_by_filemarks)

    def _verify_filemarks(self, task: Task, count: int | None) -> None:
        """Over everything up to and with `count` filemarks; None: to the end of data."""
        left = count
        while (left is None or left) and not task.aborted:
            kind = self._verify_next(task, left or 0).kind
            if kind is ReadKind.END_OF_DATA:
                if left is None:
                    return
                raise self._drive.end_of_data_detected(left)
            if kind is ReadKind.FILEMARK and left is not None:
                left -= 1

    def _verify_blocks(self, task: Task, block_length: int, count: int) -> None:
        for left in range(count, 0, -1):
            if task.aborted:
                return
            result = self._verify_next(task, left)
            if result.kind is not ReadKind.BLOCK or result.length != block_length:
                raise self._drive.read_stopped(result.kind, left)

    def _verify_variable(self, task: Task, length: int) -> None:
        result = self._verify_next(task, length)
        if result.kind is ReadKind.FILEMARK:
            raise filemark_detected(length)
        if result.kind is ReadKind.END_OF_DATA:
            raise self._drive.end_of_data_detected(length)
        if result.length != length:
            raise CheckCondition(sense.INCORRECT_LENGTH, information=length - result.length, incorrect_length=True)

    def _verify_next(self, task: Task, residual: int) -> ReadResult:
        task.check()
        try:
            return self._drive.loaded.read_block(bytearray(), self._method(task))
        except READ_ERRORS as error:
            raise self._drive.read_failure(error, residual) from error
