"""VPD pages of sequential-access devices (SSC-3 8.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.part import vpd_page
from scsi_targets.t10 import sense, vpd

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Task


class TapeVpdPages(TapePart):
    """B0h, B1h, B3h and B4h; B2h is with TapeAlert."""

    # Of the media changer that shows the drive.
    automation_serial_number = ""
    element_address: int | None = None

    def installed(self, library_serial_number: str, element_address: int | None) -> None:
        """The robot says which media changer shows the drive, and by which element address. Whoever uses a drive that
        moves is told to look again at what there is."""
        before = self.automation_serial_number, self.element_address
        self.automation_serial_number, self.element_address = library_serial_number, element_address
        if before != (library_serial_number, element_address):
            self._drive.tell_others(None, sense.REPORTED_LUNS_DATA_HAS_CHANGED)

    @vpd_page(0xB0)
    def sequential_access_device_capabilities(self, task: Task) -> bytes:
        """Sequential-Access Device Capabilities (SSC-3 8.4.2): the drive handles WORM media."""
        return vpd.SequentialAccessDeviceCapabilities.encode(worm=1)

    @vpd_page(0xB1)
    def manufacturer_assigned_serial_number(self, task: Task) -> bytes:
        """Manufacturer-Assigned Serial Number (SSC-3 8.4.3)."""
        return self._drive.identity.serial_number.encode("ascii")

    @vpd_page(0xB3)
    def automation_device_serial_number(self, task: Task) -> bytes:
        """Automation Device Serial Number (SSC-3 8.4.5)."""
        return self.automation_serial_number.encode("ascii")

    @vpd_page(0xB4)
    def data_transfer_device_element_address(self, task: Task) -> bytes:
        """Data Transfer Device Element Address (SSC-4 8.5.6): without DVCID a host finds out here which data transfer
        element of the media changer is this drive. Empty for a drive in no library."""
        if self.element_address is None:
            return b""
        return vpd.DataTransferDeviceElementAddress.encode(element_address=self.element_address)
