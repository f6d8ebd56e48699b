"""FORMAT UNIT and SANITIZE (SBC-4 5.4, 5.30, 4.11, 4.33)."""

from __future__ import annotations

import threading
from functools import partial

import structlog

from scsi_targets.devices.disk.erasure import Erasure, ErasureKind, ErasurePlan
from scsi_targets.devices.disk.part import DiskPart
from scsi_targets.devices.disk.storage import BlockStorage
from scsi_targets.devices.unit.dispatch import CONFLICTS, REQUIRED, Row, handles
from scsi_targets.devices.unit.parameter_data import parameter_list
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import BUSY, Deferred, Response, Task
from scsi_targets.t10 import sbc, sbc_pages, sense
from scsi_targets.t10.fields import Field
from scsi_targets.t10.sense import CheckCondition
from vlib_images.disk.image import Image
from vlib_images.disk.snapshot_set import break_snapshots_of

log = structlog.get_logger(__name__)

ERASE_TIMEOUT_SECONDS = 24 * 3600
_erases = partial(handles, medium=REQUIRED, writes=True, concurrent=True, timeout_seconds=ERASE_TIMEOUT_SECONDS)
RECOVERY = (sbc.SanitizeCommand, sbc.FormatUnit)  # what a disk takes whose erasure has failed


