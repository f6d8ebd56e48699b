"""The unit attention conditions that wait for each nexus (SAM-5 5.14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.t10 import sense

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Nexus
    from scsi_targets.t10.sense import SenseCode

# Kept for one nexus; the list holds each condition at most once.
MAX_UNIT_ATTENTIONS = 16


class UnitAttentions:
    """In the order in which they are reported: one for a reset goes before the others. `waiting` has no empty lists, so
    it is empty when nothing waits for anybody. The caller holds the logical unit's lock."""

    def __init__(self) -> None:
        self.waiting: dict[Nexus, list[SenseCode]] = {}

    def establish(self, nexus: Nexus, code: SenseCode) -> None:
        """Queues a condition, once."""
        waiting = self.waiting.setdefault(nexus, [])
        if code not in waiting and len(waiting) < MAX_UNIT_ATTENTIONS:
            waiting.insert(0 if is_reset(code) else len(waiting), code)

    def take(self, nexus: Nexus) -> SenseCode | None:
        """The first condition, which is thereby cleared."""
        waiting = self.waiting.get(nexus)
        if waiting is None:
            return None
        code = waiting[0]
        self.clear(nexus, code)
        return code

    def clear(self, nexus: Nexus, code: SenseCode) -> None:
        """Drops a condition, if it waits."""
        waiting = self.waiting.get(nexus, [])
        if code in waiting:
            waiting.remove(code)
            if not waiting:
                del self.waiting[nexus]

    def forget(self, nexus: Nexus) -> None:
        """The nexus is lost."""
        self.waiting.pop(nexus, None)


def is_reset(code: SenseCode) -> bool:
    """Whether it goes before a reservation conflict (SAM-5 5.3.3)."""
    return code.asc == sense.RESET_ASC
