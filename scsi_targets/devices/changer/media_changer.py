"""The media changer (SMC-3): a partition of the library as a logical unit, over the one robot."""

from __future__ import annotations

from scsi_targets.devices.changer.base import ChangerBase
from scsi_targets.devices.changer.inventory_commands import InventoryCommands
from scsi_targets.devices.changer.modes import ChangerModes
from scsi_targets.devices.changer.move_commands import AccessPrevention, MoveCommands
from scsi_targets.devices.changer.robot import Robot
from scsi_targets.devices.unit.state_store import StateStore
from vlib_images.library.partition import Partition


class MediaChanger(ChangerBase):
    """A media changer and its parts."""

    def __init__(
        self,
        partition: Partition,
        robot: Robot,
        *,
        store: StateStore | None = None,
        state_key: str = "changer",
        watching: bool = True,
    ) -> None:
        """watching: False when the robot's refit() is to make it one of its media changers. Raises as ChangerBase."""
        super().__init__(partition, robot, store=store, state_key=state_key)
        self.prevention = AccessPrevention(self)
        self.attach(
            ChangerModes(self), self.statistics, self.prevention, InventoryCommands(self), MoveCommands(self)
        )  # fmt: skip
        if watching:
            robot.watch(self)
