"""PERSISTENT RESERVE IN and OUT (SPC-5 6.15, 6.16) over the state machine in reservations.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from scsi_targets.devices.unit.dispatch import ALLOWED, PERSISTENT_ALLOWED, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.primary import PrimaryCommands
from scsi_targets.devices.unit.principal import Permission, Principal, PrincipalKind
from scsi_targets.devices.unit.reservations import (
    Conflict,
    ReleaseTypeMismatch,
    Reservations,
    ReservationType,
    TooManyRegistrations,
)
from scsi_targets.devices.unit.task import ISID_BYTES, MAX_NAME_BYTES, Nexus, Response, Task
from scsi_targets.t10 import sense, spc, vpd
from scsi_targets.t10.persistent_reservation import (
    BasicParameterList,
    FullStatusDescriptor,
    PersistentReserveInHeader,
    RegisterAndMoveParameterList,
    ReservationCapabilities,
    ReservationDescriptor,
    TransportId,
)
from scsi_targets.t10.sense import CheckCondition

LOGICAL_UNIT_SCOPE = 0
ISCSI_INITIATOR_PORT = 0x45  # FORMAT CODE 01b, PROTOCOL IDENTIFIER 5h of a TransportID (SPC-5 7.6.4.6)
# The longest name with `,i,0x`, an ISID in hexadecimal and the null, padded to a multiple of four.
MAX_TRANSPORT_ID_BYTES = TransportId.length + (MAX_NAME_BYTES + len(",i,0x") + 2 * ISID_BYTES + 1 + 3) // 4 * 4
ISID_TEXT = re.compile(r"[0-9A-Fa-f]{12}")


def transport_id(nexus: Nexus) -> bytes:
    """The TransportID of a nexus's initiator port."""
    name = vpd.scsi_name_string(nexus.initiator_port)
    return TransportId.encode(format_and_protocol=ISCSI_INITIATOR_PORT, additional_length=len(name)) + name


