"""The commands every device has: INQUIRY, REPORT LUNS, REQUEST SENSE, RESERVE/RELEASE, what is supported (SPC-5)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import (
    ALLOWED,
    CONFLICTS,
    IGNORES,
    PERSISTENT_ALLOWED,
    READS,
    Row,
    all_rows,
    handles,
)
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import DIAGNOSTIC_PAGE, VPD_PAGE, Part, diagnostic_page, marked, merged, vpd_page
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import sense, spc, vpd
from scsi_targets.t10.fields import Command
from scsi_targets.t10.sense import CheckCondition, Sense

# SELECT REPORT of REPORT LUNS (SPC-5 table 238): whether it selects logical units such as ours. There are no well known
# ones (01h), no administrative ones (10h) and therefore no subsidiary ones (12h).
SELECTED_LOGICAL_UNITS = {
    0x00: True,  # all but well known logical units
    0x01: False,  # well known logical units
    0x02: True,  # all
    0x10: False,  # administrative logical units
    0x11: True,  # administrative logical units and those that are in no conglomerate
    0x12: False,  # the subsidiary logical units of the addressed administrative one
}

# SELF-TEST CODE: the default self-test, background and foreground ones, aborting a background one (SPC-5 table 221).
SELF_TESTS = frozenset({0, 1, 2, 4, 5, 6})


class PrimaryCommands(LogicalUnit):
    """SPC-5's commands on top of the dispatch. Subclasses give `device_type`, `removable`, `version_descriptors`."""

    device_type: ClassVar[int] = vpd.NO_DEVICE
    removable: bool = False
    third_party_copy: ClassVar[bool] = False
    version_descriptors: ClassVar[tuple[int, ...]] = (vpd.SAM_5, vpd.SPC_4, vpd.ISCSI)

    def __init__(self, identity: Identity, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.identity = identity
        self.vpd_pages = marked(self, VPD_PAGE)
        self.diagnostic_pages = marked(self, DIAGNOSTIC_PAGE)
        self._timestamp_offset_ms = 0
        self._timestamp_origin = 0  # 0: cleared by power on, 2: set by SET TIMESTAMP (SPC-5 table 56)

    def attach(self, *parts: Part) -> None:
        super().attach(*parts)
        self.vpd_pages = merged(parts, VPD_PAGE)
        self.diagnostic_pages = merged(parts, DIAGNOSTIC_PAGE)

    # ---- readiness -----------------------------------------------------------------------------------------------

    @handles(spc.TestUnitReady, reservation=PERSISTENT_ALLOWED)
    def test_unit_ready(self, cdb: spc.TestUnitReady, task: Task) -> None:
        self.check_ready()

    def check_ready(self) -> None:
        """Raises CheckCondition when TEST UNIT READY must not answer GOOD."""

    @handles(spc.RequestSense, reservation=ALLOWED, unit_attention=IGNORES, while_busy=True)
    def request_sense(self, cdb: spc.RequestSense, task: Task) -> Response:
        code = self.take_unit_attention(task.nexus)
        current = Sense(code) if code is not None else self.current_sense()
        return reply(current.encode(bool(cdb.descriptor_format)), cdb.allocation_length)

    def current_sense(self) -> Sense:
        """What REQUEST SENSE reports when no unit attention waits: nothing, or a progress indication."""
        return Sense(sense.NOTHING)

    # ---- INQUIRY -------------------------------------------------------------------------------------------------

    @handles(spc.Inquiry, reservation=ALLOWED, unit_attention=IGNORES, while_busy=True)
    def inquiry(self, cdb: spc.Inquiry, task: Task) -> Response:
        if not cdb.enable_vital_product_data:
            if cdb.page_code:
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.Inquiry.page_code)
            return reply(self.standard_inquiry_data(task), cdb.allocation_length)
        method = self.vpd_pages.get(cdb.page_code)
        if method is None:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.Inquiry.page_code)
        body = method(task)
        return reply(vpd.vpd_page(self.device_type, cdb.page_code, body), cdb.allocation_length)

    def standard_inquiry_data(self, task: Task) -> bytes:
        """The 96 bytes of standard INQUIRY data."""
        versions = b"".join(v.to_bytes(2, "big") for v in self.version_descriptors)
        return vpd.StandardInquiryData.encode(
            peripheral_device_type=self.device_type,
            removable_medium=self.removable,
            third_party_copy=self.third_party_copy,
            multiple_ports=len(self.target_ports(task)) > 1,
            vendor_identification=self.identity.vendor,
            product_identification=self.identity.product,
            product_revision_level=self.identity.revision,
            version_descriptors=versions,
            **_united(part.inquiry_fields() for part in self.parts),
        )

    @vpd_page(0x00)
    def supported_vpd_pages(self, task: Task) -> bytes:
        """Supported VPD Pages (SPC-5 7.8.15)."""
        return bytes(sorted(self.vpd_pages))

    @vpd_page(0x80)
    def unit_serial_number(self, task: Task) -> bytes:
        """Unit Serial Number (SPC-5 7.8.18)."""
        return self.identity.serial_number.encode("ascii")

    @vpd_page(0x83)
    def device_identification(self, task: Task) -> bytes:
        """Device Identification (SPC-5 7.8.6): T10 vendor ID, NAA, and the target port's designators."""
        iscsi = 5  # PROTOCOL IDENTIFIER
        port = vpd.scsi_name_string(task.nexus.target_port)
        device = vpd.scsi_name_string(task.nexus.target_name)
        tag = bytes(2) + task.nexus.portal_group_tag.to_bytes(2, "big")
        return b"".join(
            (
                vpd.designation_descriptor(1, self.identity.t10_vendor_identifier, code_set=2),
                vpd.designation_descriptor(3, self.identity.naa, code_set=1),
                vpd.designation_descriptor(4, tag, code_set=1, association=1, protocol=iscsi),
                vpd.designation_descriptor(5, tag, code_set=1, association=1, protocol=iscsi),
                vpd.designation_descriptor(8, port, code_set=3, association=1, protocol=iscsi),
                vpd.designation_descriptor(8, device, code_set=3, association=2, protocol=iscsi),
            )
        )

    @vpd_page(0x86)
    def extended_inquiry_data(self, task: Task) -> bytes:
        """Extended INQUIRY Data (SPC-5 7.8.8)."""
        return vpd.ExtendedInquiryData.encode(**_united(part.extended_inquiry_fields() for part in self.parts))[4:]

    # ---- LUNs ----------------------------------------------------------------------------------------------------

    @handles(spc.ReportLuns, reservation=ALLOWED, unit_attention=IGNORES, while_busy=True)
    def report_luns(self, cdb: spc.ReportLuns, task: Task) -> Response:
        luns = sorted(task.view.logical_units) if task.view is not None else [task.lun]
        response = report_luns(luns, cdb)
        self.clear_unit_attention(task.nexus, sense.REPORTED_LUNS_DATA_HAS_CHANGED)
        return response

    def target_ports(self, task: Task) -> tuple[int, ...]:
        """The portal group tags of the target that the task came through. Each is a target port and its tag the
        relative target port identifier."""
        return task.view.portal_group_tags if task.view is not None else (task.nexus.portal_group_tag,)

    # ---- target ports --------------------------------------------------------------------------------------------

    @handles(spc.ReportTargetPortGroups, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def report_target_port_groups(self, cdb: spc.ReportTargetPortGroups, task: Task) -> Response:
        """Every portal group is a group of one port, and all are active/optimized: one process serves them alike."""
        length_only, extended = 0, 1  # PARAMETER DATA FORMAT
        if cdb.parameter_data_format not in (length_only, extended):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ReportTargetPortGroups.parameter_data_format)
        groups = b"".join(
            spc.TargetPortGroupDescriptor.encode(
                active_optimized_supported=1, target_port_group=tag, target_port_count=1
            )
            + tag.to_bytes(4, "big")
            for tag in self.target_ports(task)
        )
        header = bytes([0x10, 0, 0, 0]) if cdb.parameter_data_format == extended else b""
        body = header + groups
        return reply(len(body).to_bytes(4, "big") + body, cdb.allocation_length)

    # ---- RESERVE and RELEASE -------------------------------------------------------------------------------------

    @handles(spc.Reserve6, permission=Permission.RESERVE, concurrent=True)
    @handles(spc.Reserve10, permission=Permission.RESERVE, concurrent=True)
    def reserve(self, cdb: spc.Reserve6 | spc.Reserve10, task: Task) -> None:
        self._refuse_third_party(cdb)
        with self.changed_reservations() as after:
            after.reserve(task.nexus)

    @handles(spc.Release6, permission=Permission.RESERVE, reservation=ALLOWED, concurrent=True)
    @handles(spc.Release10, permission=Permission.RESERVE, reservation=ALLOWED, concurrent=True)
    def release(self, cdb: spc.Release6 | spc.Release10, task: Task) -> None:
        self._refuse_third_party(cdb)
        with self.changed_reservations() as after:
            after.release(task.nexus)

    @staticmethod
    def _refuse_third_party(cdb: spc.Reserve6 | spc.Reserve10 | spc.Release6 | spc.Release10) -> None:
        # Obsolete since SPC-2: a reservation on another's behalf or of extents is not what this device server does.
        for field in (type(cdb).third_party, type(cdb).extent):
            if getattr(cdb, field.name):
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)

    # ---- diagnostics and time ------------------------------------------------------------------------------------

    @handles(spc.SendDiagnostic, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS)
    def send_diagnostic(self, cdb: spc.SendDiagnostic, task: Task) -> None:
        if cdb.self_test_code not in SELF_TESTS or (cdb.self_test and cdb.self_test_code):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SendDiagnostic.self_test_code)
        if cdb.parameter_list_length:
            self._take_diagnostic_page(cdb, task)
        else:
            for part in self.parts:
                part.self_test()

    def _take_diagnostic_page(self, cdb: spc.SendDiagnostic, task: Task) -> None:
        field = spc.SendDiagnostic.parameter_list_length
        if cdb.self_test or cdb.self_test_code:  # then there must be no parameter list (SPC-5 6.42)
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        if not cdb.page_format:  # vendor-specific parameters, of which there are none
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SendDiagnostic.page_format)
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=spc.DiagnosticPageHeader.length)
        header = spc.DiagnosticPageHeader.decode(data)
        if header.page_code not in self.diagnostic_pages:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.page_code)
        if len(data) != spc.DiagnosticPageHeader.length + header.page_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.page_length)
        self.diagnostic_pages[header.page_code](data[spc.DiagnosticPageHeader.length :])

    @diagnostic_page(0x00)
    def select_supported_diagnostic_pages(self, body: bytes) -> None:
        """Page 00h selects what RECEIVE DIAGNOSTIC RESULTS returns, which is page 00h in any case (SPC-5 7.2.13)."""
        if body:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.page_length)

    @handles(spc.ReceiveDiagnosticResults, reservation=READS)
    def receive_diagnostic_results(self, cdb: spc.ReceiveDiagnosticResults, task: Task) -> Response:
        if cdb.page_code_valid and cdb.page_code:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ReceiveDiagnosticResults.page_code)
        listed = bytes(sorted(self.diagnostic_pages))
        header = spc.DiagnosticPageHeader.encode(page_code=0, page_length=len(listed))
        return reply(header + listed, cdb.allocation_length)

    @handles(spc.ReportTimestamp, reservation=PERSISTENT_ALLOWED)
    def report_timestamp(self, cdb: spc.ReportTimestamp, task: Task) -> Response:
        now_ms = int(time.time() * 1000) + self._timestamp_offset_ms
        body = bytes([self._timestamp_origin, 0]) + now_ms.to_bytes(6, "big") + bytes(2)
        return reply(len(body).to_bytes(2, "big") + body, cdb.allocation_length)

    @handles(spc.SetTimestamp, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS)
    def set_timestamp(self, cdb: spc.SetTimestamp, task: Task) -> None:
        field = spc.SetTimestamp.parameter_list_length
        if not cdb.parameter_list_length:
            return
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=12)
        self._timestamp_offset_ms = int.from_bytes(data[4:10], "big") - int(time.time() * 1000)
        self._timestamp_origin = 2

    # ---- what is supported ---------------------------------------------------------------------------------------

    @handles(spc.ReportSupportedOperationCodes, reservation=READS)
    def report_supported_operation_codes(self, cdb: spc.ReportSupportedOperationCodes, task: Task) -> Response:
        timeouts = bool(cdb.return_commands_timeout_descriptor)
        if cdb.reporting_options == 0:
            body = b"".join(_command_descriptor(row, timeouts) for row in all_rows(self.rows))
            return reply(len(body).to_bytes(4, "big") + body, cdb.allocation_length)
        row = self._requested_row(cdb)
        return reply(_one_command(row, timeouts), cdb.allocation_length)

    def _requested_row(self, cdb: spc.ReportSupportedOperationCodes) -> Row | None:
        found = self.rows.get(cdb.requested_operation_code)
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
        # ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET (SPC-5 table 211)
        supported = 0b1101_1010
        data = bytes([supported, 0, 0, 12 if cdb.return_extended_parameter_data else 0])
        if cdb.return_extended_parameter_data:
            data += bytes(12)
        return reply(data, cdb.allocation_length)


