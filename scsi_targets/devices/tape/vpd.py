"""VPD pages of sequential-access devices (SSC-3 8.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.base import TapeBase
from scsi_targets.devices.unit.part import vpd_page

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Task

WORM_CAPABLE = 0x01


class TapeVpdPages(TapeBase):
    """B0h, B1h and B3h; B2h is with TapeAlert."""

    # Of the library around the drive; who builds the library sets it.
    automation_serial_number = ""

    @vpd_page(0xB0)
    def sequential_access_device_capabilities(self, task: Task) -> bytes:
        """Sequential-Access Device Capabilities (SSC-3 8.4.2): the drive handles WORM media."""
        return bytes([WORM_CAPABLE, 0])

    @vpd_page(0xB1)
    def manufacturer_assigned_serial_number(self, task: Task) -> bytes:
        """Manufacturer-Assigned Serial Number (SSC-3 8.4.3)."""
        return self.identity.serial_number.encode("ascii")

    @vpd_page(0xB3)
    def automation_device_serial_number(self, task: Task) -> bytes:
        """Automation Device Serial Number (SSC-3 8.4.5)."""
        return self.automation_serial_number.encode("ascii")
