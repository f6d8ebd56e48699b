"""PERSISTENT RESERVE IN and OUT (SPC-5 6.15, 6.16) over the state machine in reservations.py."""

from __future__ import annotations

from scsi_targets.devices.unit.dispatch import ALLOWED, PERSISTENT_ALLOWED, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.primary import PrimaryCommands
from scsi_targets.devices.unit.reservations import Conflict, ReservationType
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense, spc, vpd
from scsi_targets.t10.fields import Bits, Structure
from scsi_targets.t10.sense import CheckCondition

LOGICAL_UNIT_SCOPE = 0
# A registration costs memory and, with APTPL, disk: a peer cannot make it grow without bound.
MAX_REGISTRATIONS = 256


class BasicParameterList(Structure, length=24):
    """PERSISTENT RESERVE OUT parameter list (SPC-5 table 196)."""

    reservation_key = Bits(0, 7, 64)
    service_action_reservation_key = Bits(8, 7, 64)
    specify_initiator_ports = Bits(20, 3, 1)
    all_target_ports = Bits(20, 2, 1)
    activate_persist_through_power_loss = Bits(20, 0, 1)


class RegisterAndMoveParameterList(Structure, length=24):
    """REGISTER AND MOVE parameter list, without the TransportID (SPC-5 table 199)."""

    reservation_key = Bits(0, 7, 64)
    service_action_reservation_key = Bits(8, 7, 64)
    unregister = Bits(17, 1, 1)
    activate_persist_through_power_loss = Bits(17, 0, 1)
    relative_target_port_identifier = Bits(18, 7, 16)
    transport_id_length = Bits(20, 7, 32)


def transport_id(nexus: Nexus) -> bytes:
    """An iSCSI initiator port TransportID, format 01b (SPC-5 7.6.4.6)."""
    name = vpd.scsi_name_string(nexus.initiator_port)
    return bytes([0x45, 0]) + len(name).to_bytes(2, "big") + name


