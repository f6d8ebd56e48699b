"""A logical unit of this process as a device that PySCSI drives."""

from typing import Any

from pyscsi.pyscsi import scsi_enum_command

from scsi_targets.devices.unit.logical_unit import LogicalUnit
from tests.unit.devices.support import send, sense_of


class Refused(Exception):
    """CHECK CONDITION."""


class Local:
    """What PySCSI asks of a device: it executes a command. Ours is in this process."""

    def __init__(self, unit: LogicalUnit, **task: Any) -> None:
        """task: what every command comes with, as send() takes it."""
        self.unit = unit
        self.task = task
        self.opcodes = scsi_enum_command.spc
        self.devicetype: int | None = None

    def execute(self, command: Any, en_raw_sense: bool = False) -> None:
        response = send(self.unit, bytes(command.cdb), data=bytes(command.dataout) or None, **self.task)
        if response.status:
            raise Refused(sense_of(response))
        data = b"" if response.data_in is None else bytes(memoryview(response.data_in)[: response.data_length])
        command.datain[: len(data)] = data

    def close(self) -> None:
        """Nothing to close."""
