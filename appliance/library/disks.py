"""Disks of a library: their images, and their sections in tapebay.toml."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from appliance.failures import Failure, OperatorError
from appliance.library.files import LibraryFiles
from appliance.settings import config_file
from appliance.settings.settings import DiskSettings, Settings
from appliance.settings.template import disk_section
from appliance.settings.units import format_size, parse_size
from vlib_images.atomic import write_atomically
from vlib_images.disk import convert as disk_convert
from vlib_images.disk.convert import ConversionFailed, ConverterMissing, Progress
from vlib_images.disk.raw import DiskImage, DiskInUse, NotADisk
from vlib_images.library.state import JsonValue, StateStore

log = structlog.get_logger(__name__)

DISKS = "disks"  # the namespace of the state store that remembers which images there were


class Known:
    """Which disks of a library have been there, with their sizes. A disk is remembered from its first use on."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def size_bytes(self, name: str) -> int | None:
        """The size that the image of a disk had when it was last opened; None: it never was. Raises StateDamaged."""
        match self._store.get(DISKS, name):
            case {"size_bytes": int() as size_bytes}:
                return size_bytes
        return None

    def remember(self, name: str, image: Path, size_bytes: int) -> None:
        """That it is there now. Where that cannot be stored it is said, and the disk is served all the same."""
        row: dict[str, JsonValue] = {"image": str(image), "size_bytes": size_bytes}
        try:
            if self._store.get(DISKS, name) != row:
                self._store.put(DISKS, name, row)
        except OSError as error:
            log.warning("a disk could not be remembered", disk=name, reason=str(error))

    def forget_others(self, names: Iterable[str]) -> None:
        """Disks that the library no longer has: a new one of the same name is a new one. Raises OSError."""
        gone = self._store.items(DISKS).keys() - set(names)
        if gone:
            self._store.update(DISKS, dict.fromkeys(gone))


def create(
    path: Path, name: str, size: str, *, block_size: int = 512, removable: bool = False, read_only: bool = False
) -> dict[str, Any]:
    """Make a sparse image for a new disk and add its section to the configuration file at `path`.

    The file keeps its comments: the section goes to its end. Raises ConfigError when the result would not be a valid
    configuration, OperatorError REFUSED when the image exists; then nothing has changed.
    """
    section = disk_section(name, size, block_size=block_size, removable=removable, read_only=read_only)
    return _add(path, section, lambda image: make_image(image, parse_size(size)))


def import_disk(
    path: Path, name: str, source: Path, *, block_size: int = 512, progress: Progress | None = None
) -> dict[str, Any]:
    """Make a new disk from an image of any format that qemu-img knows, as create() does; what create() raises, and
    OperatorError REFUSED for what cannot be converted."""
    with _conversion_errors():
        size = disk_convert.virtual_size(source)
        section = disk_section(name, str(size), block_size=block_size)
        return _add(path, section, lambda image: _import(source, image, progress))


def _import(source: Path, image: Path, progress: Progress | None) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    disk_convert.import_image(source, image, progress=progress)


