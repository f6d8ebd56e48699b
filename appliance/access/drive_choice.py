"""The gate's choice of drives, for keys that name a group of them instead of a LUN: the best that is free goes to
whoever comes first, of several that wait to the highest priority.

Nothing but memory is asked, so it works while whoever makes grants is down. A login that finds nothing free is told to
come again (status 0301h), which stock initiators do; that it waits is remembered, so that nobody of lower priority, and
nobody of the same who came later, passes it by.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.access.keys import ANY_VOLUME, DriveGroup, GrantedUnit, volume_hash
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Principal

PATIENCE_SECONDS: Final = 30.0  # who has not come again for so long does not wait any more
MOST_WAITING: Final = 1000

WantedDrives = Sequence[tuple[GrantedUnit, DriveGroup]]
Candidates = Mapping[int, tuple[int, ...]]


@dataclass(slots=True)
class _Waiting:
    priority: int
    since: float
    seen: float
    groups: frozenset[int]


class DriveChoice:
    """The gate's lock is held by the caller. What is chosen is lent at once, so whoever else chooses drives meanwhile
    finds it taken."""

    def __init__(
        self,
        units: Mapping[int, LogicalUnit],
        groups: Mapping[int, Collection[int]],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._waiting: dict[bytes, _Waiting] = {}
        self.show(units, groups)

    def show(self, units: Mapping[int, LogicalUnit], groups: Mapping[int, Collection[int]]) -> None:
        """The units by LUN; the LUNs of each group's drives."""
        self._units, self._groups = units, groups

    def forget(self, grant: bytes) -> None:
        """It does not wait any more."""
        self._waiting.pop(grant, None)

    def choose(self, grant: bytes, wanted: WantedDrives, candidates: Candidates) -> dict[int, int] | None:
        """A LUN for each that is wanted, by what the key says in its place; None: not now."""
        if not wanted:
            return {}
        principal = Principal.key(grant.hex())
        self._take_back_from(principal)
        options = {
            unit.lun: [lun for lun in candidates.get(unit.lun, self._group(group)) if self._is_free(lun, unit)]
            for unit, group in wanted
        }
        chosen = None
        if not self._must_wait(grant, wanted, frozenset(lun for luns in options.values() for lun in luns)):
            chosen = self._lend(options, principal)
        if chosen is not None:
            self.forget(grant)
        return chosen

    def _take_back_from(self, principal: Principal) -> None:
        """What was chosen for it by a login that ended, with its thread, before that was kept."""
        for unit in self._units.values():
            if unit.lent_to == principal:
                unit.take_back()

    def _group(self, group: DriveGroup) -> tuple[int, ...]:
        return tuple(self._groups.get(group.number, ()))

    def _is_free(self, lun: int, wanted: GrantedUnit) -> bool:
        """Empty or with its volume in it already, and used by nobody."""
        unit = self._units.get(lun)
        if unit is None or unit.lent_to is not None or unit.reservations.held_by() is not None:
            return False
        cartridge = getattr(unit, "cartridge", None)
        in_use = getattr(unit, "in_use", lambda: None)()
        return in_use is None and (
            cartridge is None or (wanted.volume != ANY_VOLUME and volume_hash(cartridge.barcode) == wanted.volume)
        )

    def _must_wait(self, grant: bytes, wanted: WantedDrives, free: frozenset[int]) -> bool:
        """Whether those who wait before this one take what is free. It waits from now on."""
        now, priority = self._clock(), max(group.priority for _, group in wanted)
        self._waiting = {
            each: waiting for each, waiting in self._waiting.items() if now - waiting.seen < PATIENCE_SECONDS
        }
        before = self._waiting.get(grant)
        if before is None and len(self._waiting) >= MOST_WAITING:
            return True
        groups = frozenset(group.number for _, group in wanted)
        mine = self._waiting[grant] = _Waiting(priority, before.since if before else now, now, groups)
        ahead = sum(
            bool(other.groups & groups) and (-other.priority, other.since) < (-mine.priority, mine.since)
            for each, other in self._waiting.items()
            if each != grant
        )
        return len(free) < len(wanted) + ahead

    def _lend(self, options: Mapping[int, Sequence[int]], principal: Principal) -> dict[int, int] | None:
        """All of them or none."""
        chosen: dict[int, int] = {}
        for field, luns in options.items():
            lent = (lun for lun in luns if lun not in chosen.values() and self._units[lun].lend(principal))
            lun = next(lent, None)
            if lun is None:
                for taken in chosen.values():
                    self._units[taken].take_back()
                return None
            chosen[field] = lun
        return chosen
