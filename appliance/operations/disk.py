"""Disks: making, importing, exporting, growing and listing them.

What the library contains changes, tapebay.toml does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict

from appliance.operations.content import found
from appliance.operations.verb import (
    SIZE,
    Nothing,
    OnFiles,
    Parameters,
    Positional,
    Result,
    Scope,
    library_of,
    verb,
)

Name = Annotated[str, Positional("NAME"), Field(description="The disk.")]
NewName = Annotated[str, Positional("NAME"), Field(description="A new device name: lower case, for example backup.")]
BlockSize = Annotated[Literal[512, 4096], Field(description="512 or 4096 bytes.")]


class DiskDetails(Result):
    """A disk; stored_bytes is what its image takes on the file system, None without an image."""

    name: str
    size_bytes: int | None
    stored_bytes: int | None
    block_size: int
    read_only: bool
    removable: bool
    image: str
    served: bool = Field(description="Whether initiators can use it now.")
    identifier: str | None = Field(
        None, description='What initiators know it by while it is served: "naa." and 16 hexadecimal digits.'
    )
    problem: str | None = Field(None, description="What is lost of a disk whose image is missing or was cut short.")


class Exported(Result):
    """The image that was made."""

    name: str
    image: str
    format: str


class CreateDisk(Parameters):
    name: NewName
    size: Annotated[str, SIZE, Positional("SIZE"), Field(description='"10 GiB", 10G, "500 GB" or a number of bytes.')]
    block_size: BlockSize = 512
    removable: Annotated[bool, Field(description="Initiators may eject it.")] = False
    read_only: Annotated[bool, Field(description="Initiators cannot write it.")] = False


class ImportDisk(Parameters):
    name: NewName
    file: Annotated[Path, Strict(False), Positional("FILE"), Field(description="A raw, qcow2, VMDK, VHDX, ... image.")]
    block_size: BlockSize = 512


class ExportDisk(Parameters):
    name: Name
    file: Annotated[Path, Strict(False), Positional("FILE"), Field(description="The image to make.")]
    format: Annotated[
        str | None, Field(description="qcow2, vmdk, vhdx, vdi, vpc or raw; by default the file's suffix.")
    ] = None


class OneDisk(Parameters):
    name: Name


class GrowDisk(Parameters):
    name: Name
    size: Annotated[str, SIZE, Positional("SIZE"), Field(description='The new size: "20 GiB" or a number of bytes.')]


@verb("disk.list", Scope.READ, key=("name",))
def list_(context: OnFiles, parameters: Nothing) -> list[DiskDetails]:
    """List the disks and their images."""
    from appliance.library import disks

    return [
        _disk(context, row) for row in disks.describe(context.files.settings, disks.KnownDisks(context.files.store))
    ]


@verb("disk.show", Scope.READ)
def show(context: OnFiles, parameters: OneDisk) -> DiskDetails:
    """One disk and its image."""
    return found(list_(context, Nothing()), lambda disk: disk.name == parameters.name, f"disk {parameters.name}")


@verb("disk.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: CreateDisk) -> DiskDetails:
    """Make a disk of a sparse image."""
    from appliance.library import disk_making

    options = parameters.model_dump(exclude={"name", "size"})
    library = library_of(context)
    return _disk(
        context, disk_making.create(context.files, parameters.name, parameters.size, library=library, **options)
    )


@verb("disk.import", Scope.ADMINISTER, reports_progress=True)
def import_(context: OnFiles, parameters: ImportDisk) -> DiskDetails:
    """Make a disk from an image of another format. Needs qemu-img."""
    from appliance.library import disk_making

    made = disk_making.import_disk(
        context.files,
        parameters.name,
        parameters.file,
        library=library_of(context),
        block_size=parameters.block_size,
        progress=context.progress,
    )
    return _disk(context, made)


@verb("disk.export", Scope.ADMINISTER, reports_progress=True)
def export(context: OnFiles, parameters: ExportDisk) -> Exported:
    """Write a disk to an image of another format; one that is served, as it is at one instant. Needs qemu-img."""
    from appliance.library import disk_making

    image_format = parameters.format or parameters.file.suffix.removeprefix(".")
    disk_making.export_disk(
        context.files.settings,
        parameters.name,
        parameters.file,
        image_format,
        library=library_of(context),
        progress=context.progress,
    )
    return Exported(name=parameters.name, image=str(parameters.file), format=image_format)


@verb("disk.grow", Scope.ADMINISTER, changes="disk.show")
def grow(context: OnFiles, parameters: GrowDisk) -> DiskDetails:
    """Make a disk larger; where it is served, at once, and initiators are told."""
    from appliance.library import disk_making

    return _disk(context, disk_making.grow(context.files, parameters.name, parameters.size, library_of(context)))


@verb("disk.remove", Scope.ADMINISTER, changes="disk.show")
def remove(context: OnFiles, parameters: OneDisk) -> DiskDetails:
    """Take a disk out of the library, at once where it is served; its image stays where it is."""
    from appliance.library import disk_making

    return _disk(context, disk_making.remove(context.files, parameters.name, library_of(context)))


def _disk(context: OnFiles, row: dict[str, object]) -> DiskDetails:
    library = library_of(context)
    unit = None if library is None else library.units.get(str(row["name"]))
    identifier = None if unit is None else f"naa.{unit.identity.naa.hex()}"
    return DiskDetails.model_validate({**row, "served": unit is not None, "identifier": identifier})
