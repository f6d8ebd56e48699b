"""REPORT TIMESTAMP and SET TIMESTAMP (SPC-5 6.38, 6.46)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import CONFLICTS, PERSISTENT_ALLOWED, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import spc

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Response, Task

CLEARED_BY_POWER_ON, SET_BY_COMMAND = 0b000, 0b010  # TIMESTAMP ORIGIN (SPC-5 table 56)


class Timestamp(Part):
    """The device's clock, in milliseconds since 1970. It is the host's until an initiator sets it."""

    def __init__(self) -> None:
        self._offset_ms = 0
        self._origin = CLEARED_BY_POWER_ON

    @handles(spc.ReportTimestamp, reservation=PERSISTENT_ALLOWED)
    def report_timestamp(self, cdb: spc.ReportTimestamp, task: Task) -> Response:
        now_ms = int(time.time() * 1000) + self._offset_ms
        data = spc.TimestampData.encode(timestamp_origin=self._origin, timestamp=now_ms)
        return reply(data, cdb.allocation_length)

    @handles(spc.SetTimestamp, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS)
    def set_timestamp(self, cdb: spc.SetTimestamp, task: Task) -> None:
        if not cdb.parameter_list_length:
            return
        kind, field = spc.SetTimestampParameterList, spc.SetTimestamp.parameter_list_length
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=kind.length)
        self._offset_ms = kind.decode(data).timestamp - int(time.time() * 1000)
        self._origin = SET_BY_COMMAND
