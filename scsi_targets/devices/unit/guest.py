"""Who works on a logical unit without a session: a copy manager, which is one more initiator to it, or the robot.

What a guest has under way belongs to the task set: what aborts the commands of every nexus ends it, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from scsi_targets.t10.sense import CheckCondition, SenseCode

if TYPE_CHECKING:
    from scsi_targets.devices.unit.dispatch import Row
    from scsi_targets.devices.unit.task import Nexus, Task


class Host(Protocol):
    """What a guest asks of the logical unit that it works on."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...
    def admit(self, row: Row, task: Task, /) -> None: ...
    def dismiss(self, guest: Guest, /) -> None: ...


def _nobody() -> None:
    """What a guest calls that nobody waits for."""


class Guest:
    """One guest of one logical unit.

    nexus: on whose behalf a copy works; None for the robot, whom no task management function concerns.
    waits: it wants the unit for itself, so it queues as a command would, and `granted` says when its turn has come;
    commands that need the medium queue behind it then, and a copy's guest lets all others pass.
    changed: called when it is granted or cleared, under the unit's lock: it only passes the word on.
    """

    def __init__(
        self, unit: Host, nexus: Nexus | None, *, waits: bool = False, changed: Callable[[], None] = _nobody
    ) -> None:
        self.unit = unit
        self.nexus = nexus
        self.waits = waits
        self.granted = not waits
        self.cleared: SenseCode | None = None  # what its next command would be told: its commands were aborted
        self.active = False  # a transfer is under way
        self.changed = changed

    def grant(self) -> None:
        """Its turn has come."""
        self.granted = True
        self.changed()

    def clear(self, code: SenseCode) -> None:
        """A task management function aborted what it has under way; the unit forgets it after the transfer at hand."""
        if self.cleared is None:
            self.cleared = code
            self.changed()

    def check(self) -> None:
        """Raises CheckCondition: the unit attention that follows upon what cleared it."""
        if self.cleared is not None:
            raise CheckCondition(self.cleared)


class Transfer:
    """Around one command of a guest to its unit: `row`'s legality under the unit's lock, then what is inside without
    it. Entering raises CheckCondition, Conflict: it is refused, or clear() came before; whatever aborts the guest later
    counts from the next transfer on. A class, as a copy makes thousands in a second, and a generator costs more."""

    __slots__ = ("_guest", "_row", "_task")

    def __init__(self, guest: Guest, row: Row, task: Task) -> None:
        self._guest = guest
        self._row = row
        self._task = task

    def __enter__(self) -> None:
        guest = self._guest
        with guest.unit.lock:
            guest.check()
            guest.unit.admit(self._row, self._task)
            guest.active = True

    def __exit__(self, *exception: object) -> None:
        guest = self._guest
        with guest.unit.lock:
            guest.active = False
            if guest.cleared is not None:
                guest.unit.dismiss(guest)
