"""Reservations that initiators hold: seeing them, and breaking those of dead servers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import Nothing, OnLibrary, Parameters, Positional, Result, Scope, Volatile, verb

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Nexus


class ReservationDetails(Result):
    """What one initiator port has of one device."""

    device: str
    kind: str = Field(description='"reserve" (RESERVE); "reservation" or "registration" (PERSISTENT RESERVE OUT).')
    type: str = Field(description='Of a persistent reservation, for example "exclusive access".')
    initiator: str
    isid: str
    principal: str
    target: str
    key: str
    holder: bool = Field(description="Others are kept out for its sake.")
    logged_in: Annotated[bool, Volatile()]
    survives: bool = Field(description="A loss of power (APTPL).")


class OneDevice(Parameters):
    device: Annotated[str, Positional("DEVICE"), Field(description="A drive, a disk, or a media changer.")]


class BreakReservation(OneDevice):
    initiator: Annotated[str | None, Field(description="Only what this initiator holds there.")] = None


@verb("reservation.list", Scope.READ, key=("device", "initiator", "isid", "target", "kind"))
def list_(context: OnLibrary, parameters: Nothing) -> list[ReservationDetails]:
    """List what initiators have reserved, and the registrations of persistent reservations."""
    return [one for name in context.library.units for one in _of(context, name)]


@verb("reservation.show", Scope.READ)
def show(context: OnLibrary, parameters: OneDevice) -> list[ReservationDetails]:
    """What initiators have reserved or registered of one device."""
    return _of(context, _known(context, parameters.device))


def _still(context: OnLibrary, parameters: OneDevice) -> AbstractContextManager[Any]:
    """Nobody else changes what is reserved of a device without it."""
    return context.library.units[_known(context, parameters.device)].reserving


@verb("reservation.break", Scope.OPERATE, changes="reservation.show", still=_still)
def break_(context: OnLibrary, parameters: BreakReservation) -> list[ReservationDetails]:
    """Take a device from who reserved it: all reservations and registrations, or those of one initiator."""
    from appliance.library.reservations import break_reservations
    from vlib_images.library.database.events import Event

    name, initiator = _known(context, parameters.device), parameters.initiator and parameters.initiator.lower()
    broken = [one for one in _of(context, name) if initiator in (None, one.initiator)]
    if not broken:
        holder = f" by {initiator}" if initiator else ""
        raise OperatorError(Failure.NOT_FOUND, f"{name} is not reserved{holder}; see: tapebay reservation list")
    details = {"of": [f"{one.initiator} ({one.principal}): {one.kind}" for one in broken]}
    with context.files.database.change(Event("reservations broken", name, details)):
        pass
    context.log.warning("reservations are broken by an operator", device=name, **details)

    def whose(nexus: Nexus) -> bool:
        return initiator in (None, nexus.initiator_name)

    break_reservations(context.library.units[name], whose)
    return broken


def _known(context: OnLibrary, name: str) -> str:
    if name not in context.library.units:
        known = ", ".join(context.library.units)
        raise OperatorError(Failure.NOT_FOUND, f"there is no device {name}; the library has {known}")
    return name


def _of(context: OnLibrary, name: str) -> list[ReservationDetails]:
    from appliance.library.reservations import reservations_of

    return [ReservationDetails.model_validate(one) for one in reservations_of(name, context.library.units[name])]
