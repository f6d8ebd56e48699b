"""Disks of a library: their images, and their sections in tapebay.toml."""

from pathlib import Path
from typing import Any

from appliance import config_file
from appliance.config import DiskSettings, Settings
from appliance.failures import Failure, OperatorError
from appliance.template import disk_section
from appliance.units import parse_size
from vlib_images.atomic import write_atomically
from vlib_images.disk import DiskImage, DiskInUse, NotADisk


def create(
    path: Path, name: str, size: str, *, block_size: int = 512, removable: bool = False, read_only: bool = False
) -> dict[str, Any]:
    """Make a sparse image for a new disk and add its section to the configuration file at `path`.

    The file keeps its comments: the section goes to its end. Raises ConfigError when the result would not be a valid
    configuration, OperatorError REFUSED when the image exists; then nothing has changed.
    """
    text = path.read_text(encoding="utf-8").rstrip()
    section = disk_section(name, size, block_size=block_size, removable=removable, read_only=read_only)
    extended = f"{text}\n\n{section}"
    settings = config_file.parse(path, extended)
    disk = settings.disks[-1]
    image = settings.image_of(disk)
    try:
        make_image(image, parse_size(size))
    except FileExistsError:
        message = f"{image} exists already; choose another name, or remove it first"
        raise OperatorError(Failure.REFUSED, message) from None
    try:
        write_atomically(path, extended.encode(), mode=path.stat().st_mode & 0o777)
    except OSError:
        image.unlink()
        raise
    return describe(settings)[-1]


def open_image(disk: DiskSettings, path: Path) -> DiskImage:
    """The open image of a configured disk: made when it is missing, grown when `size` is larger than it.

    Raises OperatorError CONFIGURATION when it is larger than `size` or is no disk, IN_USE when another process has it,
    OSError.
    """
    try:
        if disk.size is not None and not path.exists():
            make_image(path, disk.size)
        image = DiskImage.open(path, read_only=disk.read_only)
    except DiskInUse as error:
        raise OperatorError(Failure.IN_USE, str(error)) from None
    except NotADisk as error:
        raise OperatorError(Failure.CONFIGURATION, f"disk {disk.name}: {error}") from None
    except FileNotFoundError:
        message = f"disk {disk.name}: there is no {path}; give its size, so that it can be made"
        raise OperatorError(Failure.CONFIGURATION, message) from None
    try:
        _fit(disk, image)
    except BaseException:
        image.close()
        raise
    return image


def _fit(disk: DiskSettings, image: DiskImage) -> None:
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
