"""START STOP UNIT with power conditions and the medium's door (SBC-4 5.31, SPC-5 5.12)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from scsi_targets.devices.disk.part import DiskPart
from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, handles
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sbc, sense
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from scsi_targets.devices.disk.erase import Erasing
    from scsi_targets.devices.disk.storage import BlockStorage
    from scsi_targets.devices.unit.prevention import RemovalPrevention
    from scsi_targets.devices.unit.task import Nexus, Task
    from scsi_targets.t10.sense import SenseCode


class PowerCondition(Enum):
    """Power conditions of SPC-5 5.12 that a disk image can tell apart."""

    ACTIVE = "active"
    IDLE = "idle"
    STANDBY = "standby"
    STOPPED = "stopped"


# POWER CONDITION of START STOP UNIT (SBC-4 table 92).
START_VALID, ACTIVE, IDLE, STANDBY = 0x0, 0x1, 0x2, 0x3
FORCE_IDLE_0, FORCE_STANDBY_0 = 0xA, 0xB
CHANGES = {
    ACTIVE: PowerCondition.ACTIVE,
    IDLE: PowerCondition.IDLE,
    FORCE_IDLE_0: PowerCondition.IDLE,
    STANDBY: PowerCondition.STANDBY,
    FORCE_STANDBY_0: PowerCondition.STANDBY,
}
LOW_POWER_SENSE = {
    PowerCondition.IDLE: sense.IDLE_CONDITION_ACTIVATED_BY_COMMAND,
    PowerCondition.STANDBY: sense.STANDBY_CONDITION_ACTIVATED_BY_COMMAND,
}


class Power(DiskPart):
    """`condition` is the power condition."""

    def __init__(self, disk: BlockStorage, erasing: Erasing, prevention: RemovalPrevention) -> None:
        self._disk, self._erasing, self._prevention = disk, erasing, prevention
        self.condition = PowerCondition.ACTIVE

    def change(self, condition: PowerCondition) -> None:
        """Enters a power condition."""
        self.condition = condition
        self._disk.update_access()

    # ---- ready or not ----------------------------------------------------------------------------------------------

    def bars_medium(self) -> bool:
        return self.condition is PowerCondition.STOPPED

    def not_ready(self) -> CheckCondition | None:
        if self._disk.loaded and self.condition is PowerCondition.STOPPED:
            return CheckCondition(sense.INITIALIZING_COMMAND_REQUIRED)
        return None

    def rests(self) -> bool:
        return self.condition is not PowerCondition.ACTIVE

    def on_medium_needed(self) -> None:
        self.condition = PowerCondition.ACTIVE  # idle and standby end with such a command (SPC-5 5.12)

    def resting_sense(self) -> SenseCode | None:
        return LOW_POWER_SENSE.get(self.condition)

    # ---- START STOP UNIT -------------------------------------------------------------------------------------------

    @handles(sbc.StartStopUnit, permission=Permission.READ_DATA, reservation=ALLOWED)
    def start_stop_unit(self, cdb: sbc.StartStopUnit, task: Task) -> None:
        if self._erasing.running is not None:
            self._disk.check_ready()
        if not cdb.start or cdb.load_eject or cdb.power_condition != START_VALID:
            self._disk.check_reservation(task.nexus, CONFLICTS)  # starting alone disturbs nobody (SBC-4 table 13)
        if cdb.power_condition != START_VALID:
            # START and LOEJ are ignored then (SBC-4 5.31). Values that change nothing here (LU_CONTROL, and the codes
            # of other generations of the standard: sleep, FORCE_x) leave the condition as it is.
            self.change(CHANGES.get(cdb.power_condition, self.condition))
        elif cdb.load_eject:
            self._load_or_eject(bool(cdb.start), task.nexus)
        elif cdb.start:
            self.change(PowerCondition.ACTIVE)
        else:
            if not cdb.no_flush:
                self._disk.flush()
            # A removable disk that was stopped starts by itself with the next access, as other drives with removable
            # media do; a fixed one waits for a START (SBC-4 4.20).
            self.change(PowerCondition.STANDBY if self._disk.removable else PowerCondition.STOPPED)

    def _load_or_eject(self, load: bool, nexus: Nexus) -> None:
        disk = self._disk
        if not disk.removable:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, sbc.StartStopUnit.load_eject)
        if load and disk.loaded:
            self.change(PowerCondition.ACTIVE)
        elif self._prevention.prevents:
            raise CheckCondition(sense.MEDIUM_REMOVAL_PREVENTED)  # neither way through the door
        elif not load:
            disk.eject()
        elif disk.image is None:
            raise CheckCondition(sense.MEDIUM_NOT_PRESENT)
        else:
            self.condition = PowerCondition.ACTIVE
            disk.load(disk.image)
            disk.tell_of_new_medium(but=nexus)

    # ---- events ----------------------------------------------------------------------------------------------------

    def on_reset(self) -> None:
        self.change(PowerCondition.ACTIVE)
