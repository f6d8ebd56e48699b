"""The unit around the medium: START STOP UNIT with power conditions, PREVENT ALLOW, ready or not, loading, growing."""

from __future__ import annotations

from enum import Enum
from typing import Any

from scsi_targets.devices.disk.storage import BlockStorage
from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, Row, handles
from scsi_targets.devices.unit.task import Nexus, Task
from scsi_targets.t10 import sbc, sense, spc
from scsi_targets.t10.sense import CheckCondition, Sense
from vlib_images.disk.raw import DiskImage


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


class BlockUnit(BlockStorage):
    """`power` is the power condition; `preventing` holds the nexuses that prevent medium removal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.power = PowerCondition.ACTIVE
        self.preventing: set[Nexus] = set()
        super().__init__(*args, **kwargs)

    # ---- ready or not ----------------------------------------------------------------------------------------------

    def not_ready(self) -> CheckCondition | None:
        if self.loaded and self.power is PowerCondition.STOPPED:
            return CheckCondition(sense.INITIALIZING_COMMAND_REQUIRED)
        return super().not_ready()

    def check_medium(self, row: Row) -> None:
        if self.power is not PowerCondition.ACTIVE or not self.accessible:
            self.check_ready()
            self.power = PowerCondition.ACTIVE  # a command that needs the medium ends idle and standby (SPC-5 5.12)

    def check_ready(self) -> None:
        if (refusal := self.not_ready()) is not None:
            raise refusal

    def current_sense(self) -> Sense:
        if (refusal := self.not_ready()) is not None:
            return refusal.sense
        return Sense(LOW_POWER_SENSE.get(self.power, sense.NOTHING))

    # ---- START STOP UNIT -------------------------------------------------------------------------------------------

    @handles(sbc.StartStopUnit, reservation=ALLOWED)
    def start_stop_unit(self, cdb: sbc.StartStopUnit, task: Task) -> None:
        if not cdb.start or cdb.load_eject or cdb.power_condition != START_VALID:
            self.check_reservation(task.nexus, CONFLICTS)  # starting alone disturbs nobody (SBC-4 table 13)
        if cdb.power_condition != START_VALID:
            # START and LOEJ are ignored then (SBC-4 5.31). Values that change nothing here (LU_CONTROL, and the codes
            # of other generations of the standard: sleep, FORCE_x) leave the condition as it is.
            self.power = CHANGES.get(cdb.power_condition, self.power)
        elif cdb.load_eject:
            self._load_or_eject(bool(cdb.start), task.nexus)
        elif cdb.start:
            self.power = PowerCondition.ACTIVE
        else:
            if not cdb.no_flush:
                self._flush()
            # A removable disk that was stopped starts by itself with the next access, as other drives with removable
            # media do; a fixed one waits for a START (SBC-4 4.20).
            self.power = PowerCondition.STANDBY if self.removable else PowerCondition.STOPPED

    def _load_or_eject(self, load: bool, nexus: Nexus) -> None:
        if not self.removable:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, sbc.StartStopUnit.load_eject)
        if load and self.loaded:
            self.power = PowerCondition.ACTIVE
        elif self.preventing:
            raise CheckCondition(sense.MEDIUM_REMOVAL_PREVENTED)  # neither way through the door
        elif not load:
            self._eject()
        elif self.image is None:
            raise CheckCondition(sense.MEDIUM_NOT_PRESENT)
        else:
            self.loaded, self.power = True, PowerCondition.ACTIVE
            self.update_access()
            self.tell_others(nexus, sense.MEDIUM_MAY_HAVE_CHANGED)

    def _eject(self) -> None:
        with self.gate.alone:
            self._flush()
            self.loaded = False
            self.update_access()

    def _flush(self) -> None:
        if self.loaded and self.image is not None:
            self.image.synchronize()

    # ---- PREVENT ALLOW MEDIUM REMOVAL ------------------------------------------------------------------------------

    @handles(spc.PreventAllowMediumRemoval, reservation=ALLOWED)
    def prevent_allow_medium_removal(self, cdb: spc.PreventAllowMediumRemoval, task: Task) -> None:
        if cdb.prevent:
            self.check_reservation(task.nexus, CONFLICTS)  # allowing is allowed (SPC-5 table 66)
        if cdb.prevent > 1:  # 10b and 11b are obsolete
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.PreventAllowMediumRemoval.prevent)
        if cdb.prevent:
            self.preventing.add(task.nexus)
        else:
            self.preventing.discard(task.nexus)

    def on_nexus_lost(self, nexus: Nexus) -> None:
        super().on_nexus_lost(nexus)
        self.preventing.discard(nexus)

    def on_reset(self) -> None:
        super().on_reset()
        self.preventing.clear()
        self.power = PowerCondition.ACTIVE

    # ---- the operator ----------------------------------------------------------------------------------------------

    def insert(self, image: DiskImage) -> None:
        """Puts a medium into an empty removable disk and loads it. ValueError: there is one, or it does not fit."""
        if not self.removable or self.image is not None or image.size_bytes < self.block_length:
            raise ValueError(f"{image.path} cannot be inserted")
        with self.lock:
            self.unavailable = None
            self.image, self.loaded, self.power = image, True, PowerCondition.ACTIVE
            self.update_access()
            self.offer_commands()
            self.establish_unit_attention(sense.MEDIUM_MAY_HAVE_CHANGED, self.nexuses)

    def remove(self) -> DiskImage | None:
        """Takes the medium out, whatever initiators prevent, as an operator at the door can; the caller closes it."""
        if not self.removable:
            raise ValueError("this disk's medium cannot be removed")
        with self.lock:
            if self.loaded:
                self._eject()
            image, self.image = self.image, None
        return image

    def grow(self, size_bytes: int) -> None:
        """Lengthens the image; every initiator is told CAPACITY DATA HAS CHANGED. ValueError, OSError as
        DiskImage.grow()."""
        with self.lock:
            self.medium.grow(size_bytes)
            self.establish_unit_attention(sense.CAPACITY_DATA_HAS_CHANGED, self.nexuses)

    def refresh_capacity(self) -> bool:
        """Looks at the size of the file or block device again; True, and initiators are told, when it has changed."""
        with self.lock:
            changed = self.image is not None and self.image.refresh_size()
            if changed:
                self.establish_unit_attention(sense.CAPACITY_DATA_HAS_CHANGED, self.nexuses)
        return changed
