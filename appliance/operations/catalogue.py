"""The catalogue: which file is where on which cartridge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from appliance.operations.backup import DriveName, Number, refusals
from appliance.operations.verb import Nothing, OnLibrary, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.backup.catalogue import Catalogue, File
    from appliance.backup.chain import Link

FileLimit = Annotated[int, Field(ge=1, le=100_000, description="How many files at most.")]
KINDS: dict[bytes, str] = {
    b"0": "file", b"1": "hard link", b"2": "symbolic link", b"3": "character device", b"4": "block device",
    b"5": "directory", b"6": "fifo",
}  # fmt: skip
BLOCK_BYTES = 256 << 10


class CatalogueDetails(Result):
    """The catalogue of one backup."""

    backup: int
    identifier: str
    disks: list[str]
    cartridges: list[str]
    files: int
    content_bytes: int


class FileLocation(Result):
    """Where a file, or a part of one, begins."""

    cartridge: str
    block: int = Field(description="Of the tape, from its beginning, in blocks of 256 KiB: `mt seek`.")
    content_bytes: int
    lost: bool = Field(description="Another backup was written over the cartridge.")


class CataloguedFile(Result):
    """A file that is on tape."""

    backup: int
    name: str
    kind: Literal["file", "hard link", "symbolic link", "character device", "block device", "directory", "fifo"]
    size: int
    modified: float = Field(description="Seconds since 1970.")
    crc32c: str = Field(description="Of its content, holes left out; hexadecimal.")
    places: list[FileLocation]


class ShowCatalogue(Parameters):
    number: Number
    under: Annotated[str, Field(description="A folder, or a name with *, ? and [...].")] = "*"
    limit: FileLimit = 1000


class FindFiles(Parameters):
    pattern: Annotated[str, Positional("PATTERN"), Field(description="A folder, or a name with *, ? and [...].")]
    limit: FileLimit = 1000


class RebuildCatalogue(Parameters):
    cartridges: Annotated[list[str], Positional("CARTRIDGE..."), Field(min_length=1, description="The last is enough.")]
    drive: DriveName = None


@verb("catalogue.list", Scope.READ, key=("backup", "identifier"))
def list_(context: OnLibrary, parameters: Nothing) -> list[CatalogueDetails]:
    """List the catalogues: the backups of which it is known what is where."""
    from appliance.backup.catalogue import CatalogueDamaged

    found = []
    for record in context.library.backups.records.all():
        try:
            with context.library.backups.catalogue(record.number) as catalogue:
                found.append(_kept(context, record.number, catalogue))
        except (CatalogueDamaged, FileNotFoundError) as error:
            context.log.warning("a catalogue cannot be read", backup=record.number, reason=str(error))
    return found


@verb("catalogue.show", Scope.READ)
def show(context: OnLibrary, parameters: ShowCatalogue) -> list[CataloguedFile]:
    """List the files of a backup by name, with where they are.

    Of an increment these are all files of its instant, also those that the backups before it have."""
    with refusals(), context.library.backups.chain(parameters.number) as chain:
        found = chain.itself.catalogue.state(_pattern(parameters.under), parameters.limit)
        return [_shown(chain.of(kept.origin), kept.file) for kept in found]


@verb("catalogue.find", Scope.READ)
def find(context: OnLibrary, parameters: FindFiles) -> list[CataloguedFile]:
    """Find files in all backups by name, with where they are; the newest backups first."""
    from appliance.backup.chain import Link

    found: list[CataloguedFile] = []
    for kept in reversed(list_(context, Nothing())):
        if len(found) < parameters.limit:
            with refusals(), context.library.backups.catalogue(kept.backup) as catalogue:
                files = catalogue.find(_pattern(parameters.pattern), parameters.limit - len(found))
                found += [_shown(Link(kept.backup, catalogue), file) for file in files]
    return found


@verb("catalogue.rebuild", Scope.OPERATE, reports_progress=True)
def rebuild(context: OnLibrary, parameters: RebuildCatalogue) -> list[CatalogueDetails]:
    """Make catalogues anew from cartridges, which may be another library's."""
    with refusals():
        made = context.library.backups.rebuild(parameters.cartridges, parameters.drive, context.progress)
        found = []
        for record in made:
            with context.library.backups.catalogue(record.number) as catalogue:
                found.append(_kept(context, record.number, catalogue))
        return found


def _kept(context: OnLibrary, number: int, catalogue: Catalogue) -> CatalogueDetails:
    record = context.library.backups.records.get(number)
    files, content = catalogue.totals()
    return CatalogueDetails(
        backup=number,
        identifier=record.identifier,
        disks=list(record.disks),
        cartridges=[volume.barcode for volume in catalogue.volumes()],
        files=files,
        content_bytes=content,
    )


def _pattern(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _shown(link: Link, file: File) -> CataloguedFile:
    from appliance.backup.catalogue import entry_name

    return CataloguedFile.model_validate(
        {
            "backup": link.number,
            "name": entry_name(file),
            "kind": KINDS[file.kind.value],
            "size": file.size,
            "modified": file.modified_ns / 1e9,
            "crc32c": f"{file.crc32c:08x}",
            "places": [
                {
                    "cartridge": link.volumes[part.volume].barcode,
                    "lost": link.volumes[part.volume].lost,
                    "block": part.start // BLOCK_BYTES,
                    "content_bytes": part.content_bytes,
                }
                for part in link.catalogue.parts_of(file.number)
            ],
        }
    )
