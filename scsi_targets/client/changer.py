"""A media changer of an iSCSI session."""

from __future__ import annotations

from scsi_targets.client.unit import Unit
from scsi_targets.t10 import smc


class Changer(Unit):
    """A media changer; places are element addresses."""

    def move(self, source: int, destination: int) -> None:
        """MOVE MEDIUM."""
        self.run(smc.MoveMedium.encode(source_element_address=source, destination_element_address=destination))
