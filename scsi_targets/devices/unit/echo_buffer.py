"""READ BUFFER and WRITE BUFFER: the echo buffer (SPC-5 6.18, 6.49)."""

from __future__ import annotations

from scsi_targets.devices.unit.dispatch import CONFLICTS, READS, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.sense import CheckCondition

ECHO_BUFFER_BYTES = 4096
DESCRIPTOR, ECHO, ECHO_DESCRIPTOR = 0x03, 0x0A, 0x0B  # MODE of READ BUFFER and WRITE BUFFER


class EchoBuffer(Part):
    """The echo buffer belongs to its nexus. Other buffers (firmware, dumps) do not exist."""

    def __init__(self) -> None:
        self._echo: dict[Nexus, bytes] = {}

    @handles(spc.WriteBuffer, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS)
    def write_buffer(self, cdb: spc.WriteBuffer, task: Task) -> None:
        if cdb.mode != ECHO:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.WriteBuffer.mode)
        field = spc.WriteBuffer.parameter_list_length
        if cdb.parameter_list_length > ECHO_BUFFER_BYTES:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        self._echo[task.nexus] = parameter_list(task, cdb.parameter_list_length, field)

    @handles(spc.ReadBuffer, reservation=READS)
    def read_buffer(self, cdb: spc.ReadBuffer, task: Task) -> Response:
        if cdb.mode == ECHO:
            if task.nexus not in self._echo:
                raise CheckCondition(sense.COMMAND_SEQUENCE_ERROR)  # SPC-5 6.18.7
            return reply(self._echo[task.nexus], cdb.allocation_length)
        if cdb.mode == ECHO_DESCRIPTOR:
            data = spc.EchoBufferDescriptor.encode(buffer_capacity=ECHO_BUFFER_BYTES)
            return reply(data, cdb.allocation_length)
        if cdb.mode == DESCRIPTOR:
            return reply(spc.BufferDescriptor.encode(), cdb.allocation_length)
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ReadBuffer.mode)

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._echo.pop(nexus, None)
