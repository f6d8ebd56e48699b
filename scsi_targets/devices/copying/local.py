"""The part of Access that is the same for every logical unit of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

import structlog

from scsi_targets.devices.copying.access import Access, Designator
from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import Row, row_of
from scsi_targets.devices.unit.guest import Guest, Transfer
from scsi_targets.devices.unit.reservations import Conflict
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.fields import Command
from scsi_targets.t10.sense import CheckCondition, SenseCode

if TYPE_CHECKING:
    from scsi_targets.devices.unit.primary import PrimaryCommands
    from scsi_targets.devices.unit.task import Task

log = structlog.get_logger(__name__)


class LocalAccess(Access):
    """The copy manager is one more initiator to the unit: each transfer is checked as the command would be that a copy
    manager elsewhere would send, and what aborts commands of the unit aborts the copy's.

    reading, writing: those commands. alone: whether the copy needs the medium for itself."""

    reading: ClassVar[type[Command]]
    writing: ClassVar[type[Command]]
    alone: ClassVar[bool]

    def __init__(self, unit: PrimaryCommands, task: Task) -> None:
        self._unit = unit
        self._task = task
        self._guest = Guest(unit, task.nexus, waits=self.alone)

    # ---- taking part -----------------------------------------------------------------------------------------------

    def begin(self, changed: Callable[[], None]) -> None:
        self._guest.changed = changed
        self._unit.welcome(self._guest)

    def end(self) -> None:
        self._unit.dismiss(self._guest)

    def give_up(self) -> None:
        """A unit of this process answers, or its storage does not: then nobody else is served either."""

    @property
    def granted(self) -> bool:
        return self._guest.granted

    @property
    def cleared(self) -> SenseCode | None:
        return self._guest.cleared

    # ---- checks ----------------------------------------------------------------------------------------------------

    def check(self, *, writes: bool) -> None:
        with self._unit.lock:
            self._guest.check()
            self._admit(self.writing if writes else self.reading)

    def test_unit_ready(self) -> None:
        with self._unit.lock:
            self._guest.check()
            self._admit(spc.TestUnitReady)
            self._unit.check_ready()

    def command(self, command: type[Command]) -> Transfer:
        """Around what such a command does. Entering raises CheckCondition, Conflict: it is refused."""
        return Transfer(self._guest, row_of(self._unit.rows, command), self._task)

    def _admit(self, command: type[Command]) -> None:
        self._unit.admit(row_of(self._unit.rows, command), self._task)

    def answer_to(self, error: BaseException, *, writes: bool) -> tuple[int, bytes]:
        if isinstance(error, Conflict):
            return status.RESERVATION_CONFLICT, b""
        if not isinstance(error, CheckCondition):
            row = row_of(self._unit.rows, self.writing if writes else self.reading)
            error = self._storage_failure(error, row)
        return status.CHECK_CONDITION, error.sense.encode()

    def _storage_failure(self, error: BaseException, row: Row) -> CheckCondition:
        found = self._unit.storage_failure(row, error) if isinstance(error, Exception) else None
        log.error("a copy failed inside the target", cdb=self._task.cdb.hex(), exc_info=None if found else error,
                  reason=str(error))  # fmt: skip
        return found or CheckCondition(sense.INTERNAL_TARGET_FAILURE)


def designators_in(page: bytes) -> Iterator[Designator]:
    """The designation descriptors of the logical unit in the body of Device Identification (SPC-5 7.8.6.1)."""
    at = 0
    while at + 4 <= len(page):
        end = at + 4 + page[at + 3]
        if not page[at + 1] >> 4 & 3:
            yield Designator(page[at] & 0x0F, page[at + 1] & 0x0F, page[at + 4 : end])
        at = end
