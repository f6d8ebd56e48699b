"""The tape drive's self-test (SPC-5 6.42)."""

from __future__ import annotations

from scsi_targets.devices.tape.base import TapeBase
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition
from vlib_images.errors import CartridgeError


class DiagnosticCommands(TapeBase):
    """SEND DIAGNOSTIC tells whether the cartridge's storage takes what was written."""

    def self_test(self) -> None:
        super().self_test()
        if self.medium is not None:
            try:
                self.medium.synchronize()
            except CartridgeError as error:
                raise CheckCondition(sense.LOGICAL_UNIT_FAILED_SELF_TEST) from error
