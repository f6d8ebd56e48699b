"""Blocks between initiator and medium: READ(6), WRITE(6), WRITE FILEMARKS(6), VERIFY(6) (SSC-3 6.4, 6.7 to 6.9).

The hot path. Payload goes from the task's Data-Out to the cartridge and from the cartridge into a buffer of the task's
pool, one engine call for each command, never copied here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from datamover.engine import LIMIT_TRANSFER_BYTES, PROTECTION_BYTES
from scsi_targets.devices.tape.base import MEDIUM_ACCESS_SECONDS, READ_ERRORS
from scsi_targets.devices.tape.load import TapeLoader
from scsi_targets.devices.unit.dispatch import READS, REQUIRED, handles
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense, ssc
from scsi_targets.t10.sense import CheckCondition, SenseCode
from vlib_images import errors
from vlib_images.cartridge.cartridge import Cartridge, ReadKind
from vlib_images.cartridge.partition import record_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from datamover.file_run import FileRun
    from scsi_targets.devices.tape.models import DriveModel
    from scsi_targets.devices.unit.state_store import StateStore
    from scsi_targets.t10.fields import Field


class TransferPreparation(Protocol):
    """What has a say before a block is moved: data encryption."""

    def prepare_transfer(self, nexus: Nexus, *, writing: bool) -> None: ...


class TapeTransfers(TapeLoader):
    """Reading and writing at the position, by CDB and (for the copy manager) without. What governs it are plain
    attributes, which the parts set when it changes."""

    encryption: TransferPreparation  # of the finished drive

    def __init__(
        self, model: DriveModel, serial_number: str, *, store: StateStore | None = None, state_key: str = ""
    ) -> None:
        self.block_length = 0  # of fixed-block transfers, from the mode parameter block descriptor; 0: variable only
        self.buffered_mode = 1
        self.append_only = False
        self.synchronize_at_early_warning = True
        self.programmable_early_warning_bytes = 0
        self.overwrite_allowed_at: tuple[int, int] | None = None  # ALLOW OVERWRITE: (partition, block)
        self.format_allowed = False  # ALLOW OVERWRITE
        # Logical block protection of each I_T nexus that has it on: the method (SSC-5 4.2.27).
        self.protecting_writes: dict[Nexus, int] = {}
        self.protecting_reads: dict[Nexus, int] = {}
        self.encryption_watched = False  # data encryption parameters were set: a transfer has to bring them into effect
        self._warned = False  # PROGRAMMABLE EARLY WARNING is reported once until the position moves
        self._watch_writes = False
        super().__init__(model, serial_number, store=store, state_key=state_key)

    def watch_writes(self) -> None:
        """To be called when one of the rules above changes: decides whether writing has more to do than to write."""
        self._watch_writes = bool(self.buffered_mode == 0 or self.append_only or self.programmable_early_warning_bytes)

    def prepare_transfer(self, nexus: Nexus, *, writing: bool) -> None:
        """Brings the data encryption parameters of a nexus into effect. Raises CheckCondition: it must not write."""
        if self.encryption_watched:
            self.encryption.prepare_transfer(nexus, writing=writing)

    # ---- without CDBs --------------------------------------------------------------------------------------------

    def write_blocks(
        self, data: Buffer, block_length: int, count: int, *, fixed: bool = True, protection: int = 0,
        checksums: Buffer | None = None,
    ) -> SenseCode | None:  # fmt: skip
        """Writes `count` blocks of `block_length` bytes at the position; with a method of logical block protection each
        ends in protection information, which is checked and not kept. checksums: their CRC32C, where they came with it.

        Returns EARLY_WARNING or PROGRAMMABLE_EARLY_WARNING when the blocks were written and the initiator must be told,
        otherwise None. Raises CheckCondition; its INFORMATION is what was not written: blocks, or without `fixed` the
        bytes of the one block."""
        with self.lock:  # a copy comes without it
            medium, allowed = self.loaded, self.overwrite_allowed_at
            if self._watch_writes:
                self.check_append(medium)
            if self.buffered_from is None:
                self.buffered_from = medium.position
            try:
                if count == 1 and checksums is None:
                    medium.write_block(data, protection)
                else:
                    medium.write_blocks(data, block_length, protection, checksums)
            except errors.CartridgeError as error:
                written = getattr(error, "blocks_written", 0)
                if not written:
                    self.overwrite_allowed_at = allowed  # the same block may come again
                raise self.write_failure(error, count - written if fixed else block_length) from error
            return self._after_write(medium) if self._watch_writes or medium.early_warning else None

    def write_file(self, run: FileRun) -> int:
        """Writes blocks out of a file at the position: how many, of which no initiator must be told anything. For the
        rest, and for whatever has to be told or decided, there is write_blocks(); the caller holds the lock."""
        medium = self.loaded
        if not run.blocks or self._watch_writes or not medium.writes_files:
            return 0
        distance = medium.early_warning_bytes + run.blocks * record_bytes(run.block_length)
        if medium.early_warning or medium.ends_within(distance):
            return 0
        with suppress(errors.CartridgeError):
            self.buffered_from = self.buffered_from or medium.position
            return medium.write_file(run)
        return 0

    def write_filemarks(self, count: int, *, immediate: bool) -> SenseCode | None:
        """Writes filemarks; without `immediate` everything is durable when it returns. Returns and raises as
        write_block() does."""
        medium = self.loaded
        if count:
            if not self.writable:
                self.require_writable()
            self.check_append(medium)
            self.buffered_from = self.buffered_from or medium.position
            try:
                medium.write_filemarks(count)
            except errors.CartridgeError as error:
                raise self.write_failure(error, count - getattr(error, "blocks_written", 0)) from error
        if not immediate:
            self.synchronize(deferred=False)
        return self._after_write(medium) if count else None

    def check_append(self, medium: Cartridge) -> None:
        """Append-only mode (SSC-4 4.2.20): only at end of data, or where ALLOW OVERWRITE has said. Raises
        CheckCondition."""
        if not self.append_only or medium.at_eod:
            return
        allowed, self.overwrite_allowed_at = self.overwrite_allowed_at, None
        if allowed != medium.position:
            raise CheckCondition(sense.WORM_MEDIUM_OVERWRITE_ATTEMPTED)

    def _after_write(self, medium: Cartridge) -> SenseCode | None:
        early = medium.early_warning
        if self.buffered_mode == 0 or (early and self.synchronize_at_early_warning):
            self.synchronize(deferred=False)
        if early:
            return sense.EARLY_WARNING
        if self.in_programmable_zone(medium) and not self._warned:
            self._warned = True
            return sense.PROGRAMMABLE_EARLY_WARNING
        return None

    def in_programmable_zone(self, medium: Cartridge) -> bool:
        """Whether the position is at or past programmable early warning, however it was reached (SSC-4 4.2.8)."""
        size = self.programmable_early_warning_bytes
        return bool(size) and (medium.ends_within(medium.early_warning_bytes + size) or medium.early_warning)

    def on_moved(self) -> None:
        self._warned = False

    # ---- WRITE ---------------------------------------------------------------------------------------------------

    @handles(ssc.Write6, medium=REQUIRED, writes=True, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def write_6(self, cdb: ssc.Write6, task: Task) -> Response | None:
        length, fixed = cdb.transfer_length, cdb.fixed
        if not length:
            return None  # SSC-3 6.8: no data, no error, the position stays
        if self.encryption_watched:
            self.encryption.prepare_transfer(task.nexus, writing=True)
        protection = self.protecting_writes.get(task.nexus, 0) if self.protecting_writes else 0
        count, block_length = 1, length
        if fixed:
            count = length
            block_length = self.fixed_block_length(ssc.Write6.fixed, PROTECTION_BYTES if protection else 0)
            length *= block_length
        elif protection and length <= PROTECTION_BYTES:  # no block is left
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Write6.transfer_length)
        data = task.data()
        if len(data) != length:
            # An initiator that sends less than the CDB says must not get a shorter block on its tape.
            if len(data) < length:
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Write6.transfer_length)
            data = data[:length]
        warning = self.write_blocks(data, block_length, count, fixed=bool(fixed), protection=protection)
        if warning is not None:
            raise CheckCondition(warning, information=0, end_of_medium=True, transferred=length)
        return Response(data_length=length)

    def fixed_block_length(self, fixed: Field, protection_length: int = 0) -> int:
        """The block length of a command whose FIXED bit is set. Raises CheckCondition: there is none, or it leaves no
        room beside the protection information."""
        if self.block_length <= protection_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, fixed)
        return self.block_length

    @handles(
        ssc.WriteFilemarks6, permission=Permission.WRITE_DATA, medium=REQUIRED, timeout_seconds=MEDIUM_ACCESS_SECONDS
    )
    def write_filemarks_6(self, cdb: ssc.WriteFilemarks6, task: Task) -> None:
        if cdb.write_setmarks:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.WriteFilemarks6.write_setmarks)
        warning = self.write_filemarks(cdb.filemark_count, immediate=bool(cdb.immediate))
        if warning is not None:
            raise CheckCondition(warning, information=0, end_of_medium=True)

    # ---- READ ----------------------------------------------------------------------------------------------------

    @handles(ssc.Read6, medium=REQUIRED, reservation=READS, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def read_6(self, cdb: ssc.Read6, task: Task) -> Response | None:
        length = cdb.transfer_length
        if self.encryption_watched:
            self.encryption.prepare_transfer(task.nexus, writing=False)
        method = self.protecting_reads.get(task.nexus, 0) if self.protecting_reads else 0
        if cdb.fixed:
            if cdb.suppress_incorrect_length:
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Read6.suppress_incorrect_length)
            block_length = self.fixed_block_length(ssc.Read6.fixed, PROTECTION_BYTES if method else 0)
            return self._read_fixed(task, block_length, length, method)
        return self._read_variable(task, length, bool(cdb.suppress_incorrect_length), method) if length else None

    # With a method of logical block protection, `length` and `block_length` count the protection information.

    def _read_variable(self, task: Task, length: int, suppress: bool, method: int) -> Response:
        medium = self.loaded
        buffer = task.pool.acquire(min(length, task.data_in_limit))
        try:
            result = medium.read_block(buffer, method)
        except READ_ERRORS as error:
            raise self.read_failure(error, length) from error
        if result.kind is not ReadKind.BLOCK:
            raise self.read_stopped(result.kind, length)
        actual = result.length
        if actual == length:
            return Response(data_in=buffer, data_length=length)
        moved = min(actual, length)
        data = memoryview(buffer)[:moved]
        if suppress and (actual < length or not self.block_length):
            return Response(data_in=data, data_length=moved)
        raise CheckCondition(
            sense.INCORRECT_LENGTH, information=length - actual, incorrect_length=True, data_in=data, transferred=moved
        )

    def _read_fixed(self, task: Task, block_length: int, count: int, method: int) -> Response | None:
        if not count:
            return None
        if count * block_length > LIMIT_TRANSFER_BYTES:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Read6.transfer_length)
        medium = self.loaded
        buffer = task.pool.acquire(count * block_length)
        try:
            result = medium.read_blocks(buffer, block_length, count, method)
        except READ_ERRORS as error:
            blocks_read = getattr(error, "blocks_read", 0)
            raise _with_data(
                self.read_failure(error, count - blocks_read), buffer, blocks_read * block_length
            ) from error
        if result.blocks == count:
            return Response(data_in=buffer, data_length=count * block_length)
        failure = self.read_stopped(result.stopped_by, count - result.blocks)
        raise _with_data(failure, buffer, result.blocks * block_length)

    def read_stopped(self, by: ReadKind | None, residual: int) -> CheckCondition:
        """What a transfer reports when something else than a block of the right length came next."""
        if by is ReadKind.FILEMARK:
            return filemark_detected(residual)
        if by is ReadKind.END_OF_DATA:
            return self.end_of_data_detected(residual)
        return CheckCondition(sense.INCORRECT_LENGTH, information=residual, incorrect_length=True)

    def end_of_data_detected(self, residual: int | None) -> CheckCondition:
        """BLANK CHECK; with EOM when the end of data lies behind early warning (SSC-3 6.4)."""
        early = self.loaded.early_warning
        return CheckCondition(sense.END_OF_DATA_DETECTED, information=residual, end_of_medium=early)


def filemark_detected(residual: int) -> CheckCondition:
    """A filemark came `residual` bytes or blocks too early."""
    return CheckCondition(sense.FILEMARK_DETECTED, information=residual, filemark=True)


def _with_data(failure: CheckCondition, buffer: Buffer, length: int) -> CheckCondition:
    """The same failure, with the blocks that were read before it."""
    failure.data_in, failure.transferred = memoryview(buffer)[:length], length
    return failure