def _united(fields: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    united: dict[str, Any] = {}
    for each in fields:
        united |= each
    return united


def _command_descriptor(row: Row, timeouts: bool) -> bytes:
    action = row.command.service_action
    flags = (2 if timeouts else 0) | (1 if action is not None else 0)
    head = bytes([row.command.opcode, 0]) + (action or 0).to_bytes(2, "big") + bytes([0, flags])
    return head + row.command.length.to_bytes(2, "big") + (_timeouts(row) if timeouts else b"")


def _timeouts(row: Row) -> bytes:
    # Command timeouts descriptor (SPC-5 6.35.4): nominal 0 (none indicated), recommended in seconds.
    return (10).to_bytes(2, "big") + bytes(2) + bytes(4) + row.timeout_seconds.to_bytes(4, "big")


def _one_command(row: Row | None, timeouts: bool) -> bytes:
    if row is None:
        return bytes([0, 0x01, 0, 0])  # SUPPORT 001b: not supported
    data = bytes([0, (0x80 if timeouts else 0) | 0x03]) + row.command.length.to_bytes(2, "big")
    return data + row.command.usage_mask() + (_timeouts(row) if timeouts else b"")


def report_luns(luns: list[int], cdb: spc.ReportLuns) -> Response:
    """REPORT LUNS data for these LUNs (SPC-5 6.33)."""
    if cdb.select_report not in SELECTED_LOGICAL_UNITS:
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ReportLuns.select_report)
    shown = luns if SELECTED_LOGICAL_UNITS[cdb.select_report] else []
    entries = b"".join(encode_lun(lun) for lun in shown)
    return reply(len(entries).to_bytes(4, "big") + bytes(4) + entries, cdb.allocation_length)


