"""A tape drive as a copy uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datamover.file_run import CHECKSUM_BYTES
from scsi_targets.devices.copying.access import TapeAccess
from scsi_targets.devices.copying.local import LocalAccess
from scsi_targets.t10 import ssc
from scsi_targets.t10.sense import CheckCondition, SenseCode
from vlib_images.errors import DamagedBlock, EncryptionProblem

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from datamover.file_run import FileRun
    from scsi_targets.devices.tape.position import Positioning
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.unit.task import Task


class TapeDriveAccess(LocalAccess, TapeAccess):
    """READ(6), WRITE(6), WRITE FILEMARKS(6), SPACE(6) and LOCATE(10). The copy has the medium for itself."""

    reading = ssc.Read6
    writing = ssc.Write6
    alone = True

    def __init__(self, drive: TapeTransfers, positioning: Positioning, task: Task) -> None:
        super().__init__(drive, task)
        self._drive = drive
        self._positioning = positioning

    def read_blocks(self, into: Buffer, block_length: int, fixed: bool, /) -> Buffer:
        drive, count = self._drive, memoryview(into).nbytes // block_length
        checksums = bytearray(CHECKSUM_BYTES * count)
        with self.command(self.reading), drive.lock:
            drive.prepare_transfer(self._task.nexus, writing=False)
            try:
                result = drive.loaded.read_blocks(into, block_length, count, checksums=checksums)
            except (DamagedBlock, EncryptionProblem) as error:
                left = count - error.blocks_read if fixed else block_length
                raise _after(error.blocks_read * block_length, drive.read_failure(error, left)) from error
            if result.blocks < count:
                left = count - result.blocks if fixed else block_length - result.length
                raise _after(result.blocks * block_length, drive.read_stopped(result.stopped_by, left))
        return checksums

    def write_blocks(self, data: Buffer, block_length: int, fixed: bool, checksums: Buffer, /) -> None:
        drive, length = self._drive, memoryview(data).nbytes
        with self.command(self.writing):
            with drive.lock:
                drive.prepare_transfer(self._task.nexus, writing=True)
            try:
                warning = drive.write_blocks(data, block_length, length // block_length, checksums=checksums)
            except CheckCondition as failure:
                raise _write_failure(failure, length, block_length, fixed) from failure
        if warning is not None:  # everything was written, and the initiator must be told: the copy ends here
            raise _warned(warning, length)

    def writes_files(self) -> bool:
        medium = self._drive.medium
        return medium is not None and medium.writes_files

    def write_file(self, run: FileRun, /) -> int:
        drive = self._drive
        with self.command(self.writing), drive.lock:
            drive.prepare_transfer(self._task.nexus, writing=True)
            return drive.write_file(run)

    def write_filemarks(self, count: int, *, immediate: bool) -> None:
        with self.command(ssc.WriteFilemarks6), self._drive.lock:
            warning = self._drive.write_filemarks(count, immediate=immediate)
        if warning is not None:
            raise _warned(warning)

    def space(self, code: int, count: int) -> None:
        with self.command(ssc.Space6), self._drive.lock:
            self._positioning.space(code, count, ssc.Space6.code)

    def locate(self, logical_object_identifier: int) -> None:
        with self.command(ssc.Locate10), self._drive.lock:
            partition = self._drive.loaded.position[0]
            self._positioning.locate(ssc.DESTINATION_OBJECT, partition, logical_object_identifier)


def _after(transferred: int, failure: CheckCondition) -> CheckCondition:
    failure.transferred = transferred
    return failure


def _warned(warning: SenseCode, transferred: int = 0) -> CheckCondition:
    return CheckCondition(warning, information=0, end_of_medium=True, transferred=transferred)


def _write_failure(failure: CheckCondition, length: int, block_length: int, fixed: bool) -> CheckCondition:
    """INFORMATION counts blocks; a variable-block write would have said how long its one block is."""
    left = failure.sense.information
    if left is None:
        return failure
    if not fixed:
        failure.sense = failure.sense._replace(information=block_length)
    return _after(length - left * block_length, failure)
