"""A part of a disk: what parts of all devices have, and what they say of the disk's medium."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.part import Part

if TYPE_CHECKING:
    from scsi_targets.devices.unit.dispatch import Row
    from scsi_targets.t10.sense import CheckCondition, SenseCode


class DiskPart(Part):
    """The disk asks its parts when one of them has called disk.update_access(), not at each command: only while one
    bars the medium or rests are the other methods asked, for every command that needs the medium."""

    def bars_medium(self) -> bool:
        """Whether commands and copies must not touch the medium now."""
        return False

    def not_ready(self) -> CheckCondition | None:
        """Why not, as TEST UNIT READY says it."""
        return None

    def tolerates(self, row: Row) -> bool:
        """Whether a command is allowed although this part bars the medium."""
        return False

    def rests(self) -> bool:
        """Whether the next command that needs the medium has to wake something first."""
        return False

    def on_medium_needed(self) -> None:
        """Such a command has come."""

    def resting_sense(self) -> SenseCode | None:
        """What REQUEST SENSE tells meanwhile."""
        return None
