"""Tape drives: adding, removing and listing them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, OnLibrary, Parameters, Positional, Result, Scope, verb

Name = Annotated[str, Positional("NAME"), Field(description="The drive.")]


class Drive(Result):
    """A drive. served: by a daemon that runs."""

    name: str
    model: str
    place: str
    cartridge: str | None
    served: bool


class Create(Parameters):
    name: Annotated[str, Positional("NAME"), Field(description="A new device name: lower case, for example drive2.")]
    model: Annotated[
        str | None, Field(description="`tapebay models` lists them; by default that of the last drive.")
    ] = None
    serial: Annotated[str | None, Field(description="By default made from the library's identity.")] = None
    compression: Annotated[bool, Field(description="Compress until an initiator decides.")] = False


class OneDrive(Parameters):
    name: Name


@verb("drive.list", Scope.READ, key=("name",))
def list_(context: OnFiles, parameters: Nothing) -> list[Drive]:
    """List the drives, in the order of their element addresses."""
    return [_drive(context, position) for position in range(len(context.files.settings.drives))]


@verb("drive.show", Scope.READ)
def show(context: OnFiles, parameters: OneDrive) -> Drive:
    """One drive: its model, its place and what it holds."""
    return _drive(context, _position(context, parameters.name))


@verb("drive.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: Create) -> Drive:
    """Add a drive behind the last one; where the library is served, at once, and initiators are told."""
    from appliance.settings.settings import DriveSettings

    content.refuse_known(context, parameters.name)
    drives = context.files.settings.drives
    model = parameters.model or (drives[-1].model if drives else None)
    settings = {**parameters.model_dump(exclude={"model"}), "model": model}
    drive = content.section(DriveSettings, **settings)
    content.change(context, lambda now: {"drives": [*now.drives, drive]})
    return _drive(context, len(drives))


@verb("drive.remove", Scope.ADMINISTER, changes="drive.show")
def remove(context: OnFiles, parameters: OneDrive) -> Drive:
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


def _drive(context: OnFiles, position: int) -> Drive:
    from appliance.operations.places import format_place

    section = context.files.settings.drives[position]
    layout, inventory = context.files.settings.layout(), context.files.inventory
    there = position < len(inventory.layout.drives)
    element = inventory.element(inventory.layout.drives[position]) if there else None
    return Drive(
        name=section.name,
        model=section.model,
        place=format_place(element) if element else f"drive:{len(layout.drives) - 1}",
        cartridge=element.barcode if element else None,
        served=isinstance(context, OnLibrary) and section.name in context.library.units,
    )
