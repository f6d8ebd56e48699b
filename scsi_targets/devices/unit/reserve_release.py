"""RESERVE and RELEASE, 6 and 10 bytes (SPC-2 7.16, 7.17, 7.21, 7.22)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import ALLOWED, handles
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from scsi_targets.devices.unit.logical_unit import LogicalUnit
    from scsi_targets.devices.unit.task import Task


class ReserveRelease(Part):
    """The whole logical unit for one nexus."""

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit

    @handles(spc.Reserve6, permission=Permission.RESERVE, concurrent=True)
    @handles(spc.Reserve10, permission=Permission.RESERVE, concurrent=True)
    def reserve(self, cdb: spc.Reserve6 | spc.Reserve10, task: Task) -> None:
        self._refuse_third_party(cdb)
        with self._unit.changed_reservations() as after:
            after.reserve(task.nexus)

    @handles(spc.Release6, permission=Permission.RESERVE, reservation=ALLOWED, concurrent=True)
    @handles(spc.Release10, permission=Permission.RESERVE, reservation=ALLOWED, concurrent=True)
    def release(self, cdb: spc.Release6 | spc.Release10, task: Task) -> None:
        self._refuse_third_party(cdb)
        with self._unit.changed_reservations() as after:
            after.release(task.nexus)

    @staticmethod
    def _refuse_third_party(cdb: spc.Reserve6 | spc.Reserve10 | spc.Release6 | spc.Release10) -> None:
        # Obsolete since SPC-2: a reservation on another's behalf or of extents is not what this device server does.
        for field in (type(cdb).third_party, type(cdb).extent):
            if getattr(cdb, field.name):
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
