"""PERSISTENT RESERVE IN (SPC-5 6.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import PERSISTENT_ALLOWED, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.reservations import ReservationType
from scsi_targets.devices.unit.transport_id import transport_id
from scsi_targets.t10 import spc
from scsi_targets.t10.fields import integers
from scsi_targets.t10.persistent_reservation import (
    FullStatusDescriptor,
    PersistentReserveInHeader,
    ReservationCapabilities,
    ReservationDescriptor,
)

if TYPE_CHECKING:
    from scsi_targets.devices.unit.logical_unit import LogicalUnit
    from scsi_targets.devices.unit.task import Response, Task

LOGICAL_UNIT_SCOPE = 0


class PersistentReserveIn(Part):
    """Tells keys, reservation, capabilities and registrations."""

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit

    @handles(spc.ReadKeys, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_keys(self, cdb: spc.ReadKeys, task: Task) -> Response:
        keys = self._unit.reservations.registrations.values()
        return self._parameter_data(integers(keys, 8), cdb)

    @handles(spc.ReadReservation, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_reservation(self, cdb: spc.ReadReservation, task: Task) -> Response:
        state = self._unit.reservations
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
            persist_through_power_loss_activated=self._unit.reservations.aptpl,
            persistent_reservation_type_mask=(types & 0xFF) << 8 | types >> 8,
        )
        return reply(data, cdb.allocation_length)

    @handles(spc.ReadFullStatus, reservation=PERSISTENT_ALLOWED, while_busy=True)
    def read_full_status(self, cdb: spc.ReadFullStatus, task: Task) -> Response:
        state, body = self._unit.reservations, b""
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
        generation = self._unit.reservations.generation & 0xFFFFFFFF
        header = PersistentReserveInHeader.encode(generation=generation, additional_length=len(body))
        return reply(header + body, cdb.allocation_length)
