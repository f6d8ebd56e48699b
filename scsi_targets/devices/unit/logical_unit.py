"""The base of every logical unit: dispatch, legality, nexuses, reservations, parts.

Concurrency. `lock` guards the state of one logical unit and is held while a quick command runs, so quick commands of
one logical unit exclude one another. A command whose row says `slow` runs on the task set's worker without the lock. A
row that says `concurrent` is checked under the lock and runs outside it. A handler that sees from its CDB that it will
take long may defer() the rest of its work to a thread of its own, and nothing waits for that.

Lock order, for whoever needs two: the robot's, then the tape drives', then the media changers', then the inventory's.
Whoever holds a logical unit's lock never takes another's or the robot's. Nothing takes a logical unit's lock while
holding a connection's. A copy takes one unit's lock at a time; its places in the queues of
several drives it takes under a lock that comes before all of these (copying/operation.py), so in every queue copies are
in one order.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog

from scsi_targets.devices.unit import answers
from scsi_targets.devices.unit.command_table import CommandTable
from scsi_targets.devices.unit.dispatch import (
    ReservationRule,
    Row,
    RowTable,
    collect_rows,
    find_row,
)
from scsi_targets.devices.unit.guest import Guest
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission, Principal
from scsi_targets.devices.unit.reservations import Conflict, Reservations
from scsi_targets.devices.unit.state_store import MemoryStore, StateStore
from scsi_targets.devices.unit.task import DEFERRED, Deferred, Nexus, Response, Task
from scsi_targets.devices.unit.task_set import TaskSet
from scsi_targets.devices.unit.unit_attentions import UnitAttentions, is_reset
from scsi_targets.t10 import sense
from scsi_targets.t10.fields import Bits, Command
from scsi_targets.t10.sense import CheckCondition, SenseCode

log = structlog.get_logger(__name__)

OPERATION_CODE = Bits(0, 7, 8)
SERVICE_ACTION = Bits(1, 4, 5)
NACA_BIT = 2


def wipe(data: memoryview) -> None:
    """Overwrites a Data-Out that may hold a key, whether the command took it or not: the buffer goes back to a pool."""
    if not data.readonly:
        data[:] = bytes(len(data))


class LogicalUnit(Part):
    """Dispatch and the rules common to all devices. `state_key` names this logical unit in the store.

    `rows` is the table of a class; a device's own has its parts' rows too. `parts` are told of events in their order;
    the spine is one of them, for what it does itself."""

    rows: RowTable = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.rows = collect_rows(cls)

    def __init__(self, *, store: StateStore | None = None, state_key: str = "") -> None:
        self.lock = threading.RLock()
        self.reserving = threading.RLock()  # taken before `lock` by whatever changes reservations
        self.store: StateStore = store if store is not None else MemoryStore()
        self.state_key = state_key
        self.reservations = Reservations.from_state(self.store.get(f"{state_key}/reservations"))
        self.lent_to: Principal | None = None  # whose alone it is for now, whoever else sees it
        self.descriptor_sense = False  # D_SENSE of the control mode page
        self.nexuses: set[Nexus] = set()
        self.attentions = UnitAttentions()
        self.tasks = TaskSet(
            state_key, self.lock, perform=self._perform, failed=partial(answers.internal_failure, self)
        )
        self.parts: tuple[Part, ...] = (self,)
        self._commands = CommandTable(self, type(self).rows)
        self.rows, self._handlers = self._commands.rows, self._commands.handlers

    def attach(self, *parts: Part) -> None:
        """Gives the device its parts; called once, last thing in the constructor of a finished device. Raises TypeError
        when a command is two parts'."""
        self.parts = parts
        for part in parts:
            if part is not self:
                self._commands.add(part)

    def withdraw(self, *commands: type[Command]) -> None:
        """Takes commands out of the table, those of before coming back: what the device cannot do with its medium."""
        self._commands.withdraw(*commands)

    # ---- execution -----------------------------------------------------------------------------------------------

    def execute(self, task: Task) -> Response | None:
        """Runs a command now and returns its response, or queues it for the worker and returns None: then
        task.complete(response) is called later, unless the task is aborted."""
        found = self.rows.get(task.cdb[0])
        row = found if isinstance(found, Row) else find_row(self.rows, task.cdb)
        if row is None:
            return answers.refusal(self, CheckCondition(*self._unsupported(task.cdb)))
        with self.lock:
            tasks = self.tasks
            if (row.slow or tasks.running is not None or tasks.queue) and tasks.must_wait(row):
                return tasks.enqueue(row, task)
            if not row.concurrent:
                return self._perform(row, task)
            refusal = self._check(row, task)
        return refusal if refusal is not None else self._handle(row, task)

    def _unsupported(self, cdb: bytes) -> tuple[SenseCode, Bits]:
        if isinstance(self.rows.get(cdb[0]), dict):
            return sense.INVALID_FIELD_IN_CDB, SERVICE_ACTION
        return sense.INVALID_COMMAND_OPERATION_CODE, OPERATION_CODE

    def _perform(self, row: Row, task: Task) -> Response | None:
        """Checks and handles; a slow or concurrent handler runs outside the lock."""
        with self.lock:
            refusal = self._check(row, task)
            if refusal is not None or not (row.slow or row.concurrent):
                return refusal if refusal is not None else self._handle(row, task)
        return self._handle(row, task)

    def _check(self, row: Row, task: Task) -> Response | None:
        """The row's legality, in SAM-5's order (5.3.3): a unit attention for a reset, the reservation, other unit
        attentions, field checks, medium, write protection. What a reservation conflict goes before stays pending."""
        try:
            if task.interrupted is not None and row.needs_medium:
                task.check()
            attentions = self.attentions.waiting
            waiting = attentions.get(task.nexus) if attentions and row.reports else None
            if waiting is not None and is_reset(waiting[0]):
                self._report_attention(task.nexus)
            if self.lent_to is not None:
                self._check_lent(row, task.nexus)
            if self.reservations.legacy_holder is not None or self.reservations.type is not None:
                self.reservations.check(task.nexus, row.reservation)
            if waiting is not None:
                self._report_attention(task.nexus)
            if task.view is not None and task.view.permissions:
                task.view.check(task.lun, row.permission)
            if task.cdb[row.control_byte] & 1 << NACA_BIT:
                raise CheckCondition(sense.INVALID_FIELD_IN_CDB, Bits(row.command.length - 1, NACA_BIT, 1))
            if row.needs_medium and not self.medium_usable:
                self.check_medium(row)
            if row.writes and not self.writable:
                self.check_writable(row)
        except Exception as error:  # noqa: BLE001 - as in _handle
            if row.secret:
                wipe(task.data())
            return answers.failure(self, row, task, error)
        return None

    def _check_lent(self, row: Row, nexus: Nexus) -> None:
        """A logical unit that is lent is to everybody else as if it were reserved (SPC-2 table 9), and nobody takes it
        over by a reservation. Raises Conflict."""
        if self.is_lent_to_another(nexus.principal) and (
            row.reservation is not ReservationRule.ALLOWED or row.permission & ~Permission.READ_PARAMETERS
        ):
            raise Conflict

    def _report_attention(self, nexus: Nexus) -> None:
        if (code := self.attentions.take(nexus)) is not None:
            raise CheckCondition(code)

    def admit(self, row: Row, task: Task) -> None:
        """The row's legality for what is done without that command, for whoever sent the one at hand: a copy. Raises
        CheckCondition, Conflict."""
        self._check_lent(row, task.nexus)
        self.reservations.check(task.nexus, row.reservation)
        if task.view is not None:
            task.view.check_with(self, row.permission)
        if row.needs_medium and not self.medium_usable:
            self.check_medium(row)
        if row.writes and not self.writable:
            self.check_writable(row)

    def _handle(self, row: Row, task: Task) -> Response | None:
        cdb = row.command(task.cdb)
        try:
            outcome = self._handlers[row.command](cdb, task)
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one command, never the connection
            return answers.failure(self, row, task, error)
        if outcome is None:  # all that the CDB announced was taken
            return Response(data_length=getattr(cdb, "parameter_list_length", 0))
        return None if outcome is DEFERRED else outcome

    # ---- hooks of the devices ------------------------------------------------------------------------------------

    # Decided by the device when something changes, so that a READ or WRITE does not ask again. While one is False,
    # every command that needs it asks the hook below, which says why, or that it is allowed all the same.
    medium_usable = True
    writable = True

    def check_medium(self, row: Row) -> None:
        """Raises CheckCondition when the medium cannot be used. Devices with removable media override it."""

    def check_writable(self, row: Row) -> None:
        """Raises CheckCondition when the medium must not be written."""

    def storage_failure(self, row: Row, error: Exception) -> CheckCondition | None:
        """What an exception of the device's storage means in SCSI; None when it is not one of the storage's."""
        return None

    # ---- the task set ----------------------------------------------------------------------------------------------

    def defer(self, task: Task, work: Callable[[], Response | None]) -> Response | Deferred:
        """Runs `work` on a thread of its own, without the lock, and ends the task with what it returns or raises. Other
        commands go on meanwhile; work that takes long looks at task.aborted. A handler returns defer()'s result."""
        row = find_row(self.rows, task.cdb)
        assert row is not None  # a handler runs because there is a row

        def run() -> Response:
            try:
                return work() or Response()
            except Exception as error:  # noqa: BLE001 - as in _handle
                return answers.failure(self, row, task, error)

        return self.tasks.defer(task, row.command.__name__, run)

    def welcome(self, guest: Guest) -> None:
        """A guest begins; dismiss() ends it."""
        self.tasks.welcome(guest)

    def dismiss(self, guest: Guest) -> None:
        """Ends what welcome() began, if something else has not done so."""
        self.tasks.dismiss(guest)

    def occupy(self, timeout_seconds: float) -> bool:
        """Takes this logical unit for the robot: commands queue up as behind a slow command. False when it did not fall
        idle in time. vacate() ends it."""
        return self.tasks.occupy(Guest(self, None, waits=True), timeout_seconds)

    def vacate(self) -> None:
        """Ends what occupy() began."""
        self.tasks.vacate()

    def close(self) -> None:
        """Ends the worker after the command it runs, then the parts; queued commands are aborted."""
        self.tasks.close()
        for part in self.parts:
            if part is not self:
                part.close()

    # ---- task management -----------------------------------------------------------------------------------------

    def abort_task(self, nexus: Nexus, tag: int) -> bool:
        """ABORT TASK: True when the task was in this task set."""
        with self.lock:
            hit = self.tasks.abort(lambda t: t.nexus == nexus and t.tag == tag)
            self.tasks.await_end(hit)
            return bool(hit)

    def abort_task_set(self, nexus: Nexus) -> None:
        """ABORT TASK SET: every task of that nexus."""
        with self.lock:
            self.tasks.await_end(self.tasks.abort(lambda t: t.nexus == nexus))

    def has_tasks_of(self, nexus: Nexus) -> bool:
        """Whether a command of that nexus is queued or runs, or a copy works here for it."""
        with self.lock:
            return self.tasks.serves(nexus)

    def clear_task_set(self, nexus: Nexus) -> None:
        """CLEAR TASK SET: every task; the other nexuses are told (SAM-5 7.4, TST 000b)."""
        with self.lock:
            hit = self.tasks.abort(lambda t: True)
            cleared = self.tasks.clear_guests(sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR)
            others = {t.nexus for t in hit} - {nexus}
            self.establish_unit_attention(sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, others)
            self.tasks.await_end(hit, cleared)

    def abort_tasks_of(self, nexuses: Container[Nexus | None], code: SenseCode) -> None:
        """PREEMPT AND ABORT: the tasks of these nexuses; `code`: what ends the copies that work for them."""
        with self.lock:
            hit = self.tasks.abort(lambda task: task.nexus in nexuses)
            self.tasks.await_end(hit, self.tasks.clear_guests(code, nexuses))

    def reset(self, *, code: SenseCode = sense.BUS_DEVICE_RESET_FUNCTION_OCCURRED) -> None:
        """LOGICAL UNIT RESET (SAM-5 6.3.3): tasks aborted, RESERVE freed, a unit attention for every nexus."""
        with self.reserving, self.lock:
            hit = self.tasks.abort(lambda t: True)
            cleared = self.tasks.clear_guests(code)
            self.reservations.reset()
            for part in self.parts:
                part.on_reset()
            self.attentions.waiting.clear()
            self.establish_unit_attention(code, self.nexuses)
        with self.lock:
            self.tasks.await_end(hit, cleared)

    # ---- nexuses and unit attentions -----------------------------------------------------------------------------

    def nexus_established(self, nexus: Nexus) -> None:
        """Login. The initiator port learns that what its nexus held is gone: 29/00, whether the unit was powered on or
        an earlier nexus was lost (SAM-5 6.2 allows the less specific code; docs/scsi.md says why it serves better)."""
        with self.reserving, self.lock:
            self.nexuses.discard(nexus)  # the nexus of a new login carries a new session_id
            self.nexuses.add(nexus)
            self.reservations.recognise(nexus)
            self.establish_unit_attention(sense.POWER_ON_OCCURRED, [nexus])

    def nexus_lost(self, nexus: Nexus) -> None:
        """Logout, connection loss, session reinstatement: its tasks end, its RESERVE is freed."""
        with self.reserving, self.lock:
            self.tasks.abort(lambda t: t.nexus == nexus)
            self.tasks.clear_guests(sense.LOGICAL_UNIT_NOT_SUPPORTED, [nexus])
            self.reservations.nexus_lost(nexus)
            self.nexuses.discard(nexus)
            self.attentions.forget(nexus)
            for part in self.parts:
                part.on_nexus_lost(nexus)

    def establish_unit_attention(self, code: SenseCode, nexuses: Iterable[Nexus]) -> None:
        """Queues a unit attention condition for each of these nexuses that is logged in, once (SAM-5 5.14.2); one for a
        reset goes before the others. A nexus that is not logged in learns everything by 29/00 when it comes."""
        with self.lock:
            for nexus in self.nexuses.intersection(nexuses):
                self.attentions.establish(nexus, code)

    def take_unit_attention(self, nexus: Nexus) -> SenseCode | None:
        """The first pending unit attention, which is thereby cleared."""
        with self.lock:
            return self.attentions.take(nexus)

    def tell_others(self, nexus: Nexus | None, code: SenseCode) -> None:
        """A unit attention for every nexus but this one."""
        self.establish_unit_attention(code, [n for n in self.nexuses if n != nexus])

    def check_reservation(self, nexus: Nexus, rule: ReservationRule) -> None:
        """For handlers whose behaviour under a reservation depends on the CDB; raises Conflict."""
        self.reservations.check(nexus, rule)

    @contextmanager
    def changed_reservations(self, *, preempts: bool = False) -> Iterator[Reservations]:
        """A copy of the reservations for the caller to change. It takes their place when what APTPL asks to keep is
        durable, and never when the caller or the store raises. Without APTPL nothing is written. The unit's lock is not
        held while the store works, so the row of a command that comes here says `concurrent`."""
        with self.reserving:
            after = self.reservations.copy()
            yield after
            if (state := after.to_state()) != self.reservations.to_state():
                self.keep("reservations", state)
            with self.lock:
                self.reservations = after
                for part in self.parts:
                    part.on_reservations_changed(preempted=preempts)

    def lend(self, principal: Principal) -> bool:
        """From now on it is that principal's alone, until take_back(). False, and nothing changed: it is another's, or
        an initiator has reserved it."""
        with self.lock:
            if self.is_lent_to_another(principal) or (self.lent_to is None and self.reservations.held_by() is not None):
                return False
            self.lent_to = principal
            return True

    def take_back(self) -> None:
        """Ends what lend() began."""
        with self.lock:
            self.lent_to = None

    def is_lent_to_another(self, principal: Principal) -> bool:
        """Whether it is somebody else's for now."""
        return self.lent_to is not None and self.lent_to != principal

    def forget_reservations(self, principal: Principal) -> None:
        """Of a principal that never comes back, a grant that is over. Raises CheckCondition as keep() does."""
        with self.changed_reservations() as reservations:
            reservations.forget(principal)

    def keep(self, name: str, value: Any) -> None:
        """Puts a value into the store under this unit's key; durable when it returns. A command keeps first and changes
        afterwards, so that one that failed has changed nothing.

        Raises CheckCondition: INSUFFICIENT RESOURCES when the state's file system is full, INTERNAL TARGET FAILURE when
        it cannot be written otherwise."""
        try:
            self.store.put(f"{self.state_key}/{name}", value)
        except OSError as error:
            log.error("state could not be kept", unit=self.state_key, name=name, reason=str(error))
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise CheckCondition(sense.INSUFFICIENT_RESOURCES if full else sense.INTERNAL_TARGET_FAILURE) from error
