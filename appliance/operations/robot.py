"""load, unload, move: cartridges between elements, the drives and the shelf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.cartridge import still
from appliance.operations.reach import refuse_beyond, refuse_unknown
from appliance.operations.verb import OnLibrary, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from vlib_images.library.elements import Element

CartridgeOrPlace = Annotated[
    str, Positional("CARTRIDGE"), Field(description="Barcode, or the place where it is (slot:1).")
]
DriveName = Annotated[str, Positional("DRIVE"), Field(description="drive:0, drive:1, ... or the drive's name.")]


Force = Annotated[
    bool,
    Field(description="Also when it is being written, reserved or locked by an initiator (it is logged)."),
]


class LoadDrive(Parameters):
    cartridge: CartridgeOrPlace
    drive: DriveName = "drive:0"
    force: Force = False


class UnloadDrive(Parameters):
    drive: DriveName = "drive:0"
    to: Annotated[str | None, Positional("TO"), Field(description="Where to; by default the slot it came from.")] = None
    force: Force = False


class MoveCartridge(Parameters):
    cartridge: CartridgeOrPlace
    to: Annotated[str, Positional("TO"), Field(description="The place to move it to.")]
    force: Force = False


class Moved(Result):
    """What went from where to where."""

    barcode: str
    source: str = Field(serialization_alias="from", validation_alias="from")
    to: str


def _the_cartridge(context: OnLibrary, parameters: LoadDrive | MoveCartridge) -> dict[str, Any]:
    """The one that is moved, as `cartridge show` knows it."""
    cartridge, inventory = parameters.cartridge, context.files.inventory
    if cartridge in inventory:
        return {"barcode": cartridge}
    source = _source(context, cartridge)
    refuse_beyond(context, source)
    if source is None or source.barcode is None:
        raise OperatorError(Failure.NOT_FOUND, f"{cartridge} holds no cartridge")
    return {"barcode": source.barcode}


def _the_drive(context: OnLibrary, parameters: UnloadDrive) -> dict[str, Any]:
    """The one that is unloaded, as `drive show` knows it."""
    address = _drive(context, parameters.drive).address
    return {"name": next(name for name, at in context.drives.items() if at == address)}


@verb("load", Scope.OPERATE, confinable=True, changes="cartridge.show", still=still, seen=_the_cartridge)
def load(context: OnLibrary, parameters: LoadDrive) -> Moved:
    """Load a cartridge into a drive; one that is loaded there already stays as it is."""
    _drive(context, parameters.drive)
    return _move(context, parameters.cartridge, parameters.drive, parameters.force)


@verb("unload", Scope.OPERATE, confinable=True, changes="drive.show", still=still, seen=_the_drive)
def unload(context: OnLibrary, parameters: UnloadDrive) -> Moved:
    """Take the cartridge out of a drive, back to its slot."""
    element = _drive(context, parameters.drive)
    if element.barcode is None:
        raise OperatorError(Failure.REFUSED, f"{parameters.drive} is empty")
    return _move(context, element.barcode, parameters.to or _home_of(context, element), parameters.force)


@verb("move", Scope.OPERATE, confinable=True, changes="cartridge.show", still=still, seen=_the_cartridge)
def move(context: OnLibrary, parameters: MoveCartridge) -> Moved:
    """Move a cartridge to another place, also of another partition, or between the library and the shelf."""
    return _move(context, parameters.cartridge, parameters.to, parameters.force, between_partitions=True)


def _drive(context: OnLibrary, name: str) -> Element:
    from vlib_images.library.elements import ElementType

    element = _place(context, name)
    if element is None or element.type is not ElementType.DRIVE:
        raise OperatorError(Failure.USAGE, f"{name} is not a drive")
    refuse_beyond(context, element)
    return element


def _home_of(context: OnLibrary, drive: Element) -> str:
    from appliance.operations.places import format_place

    home = context.library.robot.home_of(drive.address)
    if home is None:
        raise OperatorError(Failure.REFUSED, "no slot is free; say where to put the cartridge")
    return format_place(context.files.inventory.element(home))


def _move(context: OnLibrary, cartridge: str, to: str, force: bool, *, between_partitions: bool = False) -> Moved:
    """`force` also takes what is in use, reserved or locked by an initiator."""
    from appliance.operations.places import format_place
    from scsi_targets.devices.changer.robot import RemovalPrevented
    from vlib_images.library.homes import homes

    source = _source(context, cartridge)
    destination = _place(context, to)
    refuse_beyond(context, source, destination)
    if destination is not None and destination.barcode is not None and destination != source:
        raise OperatorError(Failure.REFUSED, f"{to} holds cartridge {destination.barcode}")
    owner = homes(context.files.inventory).get(destination.address) if destination is not None else None
    try:
        barcode = _carry(context, cartridge, source, destination, force, between_partitions)
    except RemovalPrevented as error:
        raise OperatorError(Failure.REFUSED, f"{error} (--force insists)") from error
    moved = {"barcode": barcode, "from": format_place(source), "to": format_place(destination)}
    context.log.info("cartridge moved by the operator", force=force, **moved)
    if owner not in (None, barcode):
        context.log.warning("a slot was filled that a loaded cartridge came from", cartridge=owner, slot=moved["to"])
    return Moved.model_validate(moved)


def _carry(
    context: OnLibrary,
    cartridge: str,
    source: Element | None,
    destination: Element | None,
    force: bool,
    between_partitions: bool,
) -> str:
    """None is the shelf. The barcode of what was moved."""
    from scsi_targets.devices.changer.robot import Manner

    manner = Manner.FORCE if force else Manner.OPERATOR
    robot = context.library.robot
    if source is not None and destination is not None:
        ends = source.address, destination.address
        return robot.move(*ends, manner=manner, between_partitions=between_partitions)
    if source is not None:
        return robot.remove(source.address, manner=manner)
    if destination is not None:
        robot.insert(cartridge, destination.address, manner=manner)
        return cartridge
    raise OperatorError(Failure.REFUSED, f"cartridge {cartridge} is on the shelf already")


def _source(context: OnLibrary, cartridge: str) -> Element | None:
    """Where a cartridge is, by barcode or by place; None: the shelf, and then it is a barcode."""
    inventory = context.files.inventory
    if cartridge in inventory:
        refuse_unknown(context, cartridge)
        return inventory.find(cartridge)
    if not {":", "/"} & set(cartridge) and not cartridge.isdecimal() and cartridge not in context.drives:
        raise OperatorError(Failure.NOT_FOUND, f"there is no cartridge {cartridge}; see: tapebay cartridge list")
    return _place(context, cartridge)


def _place(context: OnLibrary, text: str) -> Element | None:
    from appliance.operations.places import parse_place

    partitions = context.files.partitions() if "/" in text else ()
    return parse_place(context.files.inventory, context.drives, text, partitions)