class Erasing(DiskPart):
    """`running` is the erasure that runs; `failure` the plan of one that failed and bars the medium.

    bytes_per_second: how fast erasures may write, so that other disks of the same store are not starved; None: as fast
    as it goes."""

    def __init__(self, disk: BlockStorage, bytes_per_second: int | None = None) -> None:
        self._disk = disk
        self._bytes_per_second = bytes_per_second
        self._beginning = threading.Lock()  # one erasure is begun at a time; the store works without the unit's lock
        self.running: Erasure | None = None
        self.failure: ErasurePlan | None = None

    def resume(self) -> None:
        """Takes up what the process before this one had not ended."""
        disk = self._disk
        state = disk.store.get(f"{disk.state_key}/erasure")
        if state is None:
            return
        plan = ErasurePlan.from_state(state)
        if plan.failed:
            self.failure = plan
            disk.update_access()
        elif disk.image is not None:
            log.info("an erasure that was interrupted begins again", disk=disk.state_key, kind=plan.kind.value)
            if (erasure := self._started(plan, disk.image)) is not None:
                self._let_begin(erasure, disk.image)
            else:
                self.failure = plan  # until the next start, or another erasure
                disk.update_access()

    def stop(self) -> None:
        """Stops an erasure, which the next start of the appliance takes up again."""
        if (erasure := self.running) is not None:
            erasure.stop()

    # ---- ready or not ----------------------------------------------------------------------------------------------

    def bars_medium(self) -> bool:
        return self.running is not None or self.failure is not None

    def not_ready(self) -> CheckCondition | None:
        if (erasure := self.running) is not None:
            formatting = erasure.plan.kind is ErasureKind.FORMAT
            code = sense.FORMAT_IN_PROGRESS if formatting else sense.SANITIZE_IN_PROGRESS
            return CheckCondition(code, progress=erasure.progress)
        return CheckCondition(_failure_code(self.failure)) if self.failure is not None else None

    def tolerates(self, row: Row) -> bool:
        return self.running is None and self.failure is not None and issubclass(row.command, RECOVERY)

    # ---- running ---------------------------------------------------------------------------------------------------

    def _begin(self, plan: ErasurePlan, task: Task, *, immediate: bool, moved: int) -> Response | Deferred:
        image = self._disk.image
        if image is None:  # taken out since the command was checked
            raise CheckCondition(sense.MEDIUM_NOT_PRESENT)
        with self._beginning:
            if self.running is not None:  # another one, since this command was checked
                self._disk.check_ready()
            if (erasure := self._started(plan, image)) is None:
                return Response(BUSY)
            try:
                self._disk.keep("erasure", plan.to_state())
            except BaseException:
                erasure.stop()
                raise
            self.failure = None
            self._let_begin(erasure, image)
        if immediate:
            return Response(data_length=moved)
        return self._disk.defer(task, lambda: self._await(erasure, moved))

    def _started(self, plan: ErasurePlan, image: Image) -> Erasure | None:
        """With a thread that waits; None when the system has none to give."""
        erasure = Erasure(plan, image, bytes_per_second=self._bytes_per_second, ended=self._ended)
        return erasure if erasure.start() else None

    def _let_begin(self, erasure: Erasure, image: Image) -> None:
        with self._disk.gate.alone:  # what others are reading and writing ends first; then they find no medium
            self.running = erasure
            self._disk.update_access()
        if erasure.plan.kind is not ErasureKind.FORMAT:  # nothing of what is sanitized is kept elsewhere (SBC-4 4.11)
            break_snapshots_of(image, "its disk is sanitized")
        erasure.begin()

    def _await(self, erasure: Erasure, moved: int) -> Response:
        erasure.finished.wait()
        if self.failure is not None:
            raise CheckCondition(_failure_code(self.failure), transferred=moved)
        return Response(data_length=moved)

    def _ended(self, error: Exception | None) -> None:
        assert self.running is not None
        plan = self.running.plan
        failed = ErasurePlan.from_state(plan.to_state() | {"failed": True})
        if error is not None:
            log.error("an erasure failed", disk=self._disk.state_key, kind=plan.kind.value, reason=str(error))
            self.failure = failed
        try:
            self._disk.keep("erasure", failed.to_state() if error is not None else None)
        except CheckCondition:
            # The next start would erase again: nothing may be written until another erasure can be recorded.
            self.failure = failed
        self.running = None
        self._disk.update_access()

    # ---- FORMAT UNIT -----------------------------------------------------------------------------------------------

    @handles(
        sbc.FormatUnit,
        medium=REQUIRED,
        writes=True,
        concurrent=True,
        reservation=CONFLICTS,
        timeout_seconds=ERASE_TIMEOUT_SECONDS,
    )
    def format_unit(self, cdb: sbc.FormatUnit, task: Task) -> Response | Deferred:
        if cdb.format_protection_information:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, sbc.FormatUnit.format_protection_information)
        if not cdb.format_data:
            return self._begin(ErasurePlan(ErasureKind.FORMAT), task, immediate=False, moved=0)
        data = bytes(task.data())
        header_class = sbc_pages.LongFormatParameterListHeader if cdb.long_list else sbc_pages.FormatParameterListHeader
        if len(data) < header_class.length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR, transferred=len(data))
        header = header_class(data[: header_class.length])
        if not header.format_options_valid:  # then the other options must be zero (SBC-4 5.4.2.2)
            for field in (
                header_class.disable_primary,
                header_class.disable_certification,
                header_class.stop_format,
                header_class.initialization_pattern,
            ):
                _refuse_parameter(bool(getattr(header, field.name)), field, len(data))
        # There is no primary, no certified and no grown defect list: only an empty list can be honoured.
        for field in (header_class.protection_fields_usage, header_class.defect_list_length):
            _refuse_parameter(bool(getattr(header, field.name)), field, len(data))
        block = self._format_pattern(data, header_class.length) if header.initialization_pattern else b""
        plan = ErasurePlan(ErasureKind.FORMAT, pattern=block if any(block) else b"")
        return self._begin(plan, task, immediate=bool(header.immediate), moved=len(data))

    def _format_pattern(self, data: bytes, at: int) -> bytes:
        """The logical block that an initialization pattern descriptor at `at` describes (SBC-4 5.4.3.3)."""
        kind = sbc_pages.InitializationPatternDescriptor
        if len(data) < at + kind.length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR, transferred=len(data))
        descriptor = kind.decode(data[at:])
        length = descriptor.initialization_pattern_length
        if descriptor.initialization_pattern_type == 0 and length == 0:
            return bytes(self._disk.block_length)  # the default pattern, which is ours to choose
        wrong = descriptor.initialization_pattern_type != 1 or not 0 < length <= self._disk.block_length
        if wrong or len(data) < at + kind.length + length:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, at + 1, transferred=len(data))
        return _repeat(data[at + kind.length :][:length], self._disk.block_length)

    # ---- SANITIZE --------------------------------------------------------------------------------------------------

    @_erases(sbc.SanitizeOverwrite)
    def sanitize_overwrite(self, cdb: sbc.SanitizeOverwrite, task: Task) -> Response | Deferred:
        _refuse_reserved(cdb)
        header, field = sbc_pages.OverwriteParameterList, sbc.SanitizeCommand.parameter_list_length
        if not header.length < cdb.parameter_list_length <= header.length + self._disk.block_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        data = parameter_list(task, cdb.parameter_list_length, field)
        given = header(data[: header.length])
        length = given.initialization_pattern_length
        _refuse_parameter(bool(given.test), header.test, len(data))
        _refuse_parameter(not given.overwrite_count, header.overwrite_count, len(data))
        wrong = not 0 < length <= self._disk.block_length or header.length + length > len(data)
        _refuse_parameter(wrong, header.initialization_pattern_length, len(data))
        plan = ErasurePlan(
            ErasureKind.OVERWRITE,
            pattern=_repeat(data[header.length : header.length + length], self._disk.block_length),
            passes=given.overwrite_count,
            invert=bool(given.invert),
            unrestricted_exit=bool(cdb.allow_unrestricted_sanitize_exit),
        )
        return self._begin(plan, task, immediate=bool(cdb.immediate), moved=len(data))

    @_erases(sbc.SanitizeBlockErase)
    def sanitize_block_erase(self, cdb: sbc.SanitizeBlockErase, task: Task) -> Response | Deferred:
        return self._sanitize(ErasureKind.BLOCK_ERASE, cdb, task)

    @handles(
        sbc.SanitizeCryptographicErase,
        medium=REQUIRED,
        writes=True,
        concurrent=True,
        timeout_seconds=ERASE_TIMEOUT_SECONDS,
    )
    def sanitize_cryptographic_erase(self, cdb: sbc.SanitizeCryptographicErase, task: Task) -> Response | Deferred:
        return self._sanitize(ErasureKind.CRYPTOGRAPHIC_ERASE, cdb, task)

    def _sanitize(self, kind: ErasureKind, cdb: sbc.SanitizeCommand, task: Task) -> Response | Deferred:
        _refuse_reserved(cdb)
        _refuse_parameter_list(cdb)
        plan = ErasurePlan(kind, unrestricted_exit=bool(cdb.allow_unrestricted_sanitize_exit))
        return self._begin(plan, task, immediate=bool(cdb.immediate), moved=0)

    @handles(sbc.SanitizeExitFailureMode, permission=Permission.WRITE_DATA, medium=REQUIRED, concurrent=True)
    def sanitize_exit_failure_mode(self, cdb: sbc.SanitizeExitFailureMode, task: Task) -> None:
        _refuse_reserved(cdb)
        _refuse_parameter_list(cdb)
        if self.failure is None:
            return
        if not self.failure.unrestricted_exit:  # only another sanitize operation ends it (SBC-4 4.11.4)
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB)
        with self._beginning:
            self._disk.keep("erasure", None)
            self.failure = None
            self._disk.update_access()


def _failure_code(plan: ErasurePlan) -> sense.SenseCode:
    return sense.FORMAT_COMMAND_FAILED if plan.kind is ErasureKind.FORMAT else sense.SANITIZE_COMMAND_FAILED


def _refuse_reserved(cdb: sbc.SanitizeCommand) -> None:
    # A command that destroys everything is carried out only when nothing about it is unclear.
    reserved = ~int.from_bytes(type(cdb).usage_mask(), "big") & ((1 << 8 * (cdb.length - 1)) - 1) << 8
    if int.from_bytes(cdb.raw[: cdb.length], "big") & reserved:
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB)


def _refuse_parameter_list(cdb: sbc.SanitizeCommand) -> None:
    if cdb.parameter_list_length:
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB, sbc.SanitizeCommand.parameter_list_length)


def _refuse_parameter(wrong: bool, field: Field, moved: int) -> None:
    if wrong:
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field, transferred=moved)


def _repeat(pattern: bytes, length: int) -> bytes:
    """One logical block that begins with the pattern and repeats it."""
    return (pattern * (length // len(pattern) + 1))[:length]
