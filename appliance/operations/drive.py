"""Tape drives: adding, removing and listing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.reach import in_reach, refuse_beyond
from appliance.operations.verb import Nothing, OnFiles, OnLibrary, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from vlib_images.library.elements import Element

Name = Annotated[str, Positional("NAME"), Field(description="The drive.")]


class DriveDetails(Result):
    """A drive. served: by a daemon that runs."""

    name: str
    model: str
    place: str
    cartridge: str | None
    served: bool


class CreateDrive(Parameters):
    name: Annotated[str, Positional("NAME"), Field(description="A new device name: lower case, for example drive2.")]
    model: Annotated[
        str | None, Field(description="`tapebay models` lists them; by default that of the last drive.")
    ] = None
    serial: Annotated[str | None, Field(description="By default made from the library's identity.")] = None
    compression: Annotated[bool, Field(description="Compress until an initiator decides.")] = False


class OneDrive(Parameters):
    name: Name


@verb("drive.list", Scope.READ, key=("name",), confinable=True)
def list_(context: OnFiles, parameters: Nothing) -> list[DriveDetails]:
    """List the drives, in the order of their element addresses."""
    positions = range(len(context.files.settings.drives))
    return [_drive(context, position) for position in positions if in_reach(context, _element(context, position))]


@verb("drive.show", Scope.READ, confinable=True)
def show(context: OnFiles, parameters: OneDrive) -> DriveDetails:
    """One drive: its model, its place and what it holds."""
    position = _position(context, parameters.name)
    refuse_beyond(context, _element(context, position))
    return _drive(context, position)


@verb("drive.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: CreateDrive) -> DriveDetails:
    """Add a drive behind the last one; where the library is served, at once, and initiators are told."""
    from appliance.settings.sections import DriveSettings

    content.refuse_known(context, parameters.name)
    drives = context.files.settings.drives
    model = parameters.model or (drives[-1].model if drives else None)
    settings = {**parameters.model_dump(exclude={"model"}), "model": model}
    drive = content.section(DriveSettings, **settings)
    content.change(context, lambda now: {"drives": [*now.drives, drive]})
    return _drive(context, len(drives))


@verb("drive.remove", Scope.ADMINISTER, changes="drive.show")
def remove(context: OnFiles, parameters: OneDrive) -> DriveDetails:
    """Remove a drive, which must be empty; those behind it move up, so they must be empty too."""
    drives = context.files.settings.drives
    position = _position(context, parameters.name)
    gone = _drive(context, position)
    for at in range(position, len(drives)):
        row = _drive(context, at)
        if row.cartridge is not None:
            message = f"cartridge {row.cartridge} is in {row.name}; unload it first: tapebay unload {row.name}"
            raise OperatorError(Failure.REFUSED, message)
    others = [drive for drive in drives if drive.name != parameters.name]
    content.change(context, lambda now: {"drives": others})
    return gone.model_copy(update={"served": False})


def _position(context: OnFiles, name: str) -> int:
    drives = context.files.settings.drives
    return drives.index(content.found(drives, lambda drive: drive.name == name, f"drive {name}"))


def _element(context: OnFiles, position: int) -> Element | None:
    """Where a drive is; None: in no place of the robot's yet."""
    inventory = context.files.inventory
    addresses = inventory.layout.drives
    return inventory.element(addresses[position]) if position < len(addresses) else None


def _drive(context: OnFiles, position: int) -> DriveDetails:
    from appliance.operations.places import format_place

    section = context.files.settings.drives[position]
    layout, element = context.files.settings.layout(), _element(context, position)
    return DriveDetails(
        name=section.name,
        model=section.model,
        place=format_place(element) if element else f"drive:{len(layout.drives) - 1}",
        cartridge=element.barcode if element else None,
        served=isinstance(context, OnLibrary) and section.name in context.library.units,
    )