def export_disk(
    settings: Settings, name: str, destination: Path, image_format: str, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Write a disk's content to a new image of another format. Raises OperatorError: NOT_FOUND, IN_USE while the disk
    is served, USAGE for a format nobody knows, REFUSED."""
    disk = _find(settings, name)
    if image_format not in disk_convert.EXPORT_FORMATS:
        raise OperatorError(Failure.USAGE, f"{image_format} is none of {', '.join(disk_convert.EXPORT_FORMATS)}")
    with _conversion_errors():
        disk_convert.export_image(settings.image_of(disk), destination, image_format, progress=progress)
    return {"name": name, "image": str(destination), "format": image_format}


@contextmanager
def _conversion_errors() -> Iterator[None]:
    try:
        yield
    except DiskInUse as error:
        message = f"{error}; stop the daemon first, so that the copy is of one moment"
        raise OperatorError(Failure.IN_USE, message) from None
    except (ConversionFailed, ConverterMissing, NotADisk) as error:
        raise OperatorError(Failure.REFUSED, str(error)) from None


def grow(path: Path, name: str, size: str) -> dict[str, Any]:
    """Set a larger size in the configuration file at `path`; the image grows when the disk is served, now or later.

    Returns the disk as describe() does. Raises ConfigError, OperatorError NOT_FOUND, REFUSED when it is not larger."""
    text = path.read_text(encoding="utf-8")
    settings = config_file.parse(path, text)
    disk = _find(settings, name)
    present = max(disk.size or 0, _length_of(settings.image_of(disk)))
    try:
        asked = parse_size(size)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, str(error)) from None
    if asked <= present:
        raise OperatorError(Failure.REFUSED, f"disk {name} has {format_size(present)} already; it can only grow")
    changed = _with_size(text, settings.disks.index(disk), size)
    if config_file.parse(path, changed).disks != [
        other.model_copy(update={"size": asked}) if other.name == name else other for other in settings.disks
    ]:
        raise OperatorError(Failure.CONFIGURATION, f'{path}: set size = "{size}" of disk {name} by hand')
    write_atomically(path, changed.encode(), mode=path.stat().st_mode & 0o777)
    return next(shown for shown in describe(config_file.load(path)) if shown["name"] == name)


def _with_size(text: str, index: int, size: str) -> str:
    """`text` with another size in its [[disks]] section of that number."""
    lines = text.splitlines(keepends=True)
    headers = [at for at, line in enumerate(lines) if re.match(r"\s*\[\[\s*disks\s*\]\]", line)]
    if index >= len(headers):
        return text  # the disks are written in another of TOML's ways
    start = headers[index] + 1
    end = next((at for at in range(start, len(lines)) if lines[at].lstrip().startswith("[")), len(lines))
    setting = f'size = "{size}"\n'
    for at in range(start, end):
        if re.match(r"\s*size\s*=", lines[at]):
            lines[at] = setting
            break
    else:
        lines.insert(start, setting)
    return "".join(lines)


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


def _add(path: Path, section: str, make: Callable[[Path], None]) -> dict[str, Any]:
    """Add the section of a new disk to the configuration file at `path` and have its image made."""
    text = path.read_text(encoding="utf-8").rstrip()
    extended = f"{text}\n\n{section}"
    settings = config_file.parse(path, extended)
    disk = settings.disks[-1]
    image = settings.image_of(disk)
    try:
        make(image)
    except FileExistsError:
        message = f"{image} exists already; choose another name, or remove it first"
        raise OperatorError(Failure.REFUSED, message) from None
    try:
        write_atomically(path, extended.encode(), mode=path.stat().st_mode & 0o777)
    except OSError:
        image.unlink()
        raise
    _remember(settings, disk.name, image)
    return describe(settings)[-1]


def _remember(settings: Settings, name: str, image: Path) -> None:
    """From now on, not from its first start on: its file system may be gone by then. A daemon that has the library open
    does it when it opens the disk."""
    try:
        with LibraryFiles.open(settings) as files:
            Known(files.store).remember(name, image, image.stat().st_size)
    except OperatorError as error:
        log.debug("a new disk is remembered when it is first served", disk=name, reason=str(error))


def open_image(disk: DiskSettings, path: Path, known: Known | None = None) -> DiskImage:
    """The open image of a configured disk: made when it never was there, grown when `size` is larger than it.

    known: what the library remembers of its disks. An image that was there before is never made anew nor filled up:
    that it is gone or shorter means that its file system is not mounted, or that data is lost. Raises OperatorError
    REFUSED for that, CONFIGURATION when the image is larger than `size` or is no disk, IN_USE when another process has
    it, OSError.
    """
    before = None if known is None else known.size_bytes(disk.name)
    image = _open(disk, path, before)
    try:
        _refuse_cut(disk, image, before)
        _fit(disk, image)
    except BaseException:
        image.close()
        raise
    if known is not None:
        known.remember(disk.name, path, image.size_bytes)
    return image


def _open(disk: DiskSettings, path: Path, before: int | None) -> DiskImage:
    try:
        if before is not None and not os.path.lexists(path):
            message = (
                f"disk {disk.name}: its image {path} is missing; it had {format_size(before)}. Mount the file system "
                f"it is on, or restore it; to begin with an empty disk: truncate -s {before} {path}"
            )
            raise OperatorError(Failure.REFUSED, message)
        if disk.size is not None and not os.path.lexists(path):
            make_image(path, disk.size)
        return DiskImage.open(path, read_only=disk.read_only)
    except DiskInUse as error:
        raise OperatorError(Failure.IN_USE, str(error)) from None
    except NotADisk as error:
        raise OperatorError(Failure.CONFIGURATION, f"disk {disk.name}: {error}") from None
    except FileNotFoundError:
        message = f"disk {disk.name}: there is no {path}; give its size, so that it can be made"
        if path.is_symlink():
            message = f"disk {disk.name}: {path} leads to {path.readlink()}, which is missing; mount or restore it"
        raise OperatorError(Failure.CONFIGURATION, message) from None


def _refuse_cut(disk: DiskSettings, image: DiskImage, before: int | None) -> None:
    if before is not None and image.size_bytes < before:
        message = (
            f"disk {disk.name}: {image.path} has {image.size_bytes} bytes and had {before}: it was cut short. Restore "
            f"it; to go on with zeros in place of what is lost: truncate -s {before} {image.path}"
        )
        raise OperatorError(Failure.REFUSED, message)


def _fit(disk: DiskSettings, image: DiskImage) -> None:
    if image.size_bytes < disk.block_size:
        message = f"disk {disk.name}: {image.path} has {image.size_bytes} bytes, less than a block of {disk.block_size}"
        raise OperatorError(Failure.CONFIGURATION, message)
    if disk.size is None or disk.size == image.size_bytes:
        return
    if disk.size < image.size_bytes or image.read_only:
        message = f"disk {disk.name}: {image.path} has {image.size_bytes} bytes, its size is given as {disk.size}"
        raise OperatorError(Failure.CONFIGURATION, message)
    image.grow(disk.size)


def make_image(path: Path, length_bytes: int) -> None:
    """A sparse image of `length_bytes`, durable when this returns. Raises FileExistsError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    DiskImage.create(path, length_bytes).close()


def describe(settings: Settings) -> list[dict[str, Any]]:
    """The configured disks; stored_bytes is what the image takes on its file system, None without an image."""
    return [_describe(disk, settings.image_of(disk)) for disk in settings.disks]


def _describe(disk: DiskSettings, path: Path) -> dict[str, Any]:
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    return {
        "name": disk.name,
        "size_bytes": disk.size or (status and status.st_size),
        "stored_bytes": status and status.st_blocks * 512,  # stat(2): always in units of 512
        "block_size": disk.block_size,
        "read_only": disk.read_only,
        "removable": disk.removable,
        "image": str(path),
    }