def encode_lun(lun: int) -> bytes:
    """A single-level LUN: peripheral device addressing to 255, flat space above (SAM-5 4.7.7)."""
    if lun < 256:
        return bytes([0, lun]) + bytes(6)
    return (0x4000 | lun).to_bytes(2, "big") + bytes(6)


def no_such_logical_unit(luns: list[int], task: Task) -> Response:
    """The answer of a LUN without a logical unit: INQUIRY says so with qualifier 011b, REPORT LUNS works, REQUEST SENSE
    reports it, everything else is refused (SPC-5 5.16, 6.6.2; SAM-5 5.11)."""
    code = sense.LOGICAL_UNIT_NOT_SUPPORTED
    command: Command
    try:
        if task.cdb[0] == spc.Inquiry.opcode:
            command = spc.Inquiry(task.cdb)
            if command.enable_vital_product_data or command.page_code:
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.Inquiry.page_code)
            data = vpd.StandardInquiryData.encode(peripheral_qualifier=3, peripheral_device_type=vpd.NO_DEVICE)
            return reply(data, command.allocation_length)
        if task.cdb[0] == spc.ReportLuns.opcode:
            return report_luns(luns, spc.ReportLuns(task.cdb))
        if task.cdb[0] == spc.RequestSense.opcode:
            command = spc.RequestSense(task.cdb)
            return reply(Sense(code).encode(bool(command.descriptor_format)), command.allocation_length)
        raise CheckCondition(code)
    except CheckCondition as refusal:
        return Response(status.CHECK_CONDITION, refusal.sense.encode())
