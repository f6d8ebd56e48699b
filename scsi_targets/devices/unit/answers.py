"""What an error answers a command with: status and sense data, in one place."""

from __future__ import annotations

from typing import Any, Protocol

import structlog

from datamover.engine import PoolExhausted
from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import Row
from scsi_targets.devices.unit.reservations import Conflict
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition, Sense, SenseCode

log = structlog.get_logger(__name__)


class Answering(Protocol):
    """What is asked of the logical unit whose command it was."""

    descriptor_sense: bool

    def storage_failure(self, row: Row, error: Exception, /) -> CheckCondition | None: ...


def failure(unit: Answering, row: Row, task: Task, error: Exception) -> Response:
    """The response to a command whose handler raised `error`."""
    if isinstance(error, CheckCondition | Conflict):
        return refusal(unit, error)
    if isinstance(error, PoolExhausted | MemoryError):
        return Response(status.TASK_SET_FULL)
    meaning = _meaning_of(unit, row, error)
    if meaning is not None:
        log.error("storage failed", command=row.command.__name__, lun=task.lun, reason=str(error))
        return refusal(unit, meaning)
    log.error("command failed inside the target", command=row.command.__name__, lun=task.lun,
              cdb=task.cdb.hex(), exc_info=error)  # fmt: skip
    return internal_failure(unit)


def refusal(unit: Answering, error: CheckCondition | Conflict) -> Response:
    """RESERVATION CONFLICT, or CHECK CONDITION with its sense data."""
    if isinstance(error, Conflict):
        return Response(status.RESERVATION_CONFLICT)
    data_in: Any = error.data_in
    return Response(status.CHECK_CONDITION, error.sense.encode(unit.descriptor_sense), data_in, error.transferred)


def internal_failure(unit: Answering) -> Response:
    """A fault of ours."""
    return Response(status.CHECK_CONDITION, Sense(sense.INTERNAL_TARGET_FAILURE).encode(unit.descriptor_sense))


def _meaning_of(unit: Answering, row: Row, error: Exception) -> CheckCondition | None:
    try:
        return unit.storage_failure(row, error)
    except Exception:
        log.exception("an error of the storage could not be told")
        return None


def sense_data(code: SenseCode, *, descriptor_format: bool = False) -> bytes:
    """Sense data that says nothing but the code."""
    return Sense(code).encode(descriptor_format)
