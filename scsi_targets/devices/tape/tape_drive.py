"""The tape drive: every concern together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.copying.local import designators_in
from scsi_targets.devices.copying.manager import CopyManager
from scsi_targets.devices.tape.attributes import AttributeCommands
from scsi_targets.devices.tape.copy_access import TapeDriveAccess
from scsi_targets.devices.tape.density import DensityCommands
from scsi_targets.devices.tape.diagnostics import DiagnosticCommands
from scsi_targets.devices.tape.encryption import EncryptionCommands
from scsi_targets.devices.tape.format import FormatCommands
from scsi_targets.devices.tape.ibm_pages import IbmPages
from scsi_targets.devices.tape.load import LoadCommands
from scsi_targets.devices.tape.position import PositionCommands
from scsi_targets.devices.tape.protection import ProtectionModes
from scsi_targets.devices.tape.verify import VerifyCommands
from scsi_targets.devices.tape.volume_log import VolumeLogPages
from scsi_targets.devices.tape.vpd import TapeVpdPages
from scsi_targets.devices.unit.echo_buffer import EchoBuffer
from scsi_targets.devices.unit.task import Task


class TapeDrive(
    VolumeLogPages, LoadCommands, PositionCommands, VerifyCommands, FormatCommands, DensityCommands, AttributeCommands,
    DiagnosticCommands, EncryptionCommands, ProtectionModes, TapeVpdPages,
):  # fmt: skip
    """A sequential-access device: `TapeDrive(drive_model("IBM ULT3580-TD8"), serial, store=, state_key=)`.

    load() and unload() are the robot's hands; commands come by execute(), copies by copy_access()."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mode_header = self
        methods = self.model.block_protection_methods
        vendor = [IbmPages(methods, lambda: self.density_code)] if self.model.ibm_pages else []
        self.copy_manager = CopyManager(self)
        self.attach(EchoBuffer(), self.copy_manager, *vendor)

    # ---- copying.access.Copyable -----------------------------------------------------------------------------------

    def designators(self, task: Task) -> Iterable[Designator]:
        return designators_in(self.device_identification(task))

    def copy_access(self, task: Task) -> TapeDriveAccess:
        return TapeDriveAccess(self, task)
