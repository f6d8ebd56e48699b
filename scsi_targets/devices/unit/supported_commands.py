"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-5 6.35, 6.36)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import READS, Row, all_rows, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.part import Part
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from scsi_targets.devices.unit.logical_unit import LogicalUnit
    from scsi_targets.devices.unit.task import Response, Task

NOT_SUPPORTED, SUPPORTED_AS_THE_STANDARD_SAYS = 0b001, 0b011  # SUPPORT (SPC-5 table 208)


class SupportedCommands(Part):
    """Tells the rows of the unit's table."""

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit

    @handles(spc.ReportSupportedOperationCodes, reservation=READS)
    def report_supported_operation_codes(self, cdb: spc.ReportSupportedOperationCodes, task: Task) -> Response:
        timeouts = bool(cdb.return_commands_timeout_descriptor)
        if cdb.reporting_options == 0:
            body = b"".join(_command_descriptor(row, timeouts) for row in all_rows(self._unit.rows))
            return reply(spc.ReturnDataLength.encode(length_bytes=len(body)) + body, cdb.allocation_length)
        row = self._requested_row(cdb)
        return reply(_one_command(row, timeouts), cdb.allocation_length)

    def _requested_row(self, cdb: spc.ReportSupportedOperationCodes) -> Row | None:
        found = self._unit.rows.get(cdb.requested_operation_code)
        has_actions = isinstance(found, dict)
        option = cdb.reporting_options
        wrong = option > 3 or (option == 1 and has_actions) or (option == 2 and found is not None and not has_actions)
        if wrong:
            field = spc.ReportSupportedOperationCodes.reporting_options
            if option == 2:
                field = spc.ReportSupportedOperationCodes.requested_service_action
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        if isinstance(found, dict):
            return found.get(cdb.requested_service_action)
        return found if option != 3 or cdb.requested_service_action == 0 else None

    @handles(spc.ReportSupportedTaskManagementFunctions, reservation=READS)
    def report_supported_task_management_functions(
        self, cdb: spc.ReportSupportedTaskManagementFunctions, task: Task
    ) -> Response:
        kind = spc.SupportedTaskManagementFunctions
        data = kind.encode(additional_data_length=kind.length - 4 if cdb.return_extended_parameter_data else 0)
        return reply(data if cdb.return_extended_parameter_data else data[:4], cdb.allocation_length)


def _command_descriptor(row: Row, timeouts: bool) -> bytes:
    action = row.command.service_action
    head = spc.SupportedCommandDescriptor.encode(
        operation_code=row.command.opcode,
        service_action=action or 0,
        timeouts_present=timeouts,
        service_action_valid=action is not None,
        cdb_length=row.command.length,
    )
    return head + (_timeouts(row) if timeouts else b"")


def _timeouts(row: Row) -> bytes:
    return spc.CommandTimeoutsDescriptor.encode(recommended_command_timeout=row.timeout_seconds)


def _one_command(row: Row | None, timeouts: bool) -> bytes:
    if row is None:
        return spc.OneCommandHeader.encode(support=NOT_SUPPORTED)
    head = spc.OneCommandHeader.encode(
        timeouts_present=timeouts, support=SUPPORTED_AS_THE_STANDARD_SAYS, cdb_size=row.command.length
    )
    return head + row.command.usage_mask() + (_timeouts(row) if timeouts else b"")
