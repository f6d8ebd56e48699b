"""What the parts of a tape drive have in common: they know the drive's spine, and hear what happens to its medium."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.events import MediumEvents

if TYPE_CHECKING:
    from scsi_targets.devices.tape.transfer import TapeTransfers


class TapePart(MediumEvents):
    """A part that works on the drive's transfers and what is below them."""

    def __init__(self, drive: TapeTransfers) -> None:
        self._drive = drive
