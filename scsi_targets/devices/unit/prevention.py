"""PREVENT ALLOW MEDIUM REMOVAL (SBC-4 5.15, SSC-3 7.5, SMC-3 6.7): each nexus prevents for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, handles
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from scsi_targets.devices.unit.logical_unit import LogicalUnit
    from scsi_targets.devices.unit.task import Nexus, Task


class RemovalPrevention(Part):
    """Removal is prevented while one nexus prevents it; a prevention ends with its nexus and with a reset."""

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self._preventing: set[Nexus] = set()

    @property
    def prevents(self) -> bool:
        """Whether a medium must not be removed."""
        return bool(self._preventing)

    def preventing(self) -> list[Nexus]:
        """Who prevents it."""
        return list(self._preventing)

    def override(self) -> None:
        """An operator insists: nobody prevents any longer."""
        self._preventing.clear()

    @handles(spc.PreventAllowMediumRemoval, permission=Permission.READ_DATA, reservation=ALLOWED)
    def prevent_allow_medium_removal(self, cdb: spc.PreventAllowMediumRemoval, task: Task) -> None:
        if cdb.prevent:
            self._unit.check_reservation(task.nexus, CONFLICTS)  # allowing is allowed (SPC-2 table 9, SMC-3 table 8)
        if cdb.prevent > 1:  # 10b and 11b are obsolete
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.PreventAllowMediumRemoval.prevent)
        if cdb.prevent:
            self._preventing.add(task.nexus)
        else:
            self._preventing.discard(task.nexus)

    def on_reset(self) -> None:
        self._preventing.clear()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._preventing.discard(nexus)
