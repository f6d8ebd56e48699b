"""One iSCSI target: logical units by number, and what concerns all of them."""

from __future__ import annotations

from collections.abc import Iterable

from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.primary import no_such_logical_unit
from scsi_targets.devices.unit.task import Nexus, Response, Task


class Target:
    """`logical_units` maps LUN to logical unit. LUNs without one answer as SPC-5 6.6.2 and 5.16 say.

    `portal_group_tags`: of the portals it is reached by; each is a target port and a target port group of its own."""

    def __init__(
        self, name: str, logical_units: dict[int, LogicalUnit], *, portal_group_tags: Iterable[int] = (1,)
    ) -> None:
        self.name = name
        self.logical_units = logical_units
        self.portal_group_tags = sorted(set(portal_group_tags))
        for unit in logical_units.values():
            unit.targets.append(self)

    def execute(self, task: Task) -> Response | None:
        """Runs a command; None when a worker completes it later."""
        unit = self.logical_units.get(task.lun)
        return unit.execute(task) if unit is not None else no_such_logical_unit(self, task)

    def abort_task(self, nexus: Nexus, lun: int, tag: int) -> bool:
        """ABORT TASK; False when the task (or the LUN) is not there."""
        unit = self.logical_units.get(lun)
        return unit is not None and unit.abort_task(nexus, tag)

    def abort_task_set(self, nexus: Nexus, lun: int) -> bool:
        """ABORT TASK SET; False: no such LUN."""
        if (unit := self.logical_units.get(lun)) is None:
            return False
        unit.abort_task_set(nexus)
        return True

    def clear_task_set(self, nexus: Nexus, lun: int) -> bool:
        """CLEAR TASK SET; False: no such LUN."""
        if (unit := self.logical_units.get(lun)) is None:
            return False
        unit.clear_task_set(nexus)
        return True

    def logical_unit_reset(self, nexus: Nexus, lun: int) -> bool:
        """LOGICAL UNIT RESET; False: no such LUN."""
        if (unit := self.logical_units.get(lun)) is None:
            return False
        unit.reset()
        return True

    def target_reset(self, nexus: Nexus, cold: bool) -> None:
        """TARGET WARM RESET and TARGET COLD RESET: every logical unit is reset."""
        for unit in self.logical_units.values():
            unit.reset()

    def nexus_established(self, nexus: Nexus) -> None:
        """A session logged in."""
        for unit in self.logical_units.values():
            unit.nexus_established(nexus)

    def nexus_lost(self, nexus: Nexus) -> None:
        """A session ended, however."""
        for unit in self.logical_units.values():
            unit.nexus_lost(nexus)
