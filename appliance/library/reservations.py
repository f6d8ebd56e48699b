"""The reservations of initiators as an operator sees them, and breaks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from appliance.failures import Failure, OperatorError
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.reservations import Reservations
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one nexus has of one device. kind: "reserve" (RESERVE), "reservation" or "registration" (PERSISTENT RESERVE
    OUT). holder: others are kept out for its sake. isid: 12 hexadecimal digits; key: 16. survives: a loss of power."""

    device: str
    kind: str
    type: str
    initiator: str
    isid: str
    principal: str
    target: str
    key: str
    holder: bool
    logged_in: bool
    survives: bool


def reservations_of(name: str, unit: LogicalUnit) -> list[Reservation]:
    """Of the device `name`: RESERVE, then the registrations."""
    held = unit.reservations
    return [_reservation(name, unit, held, nexus) for nexus in _nexuses(held)]


def break_reservations(unit: LogicalUnit, whose: Callable[[Nexus], bool]) -> int:
    """Take from nexuses what they have reserved and registered; those that are logged in are told (2A/03), and so are
    registrants whose reservation went with it (2A/04). How many it were. Raises OperatorError REFUSED when the store
    cannot keep it; then nothing has changed."""
    try:
        with unit.changed_reservations(preempts=True) as after:
            lost, released = after.withdraw([nexus for nexus in _nexuses(after) if whose(nexus)])
    except CheckCondition as error:
        raise OperatorError(Failure.REFUSED, f"the reservations cannot be broken now: {error}") from error
    unit.establish_unit_attention(sense.RESERVATIONS_PREEMPTED, lost)
    unit.establish_unit_attention(sense.RESERVATIONS_RELEASED, released)
    return len(lost)


def _nexuses(held: Reservations) -> Iterator[Nexus]:
    if held.legacy_holder is not None:
        yield held.legacy_holder
    yield from held.registrations


def _reservation(name: str, unit: LogicalUnit, held: Reservations, nexus: Nexus) -> Reservation:
    legacy, holder = nexus == held.legacy_holder, held.is_holder(nexus)
    return Reservation(
        device=name,
        kind="reserve" if legacy else "reservation" if holder else "registration",
        type=held.type.name.lower().replace("_", " ") if holder and held.type is not None else "",
        initiator=nexus.initiator_name,
        isid=nexus.isid.hex(),
        principal=str(nexus.principal),
        target=nexus.target_name,
        key="" if legacy else f"{held.registrations[nexus]:016x}",
        holder=legacy or holder,
        logged_in=nexus in unit.nexuses,
        survives=held.aptpl and not legacy,
    )
