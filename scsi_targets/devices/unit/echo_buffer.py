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
NOT_OVERWRITTEN_BY_OTHERS = 0x01  # EBOS


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
            size = ECHO_BUFFER_BYTES.to_bytes(2, "big")
            return reply(bytes([NOT_OVERWRITTEN_BY_OTHERS, 0]) + size, cdb.allocation_length)
        if cdb.mode == DESCRIPTOR:
            return reply(bytes(4), cdb.allocation_length)  # OFFSET BOUNDARY and BUFFER CAPACITY 0: no such buffer
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ReadBuffer.mode)

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._echo.pop(nexus, None)
