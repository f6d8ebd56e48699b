"""What a session sees that was opened with a key, and the lease that it lives by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from appliance.access.keys import ANY_VOLUME, volume_hash
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition

InitiatorPort = tuple[str, bytes, int]  # initiator name, ISID, portal group tag: one session at a time


@dataclass(eq=False)
class Lease:
    """A live grant, as the gate knows it. ends_at: by `clock`, monotonic seconds. port: who logged in first with its
    key. luns: what the gate chose where the key names a group of drives, by what the key says in place of a LUN. told:
    whoever makes grants knows both. candidates: what it may choose from, the best first; none: all drives of the
    group."""

    ends_at: float
    clock: Callable[[], float]
    mounted: bool = True
    revoked: bool = False
    port: InitiatorPort | None = None
    luns: dict[int, int] = field(default_factory=dict)
    told: bool = False
    candidates: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether no command is done any more."""
        return self.revoked or self.clock() >= self.ends_at


@dataclass(frozen=True, slots=True, eq=False)
class KeyView(View):
    """What a key shows. volumes: by LUN, volume_hash() of the only volume that may be used; asked for each command, as
    somebody else may have another cartridge put into the drive."""

    nexus_waits: bool = True
    volumes: Mapping[int, bytes] = field(default_factory=dict)
    lease: Lease = field(kw_only=True)

    def shows_as(self, other: View) -> bool:
        same = isinstance(other, KeyView) and dict(other.volumes) == dict(self.volumes)
        return same and View.shows_as(self, other)

    def check(self, lun: int, use: Permission) -> None:
        """Commands that need no permission (INQUIRY, REPORT LUNS, REQUEST SENSE) are always answered. Raises
        CheckCondition: BECOMING READY until the volume is mounted, ACCESS DENIED for what the key does not allow, once
        it is over, and for another volume."""
        if not use:
            return
        if self.lease.over:
            raise CheckCondition(sense.ACCESS_DENIED)
        if not self.lease.mounted:
            raise CheckCondition(sense.LOGICAL_UNIT_BECOMING_READY)
        if not self._allows(lun, use) or not self._has_its_volume(lun):
            raise CheckCondition(sense.ACCESS_DENIED)

    def check_with(self, unit: LogicalUnit, use: Permission) -> None:
        for lun in self.luns_of(unit):
            self.check(lun, use)

    def _allows(self, lun: int, use: Permission) -> bool:
        """A snapshot's unit says itself that it is write protected, which is what hosts understand."""
        refuses = use is Permission.WRITE_DATA and getattr(self.logical_units[lun], "read_only", False)
        return refuses or self.permits(lun, use)

    def _has_its_volume(self, lun: int) -> bool:
        """Of an empty drive too: it says itself that there is no medium."""
        volume = self.volumes.get(lun, ANY_VOLUME)
        cartridge = getattr(self.logical_units[lun], "cartridge", None)
        return volume == ANY_VOLUME or cartridge is None or volume_hash(cartridge.barcode) == volume
