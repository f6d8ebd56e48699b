"""Small helpers between handlers and Data-In/Data-Out parameter data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import sense
from scsi_targets.t10.fields import Field
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from typing_extensions import Buffer


def reply(data: bytes | bytearray, allocation_length: int) -> Response:
    """Parameter data, cut at the allocation length; being cut is no error (SPC-5 4.2.5.6)."""
    shown = bytes(data[:allocation_length])
    return Response(data_in=shown or None, data_length=len(shown))


def reply_buffer(data: Buffer, length: int) -> Response:
    """`length` bytes of medium data in a buffer."""
    return Response(data_in=data, data_length=length)


def parameter_list(task: Task, length: int, field: Field, *, minimum: int = 0) -> bytes:
    """The `length` bytes of parameter list a CDB announces in `field`.

    Raises CheckCondition: PARAMETER LIST LENGTH ERROR when the list is shorter than `minimum` or the initiator sent
    less than it announced."""
    data = bytes(task.data()[:length])
    if len(data) < length or length < minimum:
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR, field, field_in_cdb=True)
    return data
