"""What one session sees: LUN to logical unit. The only source of visibility.

REPORT LUNS, dispatch, task management, resets and the reach of EXTENDED COPY ask the view of the session that sent the
command; nothing looks an initiator's name up again. A logical unit does not know the views that show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.primary import no_such_logical_unit
from scsi_targets.devices.unit.principal import Permission, Principal
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """`logical_units` maps LUN to logical unit. LUNs without one answer as SPC-5 6.6.2 and 5.16 say.

    portal_group_tags: of the portals that the target is reached by; each is a target port and a target port group of
    its own. permissions: what a LUN may be used for; one that is not in it may be used for everything. ends_at: when
    the view ends, in seconds since the epoch; None: never. remote_units: copy sources and destinations without a LUN,
    which are elsewhere (copying.remote). logout_seconds: for the initiator to log out once it is over; None: what the
    server gives. copy_bytes_per_second: what each of its copies may move; 0: any number. nexus_waits: what it shows is
    its principal's alone, so that a nexus whose connection breaks goes on when the initiator port comes back. A view
    never changes: a session gets another one."""

    principal: Principal
    target_name: str
    logical_units: Mapping[int, LogicalUnit]
    portal_group_tags: tuple[int, ...] = (1,)
    permissions: Mapping[int, Permission] = field(default_factory=dict)
    ends_at: float | None = None
    remote_units: tuple[object, ...] = ()
    logout_seconds: float | None = None
    copy_bytes_per_second: int = 0
    nexus_waits: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "portal_group_tags", tuple(sorted(set(self.portal_group_tags))))

    def units(self) -> dict[LogicalUnit, None]:
        """The logical units, each once, in the order of their LUNs."""
        return dict.fromkeys(unit for _, unit in sorted(self.logical_units.items()))

    def luns_of(self, unit: LogicalUnit) -> list[int]:
        """The numbers under which this view shows a logical unit; none when it does not."""
        return [lun for lun, shown in self.logical_units.items() if shown is unit]

    def shows_as(self, other: View) -> bool:
        """Whether the other view shows the same logical units under the same numbers, for the same use."""
        mine, theirs = dict(self.logical_units), dict(other.logical_units)
        return mine == theirs and dict(self.permissions) == dict(other.permissions)

    def permits(self, lun: int, use: Permission) -> bool:
        """Whether a logical unit may be used so."""
        return use in self.permissions.get(lun, Permission.ALL)

    def permits_with(self, unit: LogicalUnit, use: Permission) -> bool:
        """Whether a logical unit may be used so under any of its numbers."""
        return not self.permissions or any(self.permits(lun, use) for lun in self.luns_of(unit))

    def check(self, lun: int, use: Permission) -> None:
        """Asked for each command, under the logical unit's lock, of a view with permissions. Raises CheckCondition:
        ACCESS DENIED when the logical unit may not be used so."""
        if not self.permits(lun, use):
            raise CheckCondition(sense.ACCESS_DENIED)

    def check_with(self, unit: LogicalUnit, use: Permission) -> None:
        """The same for a logical unit that a copy names, under any of its numbers."""
        if not self.permits_with(unit, use):
            raise CheckCondition(sense.ACCESS_DENIED)

    # ---- commands ------------------------------------------------------------------------------------------------

    def execute(self, task: Task) -> Response | None:
        """Runs a command; None when a worker completes it later."""
        unit = self.logical_units.get(task.lun)
        return unit.execute(task) if unit is not None else no_such_logical_unit(sorted(self.logical_units), task)

    # ---- nexuses -------------------------------------------------------------------------------------------------

    def nexus_established(self, nexus: Nexus) -> None:
        """A session logged in."""
        for unit in self.units():
            unit.nexus_established(nexus)

    def nexus_lost(self, nexus: Nexus) -> None:
        """A session ended, however."""
        for unit in self.units():
            unit.nexus_lost(nexus)
