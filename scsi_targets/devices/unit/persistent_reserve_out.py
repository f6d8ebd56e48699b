"""PERSISTENT RESERVE OUT (SPC-5 6.16).

What APTPL keeps is written to the store without the unit's lock; changed_reservations() lets one change happen at a
time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import ALLOWED, handles
from scsi_targets.devices.unit.parameter_data import parameter_list
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission, Principal, PrincipalKind
from scsi_targets.devices.unit.reservations import (
    MAX_REGISTRATIONS,
    Conflict,
    ReleaseTypeMismatch,
    Reservations,
    ReservationType,
    TooManyRegistrations,
)
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.devices.unit.transport_id import MAX_TRANSPORT_ID_BYTES, initiator_port, initiator_ports
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.fields import Field
from scsi_targets.t10.persistent_reservation import (
    BasicParameterList,
    RegisterAndMoveParameterList,
    SpecifyInitiatorPortsParameterList,
)
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.actor import acting_as

if TYPE_CHECKING:
    from scsi_targets.devices.unit.primary import PrimaryCommands
    from scsi_targets.devices.unit.task import Task

LOGICAL_UNIT_SCOPE = 0

# What the rows have in common: the handlers ask themselves what conflicts (SPC-4 table 46).
_handles = partial(handles, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True, concurrent=True)


class PersistentReserveOut(Part):
    """Registers, reserves, releases, preempts and moves."""

    def __init__(self, unit: PrimaryCommands) -> None:
        self._unit = unit

    @_handles(spc.Register)
    @handles(
        spc.RegisterAndIgnoreExistingKey,
        permission=Permission.RESERVE,
        reservation=ALLOWED,
        while_busy=True,
        concurrent=True,
    )
    def register(self, cdb: spc.PersistentReserveOutCommand, task: Task) -> None:
        given, named = self._registering(cdb, task)
        with self._changing(task.nexus) as after:
            if named is not None and after.registrations.get(task.nexus) == given.reservation_key:
                raise _not_allowed(BasicParameterList.specify_initiator_ports)  # SPC-4 table 45: registered already
            tell = after.register(
                task.nexus,
                given.reservation_key,
                given.service_action_reservation_key,
                ignore_existing=_ignores_existing_key(cdb),
                aptpl=bool(given.activate_persist_through_power_loss),
                others=named or (),
            )
        self._unit.establish_unit_attention(sense.RESERVATIONS_RELEASED, tell)

    def _registering(
        self, cdb: spc.PersistentReserveOutCommand, task: Task
    ) -> tuple[BasicParameterList, list[Nexus] | None]:
        """What a REGISTER gives, and with SPEC_I_PT the nexuses that it names; None without."""
        data = task.data()
        head = data[: BasicParameterList.length]
        if len(head) < BasicParameterList.length or not BasicParameterList.decode(head).specify_initiator_ports:
            given, named = self._basic(cdb, task), None
        else:
            given, named = BasicParameterList.decode(head), self._specified(cdb, task)
        if given.all_target_ports:  # ATP_C is zero in REPORT CAPABILITIES
            raise _not_allowed(BasicParameterList.all_target_ports)
        return given, named

    def _specified(self, cdb: spc.PersistentReserveOutCommand, task: Task) -> list[Nexus]:
        """The nexuses of the initiator ports that SPEC_I_PT lists, through the target port of the command. A
        TransportID without an ISID means every initiator port of that name which the unit knows (SPC-4 7.6.4.6)."""
        if _ignores_existing_key(cdb):
            raise _not_allowed(BasicParameterList.specify_initiator_ports)
        start = SpecifyInitiatorPortsParameterList.length
        if cdb.parameter_list_length > start + MAX_REGISTRATIONS * MAX_TRANSPORT_ID_BYTES:
            raise CheckCondition(
                sense.PARAMETER_LIST_LENGTH_ERROR, spc.PersistentReserveOutCommand.parameter_list_length
            )
        field = spc.PersistentReserveOutCommand.parameter_list_length
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=start)
        if SpecifyInitiatorPortsParameterList.decode(data).transport_ids_length != len(data) - start:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        known = self._known()
        named: dict[Nexus, None] = {}
        for name, isid in dict.fromkeys(initiator_ports(data[start:], start)):
            if isid is not None:
                named[_nexus_named(name, isid, task.nexus.portal_group_tag, task.nexus, known)] = None
            else:
                named |= {nexus: None for nexus in known.values() if nexus.reaches_as(name, task.nexus)}
            if len(named) > MAX_REGISTRATIONS:
                raise CheckCondition(sense.INSUFFICIENT_REGISTRATION_RESOURCES)
        return list(named)

    @handles(
        spc.ReservePersistent, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True, concurrent=True
    )
    def reserve_persistent(self, cdb: spc.ReservePersistent, task: Task) -> None:
        given = self._basic(cdb, task)
        with self._changing(task.nexus) as after:
            after.reserve_persistent(task.nexus, given.reservation_key, self._type(cdb))

    @handles(
        spc.ReleasePersistent, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True, concurrent=True
    )
    def release_persistent(self, cdb: spc.ReleasePersistent, task: Task) -> None:
        given = self._basic(cdb, task)
        with self._changing(task.nexus) as after:
            tell = after.release_persistent(task.nexus, given.reservation_key, cdb.type)
        self._unit.establish_unit_attention(sense.RESERVATIONS_RELEASED, tell)

    @_handles(spc.ClearPersistent)
    def clear_persistent(self, cdb: spc.ClearPersistent, task: Task) -> None:
        given = self._basic(cdb, task)
        with self._changing(task.nexus) as after:
            tell = after.clear(task.nexus, given.reservation_key)
        self._unit.establish_unit_attention(sense.RESERVATIONS_PREEMPTED, tell)

    @_handles(spc.Preempt)
    @_handles(spc.PreemptAndAbort)
    def preempt(self, cdb: spc.PersistentReserveOutCommand, task: Task) -> None:
        given = self._basic(cdb, task)
        with self._changing(task.nexus, preempts=True) as after:
            removed, released = after.preempt(
                task.nexus, given.reservation_key, given.service_action_reservation_key, self._type(cdb)
            )
        with self._unit.lock:
            aborts = (cdb.raw[1] & 0x1F) == spc.PreemptAndAbort.service_action
            if aborts:
                self._unit.establish_unit_attention(sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, removed)
            self._unit.establish_unit_attention(sense.REGISTRATIONS_PREEMPTED, removed)
            self._unit.establish_unit_attention(sense.RESERVATIONS_RELEASED, released)
            if aborts:  # last: it waits for what it aborts, without the lock
                self._unit.abort_tasks_of(removed, sense.REGISTRATIONS_PREEMPTED)

    @_handles(spc.RegisterAndMove)
    def register_and_move(self, cdb: spc.RegisterAndMove, task: Task) -> None:
        if cdb.parameter_list_length > RegisterAndMoveParameterList.length + MAX_TRANSPORT_ID_BYTES:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR, spc.RegisterAndMove.parameter_list_length)
        field = spc.RegisterAndMove.parameter_list_length
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=RegisterAndMoveParameterList.length)
        given = RegisterAndMoveParameterList.decode(data)
        to = self._destination(data, given, task)
        with self._changing(task.nexus) as after:
            after.register_and_move(
                task.nexus,
                given.reservation_key,
                given.service_action_reservation_key,
                to,
                bool(given.unregister),
                bool(given.activate_persist_through_power_loss),
            )

    def _destination(self, data: bytes, given: RegisterAndMoveParameterList, task: Task) -> Nexus:
        """The nexus that a REGISTER AND MOVE names by target port and TransportID."""
        start = RegisterAndMoveParameterList.length
        raw = data[start:]
        if len(raw) != given.transport_id_length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        port = given.relative_target_port_identifier
        if port not in self._unit.target_ports(task):
            field = RegisterAndMoveParameterList.relative_target_port_identifier
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field)
        name, isid = initiator_port(raw, start)
        return _nexus_named(name, isid, port, task.nexus, self._known())

    def _known(self) -> dict[tuple[str, str], Nexus]:
        """Who is logged in to the unit, or registered with it, by initiator port and target port."""
        with self._unit.lock:
            nexuses = [*self._unit.reservations.registrations, *self._unit.nexuses]  # the latter are surer
        return {(nexus.initiator_port, nexus.target_port): nexus for nexus in nexuses}

    # ---- checks --------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self, nexus: Nexus, *, preempts: bool = False) -> Iterator[Reservations]:
        """changed_reservations() on behalf of a nexus, with what it refuses in SCSI's words."""
        try:
            with acting_as(nexus.initiator_name), self._unit.changed_reservations(preempts=preempts) as after:
                if after.legacy_holder is not None:  # a RESERVE, the holder's own included (SPC-2 5.5.1)
                    raise Conflict
                yield after
        except TooManyRegistrations:
            raise CheckCondition(sense.INSUFFICIENT_REGISTRATION_RESOURCES) from None
        except ReleaseTypeMismatch:
            raise CheckCondition(sense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION) from None
        except ValueError as error:
            field = BasicParameterList.service_action_reservation_key
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field) from error

    @staticmethod
    def _basic(cdb: spc.PersistentReserveOutCommand, task: Task) -> BasicParameterList:
        data = task.data()
        if cdb.parameter_list_length != BasicParameterList.length or len(data) < BasicParameterList.length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        return BasicParameterList.decode(data)

    @staticmethod
    def _type(cdb: spc.PersistentReserveOutCommand) -> ReservationType:
        if cdb.scope != LOGICAL_UNIT_SCOPE:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.PersistentReserveOutCommand.scope)
        try:
            return ReservationType(cdb.type)
        except ValueError as error:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.PersistentReserveOutCommand.type) from error


def _ignores_existing_key(cdb: spc.PersistentReserveOutCommand) -> bool:
    return (cdb.raw[1] & 0x1F) == spc.RegisterAndIgnoreExistingKey.service_action


def _not_allowed(field: Field) -> CheckCondition:
    return CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field)


def _nexus_named(
    initiator_name: str, isid: bytes, portal_group_tag: int, nexus: Nexus, known: Mapping[tuple[str, str], Nexus]
) -> Nexus:
    """The nexus of that name which the unit knows, whoever its principal is. One that has not come yet is expected to
    prove itself as the nexus that names it did: with its own name, or as the same account."""
    own_name = nexus.principal.kind is PrincipalKind.INITIATOR
    principal = Principal.initiator(initiator_name) if own_name else nexus.principal
    to = Nexus(initiator_name, isid, nexus.target_name, portal_group_tag, principal=principal)
    return known.get((to.initiator_port, to.target_port), to)
