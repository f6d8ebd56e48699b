"""The tape drive: a spine that transfers, and its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.copying.local import designators_in
from scsi_targets.devices.copying.manager import CopyManager
from scsi_targets.devices.tape.alert import TapeAlerts
from scsi_targets.devices.tape.attributes import MediumAuxiliaryMemory
from scsi_targets.devices.tape.compression import Compression
from scsi_targets.devices.tape.copy_access import TapeDriveAccess
from scsi_targets.devices.tape.density import DensityCommands
from scsi_targets.devices.tape.diagnostics import SelfTest
from scsi_targets.devices.tape.encryption import DriveEncryption
from scsi_targets.devices.tape.format import Formatting
from scsi_targets.devices.tape.ibm_pages import IbmPages
from scsi_targets.devices.tape.log import DriveLogPages
from scsi_targets.devices.tape.mode import TapeModes
from scsi_targets.devices.tape.position import Positioning
from scsi_targets.devices.tape.protection import BlockProtection
from scsi_targets.devices.tape.transfer import TapeTransfers
from scsi_targets.devices.tape.usage import DriveUsage
from scsi_targets.devices.tape.verify import Verification
from scsi_targets.devices.tape.volume_log import VolumeLogPages
from scsi_targets.devices.tape.vpd import TapeVpdPages
from scsi_targets.devices.unit.echo_buffer import EchoBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scsi_targets.devices.tape.models import DriveModel
    from scsi_targets.devices.unit.state_store import StateStore
    from scsi_targets.devices.unit.task import Task


class TapeDrive(TapeTransfers):
    """A sequential-access device.

    TapeDrive(drive_model("IBM ULT3580-TD8"), serial_number, store=..., state_key="drive/1")

    compression: whether it is on until an initiator decides; compression_level: zstd's. load() and removing() are the
    robot's hands; commands come by execute(), copies by copy_access()."""

    def __init__(
        self,
        model: DriveModel,
        serial_number: str,
        *,
        compression: bool = False,
        compression_level: int = 1,
        store: StateStore | None = None,
        state_key: str = "",
    ) -> None:
        super().__init__(model, serial_number, store=store, state_key=state_key)
        self.mode_header = self.modes = TapeModes(self)
        self.compression = Compression(self, by_default=compression, level=compression_level)
        self.encryption = DriveEncryption(self, self.compression)
        self.alerts = TapeAlerts(self)
        self.usage = DriveUsage(self)
        self.positioning = Positioning(self)
        self.vpd = TapeVpdPages(self)
        self.copy_manager = CopyManager(self)
        vendor = [IbmPages(model.block_protection_methods, lambda: self.modes.density_code)] if model.ibm_pages else []
        # In this order they hear of events: what governs writing first, what counts last.
        self.attach(
            self.modes, self.compression, self.encryption, BlockProtection(self), self.prevention, self.positioning,
            Verification(self), Formatting(self, self.modes), DensityCommands(self),
            MediumAuxiliaryMemory(self, self.alerts), SelfTest(self), self.vpd, *vendor, self.alerts, self.usage,
            DriveLogPages(self, self.usage, self.alerts, self.compression, self.encryption),
            VolumeLogPages(self, self.usage), EchoBuffer(), self.copy_manager,
        )  # fmt: skip

    def installed(self, library_serial_number: str, element_address: int | None) -> None:
        """Which media changer shows the drive, and by which element address; None: it is in no library now."""
        self.vpd.installed(library_serial_number, element_address)

    # ---- copying.access.Copyable -----------------------------------------------------------------------------------

    def designators(self, task: Task) -> Iterable[Designator]:
        return designators_in(self.device_identification(task))

    def copy_access(self, task: Task) -> TapeDriveAccess:
        return TapeDriveAccess(self, self.positioning, task)