class PersistentReserveCommands(PrimaryCommands):
    """One implementation for disks, drives and changers."""

    # ---- PERSISTENT RESERVE IN -----------------------------------------------------------------------------------

    @handles(spc.ReadKeys, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_keys(self, cdb: spc.ReadKeys, task: Task) -> Response:
        keys = b"".join(key.to_bytes(8, "big") for key in self.reservations.registrations.values())
        return self._parameter_data(keys, cdb)

    @handles(spc.ReadReservation, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_reservation(self, cdb: spc.ReadReservation, task: Task) -> Response:
        state = self.reservations
        body = b""
        if state.type is not None:
            key = 0
            if state.holder is not None and not state.type.all_registrants:
                key = state.registrations[state.holder]
            body = ReservationDescriptor.encode(reservation_key=key, scope=LOGICAL_UNIT_SCOPE, type=state.type)
        return self._parameter_data(body, cdb)

    @handles(spc.ReportCapabilities, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def report_capabilities(self, cdb: spc.ReportCapabilities, task: Task) -> Response:
        types = sum(1 << t for t in ReservationType)
        data = ReservationCapabilities.encode(
            persist_through_power_loss_activated=self.reservations.aptpl,
            persistent_reservation_type_mask=(types & 0xFF) << 8 | types >> 8,
        )
        return reply(data, cdb.allocation_length)

    @handles(spc.ReadFullStatus, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_full_status(self, cdb: spc.ReadFullStatus, task: Task) -> Response:
        state, body = self.reservations, b""
        for nexus, key in state.registrations.items():
            holds = state.is_holder(nexus)
            who = transport_id(nexus)
            body += FullStatusDescriptor.encode(
                reservation_key=key,
                reservation_holder=holds,
                type=(state.type or 0) if holds else 0,
                relative_target_port_identifier=nexus.portal_group_tag,
                additional_descriptor_length=len(who),
            )
            body += who
        return self._parameter_data(body, cdb)

    def _parameter_data(self, body: bytes, cdb: spc.PersistentReserveInCommand) -> Response:
        generation = self.reservations.generation & 0xFFFFFFFF
        header = PersistentReserveInHeader.encode(generation=generation, additional_length=len(body))
        return reply(header + body, cdb.allocation_length)

    # ---- PERSISTENT RESERVE OUT ----------------------------------------------------------------------------------

    @handles(spc.Register, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    @handles(spc.RegisterAndIgnoreExistingKey, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    def register(self, cdb: spc.PersistentReserveOutCommand, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        if given.specify_initiator_ports:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, BasicParameterList.specify_initiator_ports)
        if given.all_target_ports:  # ATP_C is zero in REPORT CAPABILITIES
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, BasicParameterList.all_target_ports)
        with self._changing() as after:
            tell = after.register(
                task.nexus,
                given.reservation_key,
                given.service_action_reservation_key,
                ignore_existing=(cdb.raw[1] & 0x1F) == spc.RegisterAndIgnoreExistingKey.service_action,
                aptpl=bool(given.activate_persist_through_power_loss),
            )
        self.establish_unit_attention(sense.RESERVATIONS_RELEASED, tell)

    @handles(spc.ReservePersistent, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    def reserve_persistent(self, cdb: spc.ReservePersistent, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        with self._changing() as after:
            after.reserve_persistent(task.nexus, given.reservation_key, self._type(cdb))

    @handles(spc.ReleasePersistent, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    def release_persistent(self, cdb: spc.ReleasePersistent, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        with self._changing() as after:
            tell = after.release_persistent(task.nexus, given.reservation_key, cdb.type)
        self.establish_unit_attention(sense.RESERVATIONS_RELEASED, tell)

    @handles(spc.ClearPersistent, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    def clear_persistent(self, cdb: spc.ClearPersistent, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        with self._changing() as after:
            tell = after.clear(task.nexus, given.reservation_key)
        self.establish_unit_attention(sense.RESERVATIONS_PREEMPTED, tell)

    @handles(spc.Preempt, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    @handles(spc.PreemptAndAbort, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    def preempt(self, cdb: spc.PersistentReserveOutCommand, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        with self._changing(preempts=True) as after:
            removed, released = after.preempt(
                task.nexus, given.reservation_key, given.service_action_reservation_key, self._type(cdb)
            )
        if (cdb.raw[1] & 0x1F) == spc.PreemptAndAbort.service_action:
            self._abort_tasks(lambda t: t.nexus in removed)
            self._clear_guests(sense.REGISTRATIONS_PREEMPTED, removed)
            self.establish_unit_attention(sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, removed)
        self.establish_unit_attention(sense.REGISTRATIONS_PREEMPTED, removed)
        self.establish_unit_attention(sense.RESERVATIONS_RELEASED, released)

    @handles(spc.RegisterAndMove, permission=Permission.RESERVE, reservation=ALLOWED, while_busy=True)
    def register_and_move(self, cdb: spc.RegisterAndMove, task: Task) -> None:
        self._no_legacy_reservation(task)
        if cdb.parameter_list_length > RegisterAndMoveParameterList.length + MAX_TRANSPORT_ID_BYTES:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR, spc.RegisterAndMove.parameter_list_length)
        field = spc.RegisterAndMove.parameter_list_length
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=RegisterAndMoveParameterList.length)
        given = RegisterAndMoveParameterList.decode(data)
        to = self._destination(data, given, task)
        with self._changing() as after:
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
        if len(raw) != given.transport_id_length or len(raw) <= TransportId.length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        port = given.relative_target_port_identifier
        if port not in self.target_ports(task):
            field = RegisterAndMoveParameterList.relative_target_port_identifier
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field)
        head = TransportId.decode(raw)
        name, isid = _initiator_port(raw[TransportId.length :])
        to = self._nexus_named(name, isid, port, task.nexus)
        wrong = head.additional_length != len(raw) - TransportId.length or not to.possible
        if wrong or head.format_and_protocol != ISCSI_INITIATOR_PORT:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, start)
        return to

    def _nexus_named(self, initiator_name: str, isid: bytes, portal_group_tag: int, nexus: Nexus) -> Nexus:
        """The nexus of that name which the unit knows, whoever its principal is. One that has not come yet is expected
        to prove itself as the nexus that names it did: with its own name, or as the same account."""
        own_name = nexus.principal.kind is PrincipalKind.INITIATOR
        principal = Principal.initiator(initiator_name) if own_name else nexus.principal
        to = Nexus(initiator_name, isid, nexus.target_name, portal_group_tag, principal=principal)
        known = (n for n in (*self.nexuses, *self.reservations.registrations) if n.same_ports(to))
        return next(known, to)

    # ---- checks --------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self, *, preempts: bool = False) -> Iterator[Reservations]:
        """changed_reservations(), with what it refuses in SCSI's words."""
        try:
            with self.changed_reservations(preempts=preempts) as after:
                yield after
        except TooManyRegistrations:
            raise CheckCondition(sense.INSUFFICIENT_REGISTRATION_RESOURCES) from None
        except ReleaseTypeMismatch:
            raise CheckCondition(sense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION) from None
        except ValueError as error:
            field = BasicParameterList.service_action_reservation_key
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field) from error

    def _no_legacy_reservation(self, task: Task) -> None:
        # PERSISTENT RESERVE OUT conflicts with a RESERVE, the holder's own included (SPC-2 5.5.1).
        if self.reservations.legacy_holder is not None:
            raise Conflict

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


def _initiator_port(raw: bytes) -> tuple[str, bytes]:
    """(name, ISID) of the iSCSI initiator port name `<name>,i,0x<ISID>` that a TransportID holds, null terminated; an
    empty name when that is not what it is."""
    text, end, padding = raw.partition(b"\0")
    try:
        name, _, isid = text.decode("utf-8").partition(",i,0x")
    except UnicodeDecodeError:
        return "", b""
    if not end or padding.strip(b"\0") or not ISID_TEXT.fullmatch(isid):
        return "", b""
    return name, bytes.fromhex(isid)
