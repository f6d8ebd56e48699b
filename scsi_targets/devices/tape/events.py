"""What happens to the medium of a tape drive, for whoever wants to hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.part import Part

if TYPE_CHECKING:
    from scsi_targets.t10.sense import SenseCode


class MediumEvents(Part):
    """A part that hears of the medium, beside what every part hears. The events come in the order in which the drive
    lists its parts."""

    def on_loaded(self) -> None:
        """A cartridge became ready: what starts anew with every mount."""

    def on_unloaded(self) -> None:
        """The medium is about to leave the ready state; everything is synchronized."""

    def on_cleaned(self) -> None:
        """A cleaning cartridge has cleaned the heads."""

    def on_read_error(self) -> None:
        """A hard read error happened."""

    def on_write_error(self) -> None:
        """A hard write error happened."""

    def on_write_refused(self, code: SenseCode) -> None:
        """Writing was refused: the medium is protected."""

    def on_removal_refused(self) -> None:
        """Somebody wanted the cartridge out while PREVENT ALLOW MEDIUM REMOVAL holds it."""
