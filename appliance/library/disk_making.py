"""Making, importing, exporting and growing the disks of a library: their images, and what the library keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from appliance.failures import Failure, OperatorError
from appliance.library.change import change, change_contents
from appliance.library.disks import KnownDisks, describe_one, make_image, open_image, refuse_own_file
from appliance.library.files import LibraryFiles
from appliance.library.snapshots.states import Terms
from appliance.progress import Progress
from appliance.settings.content import Content
from appliance.settings.problems import problems_of
from appliance.settings.sections import DiskSettings
from appliance.settings.settings import Settings
from appliance.settings.units import LEAST_MEDIUM_BYTES, format_size, parse_size_of_at_least
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.identity import Identity
from vlib_images.disk import convert as disk_convert
from vlib_images.disk.convert import ConversionFailed, ConverterMissing
from vlib_images.disk.raw import DiskImage, DiskInUse, NotADisk
from vlib_images.disk.snapshot import SnapshotEnded

if TYPE_CHECKING:
    from appliance.library.library import Library


def create(
    files: LibraryFiles, name: str, size: str, *, library: Library | None = None, **options: Any
) -> dict[str, Any]:
    """Make a sparse image for a new disk, and the disk part of what the library contains; `library` serves it at once.

    options: of DiskSettings. Raises OperatorError: USAGE for what no disk can be, REFUSED when the name or the image is
    taken; then nothing has changed.
    """
    disk = _section(name, _least(size), **options)
    return _add(files, library, disk, lambda image: make_image(image, int(disk.size or 0)))


def import_disk(
    files: LibraryFiles,
    name: str,
    source: Path,
    *,
    library: Library | None = None,
    block_size: int = 512,
    progress: Progress,
) -> dict[str, Any]:
    """Make a new disk from an image of any format that qemu-img knows; raises as create() does, and OperatorError
    REFUSED for what cannot be converted."""
    with _conversion_errors():
        size = disk_convert.virtual_size(source)
        disk = _section(name, size, block_size=block_size)
        return _add(files, library, disk, lambda image: _import(source, image, _of_bytes(progress, size)))


def fill_disk(
    files: LibraryFiles,
    name: str,
    size_bytes: int,
    fill: Callable[[BlockDevice], None],
    *,
    library: Library | None = None,
    block_size: int = 512,
) -> dict[str, Any]:
    """Make a new disk of zeros and what `fill` writes to its unit, which nobody sees before that is done. Raises as
    create() does, and what `fill` raises; then there is no disk."""
    size = max(-(-size_bytes // block_size) * block_size, LEAST_MEDIUM_BYTES)
    disk = _section(name, str(size), block_size=block_size)
    return _add(files, library, disk, lambda image: _fill(image, size, block_size, fill))


def _fill(image: Path, size_bytes: int, block_size: int, fill: Callable[[BlockDevice], None]) -> None:
    make_image(image, size_bytes)
    try:
        identity = Identity("TAPEBAY", "VIRTUAL DISK", "0100", image.stem[:32])
        unit = BlockDevice(identity, DiskImage.open(image), block_length=block_size)
        try:
            fill(unit)
            unit.flush()
        finally:
            unit.close()
    except BaseException:
        image.unlink()
        raise


def _import(source: Path, image: Path, progress: disk_convert.FractionDone) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    disk_convert.import_image(source, image, progress=progress)


def export_disk(
    settings: Settings,
    name: str,
    destination: Path,
    image_format: str,
    *,
    library: Library | None = None,
    progress: Progress,
) -> None:
    """Write a disk's content to a new image of another format; where `library` serves it, of one instant. Raises
    OperatorError: NOT_FOUND, IN_USE where another process serves it, USAGE for a format nobody knows, REFUSED."""
    disk = _find(settings, name)
    if image_format not in disk_convert.EXPORT_FORMATS:
        raise OperatorError(Failure.USAGE, f"{image_format} is none of {', '.join(disk_convert.EXPORT_FORMATS)}")
    with _conversion_errors():
        if library is not None and name in library.disks():
            _export_served(library, name, destination, image_format, progress)
            return
        image = settings.image_of(disk)
        disk_convert.export_image(image, destination, image_format, progress=_of_bytes(progress, _length_of(image)))


def _export_served(library: Library, name: str, destination: Path, image_format: str, progress: Progress) -> None:
    """What has been read is given back to the snapshot at once, so it seldom has to keep much of what is written
    meanwhile. It has no lease: a stop of the daemon ends it with the verb."""
    kept = library.snapshots.create([name], terms=Terms(lease_seconds=None, list_seconds=None), release="read")
    try:
        disk_convert.export_instant(
            kept.images[name],
            destination,
            image_format,
            progress=_of_bytes(progress, kept.sizes[name]),
            read=lambda: library.snapshots.release(kept),
        )
    except SnapshotEnded as error:
        message = f"disk {name} could not be held as it was while it was read: {kept.over_because or error}; try again"
        raise OperatorError(Failure.REFUSED, message) from None
    finally:
        library.snapshots.release(kept)


def _of_bytes(progress: Progress, total: int) -> disk_convert.FractionDone:
    """Fractions as qemu-img reports them, in bytes."""
    return lambda fraction: progress(int(fraction * total), total)


def _section(name: str, size: Any, **options: Any) -> DiskSettings:
    try:
        return DiskSettings(name=name, size=size, **options)
    except ValidationError as error:
        raise OperatorError(Failure.USAGE, "\n".join(problems_of(error, DiskSettings))) from None


def _least(size: str) -> str:
    try:
        parse_size_of_at_least(size, LEAST_MEDIUM_BYTES)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, f"size: {error}") from None
    return size


@contextmanager
def _conversion_errors() -> Iterator[None]:
    try:
        yield
    except DiskInUse as error:
        message = f"{error}; stop the daemon first, so that the copy is of one moment"
        raise OperatorError(Failure.IN_USE, message) from None
    except (ConversionFailed, ConverterMissing, NotADisk) as error:
        raise OperatorError(Failure.REFUSED, str(error)) from None


def grow(files: LibraryFiles, name: str, size: str, library: Library | None) -> dict[str, Any]:
    """Make a disk larger: its image grows at once; where `library` serves it, initiators are told.

    Returns the disk as describe() does. Raises OperatorError NOT_FOUND, USAGE, REFUSED when it is not larger or cannot
    grow now; then nothing has changed."""
    with files.changing:
        before = files.contents.content
        disk = _find(files.settings, name)
        larger = _section(**{**dict(disk), "size": _least(size)})
        present = max(disk.size or 0, _length_of(files.settings.image_of(disk)))
        if (larger.size or 0) <= present:
            raise OperatorError(Failure.REFUSED, f"disk {name} has {format_size(present)} already; it can only grow")
        disks = [larger if other.name == name else other for other in before.disks]
        after = before.model_copy(update={"disks": disks})
        if library:
            change(library, after)
        else:
            _grow_unserved(files, after, larger)
    return describe_one(files.settings, larger, KnownDisks(files.store))


def _grow_unserved(files: LibraryFiles, after: Content, disk: DiskSettings) -> None:
    """What the file system cannot hold is said now, not by a disk that the next start cannot serve."""
    refuse_own_file(files.settings, disk)
    before = files.contents.content
    files.contents.change(after)
    try:
        open_image(disk, files.settings.image_of(disk), KnownDisks(files.store)).close()
    except BaseException:
        files.contents.change(before)
        raise


def _find(settings: Settings, name: str) -> DiskSettings:
    for disk in settings.disks:
        if disk.name == name:
            return disk
    raise OperatorError(Failure.NOT_FOUND, f"there is no disk {name}; see: tapebay disk list")


def _length_of(image: Path) -> int:
    try:
        return image.stat().st_size
    except FileNotFoundError:
        return 0


def _add(
    files: LibraryFiles, library: Library | None, disk: DiskSettings, make: Callable[[Path], None]
) -> dict[str, Any]:
    """Make the disk part of the library, when its image is made; that may take long and holds nobody up."""
    _with(files, disk)
    image = files.settings.image_of(disk)
    try:
        make(image)
    except FileExistsError:
        message = f"{image} exists already; choose another name, or remove it first"
        raise OperatorError(Failure.REFUSED, message) from None
    try:
        with files.changing:
            change_contents(files, library, _with(files, disk))
    except BaseException:
        image.unlink()
        raise
    # From now on, not from its first start on: its file system may be gone by then.
    known = KnownDisks(files.store)
    known.remember(disk.name, image, image.stat().st_size)
    return describe_one(files.settings, disk, known)


def _with(files: LibraryFiles, disk: DiskSettings) -> Content:
    """The library's content and the disk. Raises OperatorError REFUSED when it cannot have it."""
    if disk.name in files.settings.device_names():
        raise OperatorError(Failure.REFUSED, f"there is a device {disk.name} already; choose another name")
    content = files.contents.content
    return files.contents.checked(content.model_copy(update={"disks": [*content.disks, disk]}))


def remove(files: LibraryFiles, name: str, library: Library | None) -> dict[str, Any]:
    """A disk is no longer part of the library; its image stays where it is. Raises OperatorError NOT_FOUND, REFUSED."""
    with files.changing:
        content = files.contents.content
        disk = _find(files.settings, name)
        row = describe_one(files.settings, disk, KnownDisks(files.store))
        others = [other for other in content.disks if other.name != name]
        change_contents(files, library, content.model_copy(update={"disks": others}))
        KnownDisks(files.store).forget_others(other.name for other in others)
    return row