class PersistentReserveCommands(PrimaryCommands):
    """One implementation for disks, drives and changers."""

    # ---- PERSISTENT RESERVE IN -----------------------------------------------------------------------------------

    @handles(spc.ReadKeys, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_keys(self, cdb: spc.ReadKeys, task: Task) -> Response:
        keys = b"".join(r.key.to_bytes(8, "big") for r in self.reservations.registrations.values())
        return reply(self._generation() + len(keys).to_bytes(4, "big") + keys, cdb.allocation_length)

    @handles(spc.ReadReservation, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_reservation(self, cdb: spc.ReadReservation, task: Task) -> Response:
        state = self.reservations
        body = b""
        if state.type is not None:
            key = 0
            if state.holder is not None and not state.type.all_registrants:
                key = state.registrations[state.holder].key
            body = key.to_bytes(8, "big") + bytes(5) + bytes([state.type]) + bytes(2)
        return reply(self._generation() + len(body).to_bytes(4, "big") + body, cdb.allocation_length)

    @handles(spc.ReportCapabilities, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def report_capabilities(self, cdb: spc.ReportCapabilities, task: Task) -> Response:
        # PTPL_C; TMV with every type; ALLOW COMMANDS 001b; PTPL_A as activated (SPC-5 table 186).
        flags = bytes([0x01, 0x80 | 0x10 | self.reservations.aptpl])
        types = sum(1 << t for t in ReservationType)
        mask = bytes([types & 0xFF, types >> 8])
        return reply((8).to_bytes(2, "big") + flags + mask + bytes(2), cdb.allocation_length)

    @handles(spc.ReadFullStatus, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_full_status(self, cdb: spc.ReadFullStatus, task: Task) -> Response:
        state, body = self.reservations, b""
        for nexus, registration in state.registrations.items():
            holds = state.is_holder(nexus)
            who = transport_id(nexus)
            kind = state.type if holds and state.type is not None else 0
            body += registration.key.to_bytes(8, "big") + bytes(4) + bytes([1 if holds else 0, kind]) + bytes(4)
            body += nexus.portal_group_tag.to_bytes(2, "big") + len(who).to_bytes(4, "big") + who
        return reply(self._generation() + len(body).to_bytes(4, "big") + body, cdb.allocation_length)

    def _generation(self) -> bytes:
        return (self.reservations.generation & 0xFFFFFFFF).to_bytes(4, "big")

    # ---- PERSISTENT RESERVE OUT ----------------------------------------------------------------------------------

    @handles(spc.Register, reservation=ALLOWED, while_busy=True)
    @handles(spc.RegisterAndIgnoreExistingKey, reservation=ALLOWED, while_busy=True)
    def register(self, cdb: spc.PersistentReserveOutCommand, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        if given.specify_initiator_ports:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, BasicParameterList.specify_initiator_ports)
        if given.all_target_ports:  # ATP_C is zero in REPORT CAPABILITIES
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, BasicParameterList.all_target_ports)
        state, nexus = self.reservations, task.nexus
        if nexus not in state.registrations and len(state.registrations) >= MAX_REGISTRATIONS:
            raise CheckCondition(sense.INSUFFICIENT_REGISTRATION_RESOURCES)
        tell = state.register(
            nexus,
            given.reservation_key,
            given.service_action_reservation_key,
            ignore_existing=(cdb.raw[1] & 0x1F) == spc.RegisterAndIgnoreExistingKey.service_action,
            aptpl=bool(given.activate_persist_through_power_loss),
        )
        self.establish_unit_attention(sense.RESERVATIONS_RELEASED, tell)
        self.save_reservations()

    @handles(spc.ReservePersistent, reservation=ALLOWED, while_busy=True)
    def reserve_persistent(self, cdb: spc.ReservePersistent, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        self.reservations.reserve_persistent(task.nexus, given.reservation_key, self._type(cdb))
        self.save_reservations()

    @handles(spc.ReleasePersistent, reservation=ALLOWED, while_busy=True)
    def release_persistent(self, cdb: spc.ReleasePersistent, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        tell = self.reservations.release_persistent(task.nexus, given.reservation_key, cdb.type)
        if tell is None:
            raise CheckCondition(sense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
        self.establish_unit_attention(sense.RESERVATIONS_RELEASED, tell)
        self.save_reservations()

    @handles(spc.ClearPersistent, reservation=ALLOWED, while_busy=True)
    def clear_persistent(self, cdb: spc.ClearPersistent, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        tell = self.reservations.clear(task.nexus, given.reservation_key)
        self.establish_unit_attention(sense.RESERVATIONS_PREEMPTED, tell)
        self.save_reservations()

    @handles(spc.Preempt, reservation=ALLOWED, while_busy=True)
    @handles(spc.PreemptAndAbort, reservation=ALLOWED, while_busy=True)
    def preempt(self, cdb: spc.PersistentReserveOutCommand, task: Task) -> None:
        self._no_legacy_reservation(task)
        given = self._basic(cdb, task)
        try:
            removed, released = self.reservations.preempt(
                task.nexus, given.reservation_key, given.service_action_reservation_key, self._type(cdb)
            )
        except ValueError as error:
            field = BasicParameterList.service_action_reservation_key
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field) from error
        if (cdb.raw[1] & 0x1F) == spc.PreemptAndAbort.service_action:
            self._abort_tasks(lambda t: t.nexus in removed)
            self.establish_unit_attention(sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, removed)
        self.establish_unit_attention(sense.REGISTRATIONS_PREEMPTED, removed)
        self.establish_unit_attention(sense.RESERVATIONS_RELEASED, released)
        self.save_reservations()

    @handles(spc.RegisterAndMove, reservation=ALLOWED, while_busy=True)
    def register_and_move(self, cdb: spc.RegisterAndMove, task: Task) -> None:
        self._no_legacy_reservation(task)
        data = bytes(task.data()[: cdb.parameter_list_length])
        if len(data) < RegisterAndMoveParameterList.length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        given = RegisterAndMoveParameterList.decode(data)
        to = self._destination(data, given, task.nexus)
        try:
            self.reservations.register_and_move(
                task.nexus,
                given.reservation_key,
                given.service_action_reservation_key,
                to,
                bool(given.unregister),
                bool(given.activate_persist_through_power_loss),
            )
        except ValueError as error:
            field = RegisterAndMoveParameterList.service_action_reservation_key
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field) from error
        self.save_reservations()

    def _destination(self, data: bytes, given: RegisterAndMoveParameterList, nexus: Nexus) -> Nexus:
        start = RegisterAndMoveParameterList.length
        raw = data[start : start + given.transport_id_length]
        if len(raw) < 8 or len(raw) < given.transport_id_length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        name, separator, isid = raw[4:].rstrip(b"\0").decode("utf-8", "replace").partition(",i,0x")
        if raw[0] != 0x45 or not separator:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, start)
        try:
            return Nexus(name, bytes.fromhex(isid), nexus.target_name, nexus.portal_group_tag)
        except ValueError as error:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, start) from error

    # ---- checks --------------------------------------------------------------------------------------------------

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
