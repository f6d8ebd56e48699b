"""The tape drive's self-test (SPC-5 6.42)."""

from __future__ import annotations

from scsi_targets.devices.tape.part import TapePart
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition
from vlib_images.errors import CartridgeError


class SelfTest(TapePart):
    """SEND DIAGNOSTIC tells whether the cartridge's storage takes what was written."""

    def self_test(self) -> None:
        if self._drive.medium is not None:
            try:
                self._drive.medium.synchronize()
            except CartridgeError as error:
                raise CheckCondition(sense.LOGICAL_UNIT_FAILED_SELF_TEST) from error
