"""The commands that tell what a logical unit is: INQUIRY, REPORT LUNS, REQUEST SENSE, target port groups (SPC-5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import (
    ALLOWED,
    IGNORES,
    PERSISTENT_ALLOWED,
    handles,
)
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.part import VPD_PAGE, Part, marked, merged, vpd_page
from scsi_targets.devices.unit.state_store import StateStore
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import sense, spc, vpd
from scsi_targets.t10.fields import Command, integers
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


class PrimaryCommands(LogicalUnit):
    """SPC-5's commands on top of the dispatch. Subclasses give `device_type`, `removable`, `version_descriptors`."""

    device_type: ClassVar[int] = vpd.NO_DEVICE
    removable: bool = False
    version_descriptors: ClassVar[tuple[int, ...]] = (vpd.SAM_5, vpd.SPC_4, vpd.ISCSI)

    def __init__(self, identity: Identity, *, store: StateStore | None = None, state_key: str = "") -> None:
        super().__init__(store=store, state_key=state_key)
        self.identity = identity
        self.vpd_pages = marked(self, VPD_PAGE)

    def attach(self, *parts: Part) -> None:
        super().attach(*parts)
        self.vpd_pages = merged(parts, VPD_PAGE)

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
        return vpd.StandardInquiryData.encode(
            peripheral_device_type=self.device_type,
            removable_medium=self.removable,
            multiple_ports=len(self.target_ports(task)) > 1,
            vendor_identification=self.identity.vendor,
            product_identification=self.identity.product,
            product_revision_level=self.identity.revision,
            version_descriptors=integers(self.version_descriptors, 2),
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
        tag = spc.TargetPortDescriptor.encode(relative_target_port_identifier=task.nexus.portal_group_tag)
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
        self.attentions.clear(task.nexus, sense.REPORTED_LUNS_DATA_HAS_CHANGED)
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
            + spc.TargetPortDescriptor.encode(relative_target_port_identifier=tag)
            for tag in self.target_ports(task)
        )
        if cdb.parameter_data_format == extended:
            groups = spc.ExtendedPortGroupsHeader.encode() + groups
        return reply(spc.ReturnDataLength.encode(length_bytes=len(groups)) + groups, cdb.allocation_length)


def _united(fields: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    united: dict[str, Any] = {}
    for each in fields:
        united |= each
    return united


def report_luns(luns: list[int], cdb: spc.ReportLuns) -> Response:
    """REPORT LUNS data for these LUNs (SPC-5 6.33)."""
    if cdb.select_report not in SELECTED_LOGICAL_UNITS:
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ReportLuns.select_report)
    shown = luns if SELECTED_LOGICAL_UNITS[cdb.select_report] else []
    entries = b"".join(encode_lun(lun) for lun in shown)
    return reply(spc.ReportLunsHeader.encode(list_length=len(entries)) + entries, cdb.allocation_length)


PERIPHERAL_DEVICE, FLAT_SPACE = 0b00, 0b01


@cache
def encode_lun(lun: int) -> bytes:
    """A single-level LUN: peripheral device addressing to 255, flat space above (SAM-5 4.7.7). There are 16384."""
    method = PERIPHERAL_DEVICE if lun < 256 else FLAT_SPACE
    return spc.SingleLevelLun.encode(address_method=method, logical_unit_number=lun)


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
