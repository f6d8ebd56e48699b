"""Disks of a library: their images, which of them were there before, and how they are."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import structlog

from appliance.failures import Failure, OperatorError
from appliance.library.copy_journal import FILE_NAME as COPIES
from appliance.settings.config_file import FILE_NAME as CONFIGURATION
from appliance.settings.sections import DiskSettings
from appliance.settings.settings import Settings
from appliance.settings.units import format_size
from vlib_images.cartridge.identity import FILE as CARTRIDGE
from vlib_images.cartridge.storage import LOCK
from vlib_images.disk.raw import DiskImage, DiskInUse, NotADisk
from vlib_images.disk.snapshot_store import SUFFIX as SNAPSHOT_SUFFIX
from vlib_images.library.database.database import FILE_NAME as DATABASE
from vlib_images.library.state import JsonValue, LibraryState

log = structlog.get_logger(__name__)

DISKS = "disks"  # the namespace of the state store that remembers which images there were


class KnownDisks:
    """Which disks of a library have been there, with their sizes. A disk is remembered from its first use on."""

    def __init__(self, store: LibraryState) -> None:
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


def refuse_own_file(settings: Settings, disk: DiskSettings) -> None:
    """No disk is served of what the library itself keeps: initiators would write over it. Raises OperatorError
    CONFIGURATION."""
    path = settings.image_of(disk).resolve()
    if is_own_file(settings, path):
        message = f"disk {disk.name}: {path} is the library's own; give the disk an image of its own"
        raise OperatorError(Failure.CONFIGURATION, message)


def is_own_file(settings: Settings, path: Path) -> bool:
    """Whether the library itself keeps something at that resolved path, or the same file by another name: a hard link.
    Disks' images not included."""
    return any(any(_own_names(settings, name)) for name in (path, *_other_names(settings, path)))


def is_database(settings: Settings, path: Path) -> bool:
    """Whether that is a file of the library's database, by whatever name. It is not even read here: whoever closes such
    a file drops the locks by which this process keeps others from it (fcntl(2))."""
    return any(same_file(name, path) for name in settings.library.state.glob(f"{DATABASE}*"))


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file by whatever names, or would if it were there."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def _other_names(settings: Settings, path: Path) -> Iterator[Path]:
    """Where the file at a path, if it is there, is among what the library keeps."""
    if not path.exists():
        return
    names = [(settings.directory / CONFIGURATION).resolve()]
    for directory in (settings.library.state, settings.snapshots.directory):
        names += directory.resolve().glob("*")
    if path.stat().st_nlink > 1:  # cartridges have many files, which are looked through only where it may be one
        names += _below(settings.library.cartridges.resolve())
    yield from (name for name in names if same_file(name, path))


def _below(directory: Path) -> Iterator[Path]:
    """Files, at any depth; what goes meanwhile is left out."""
    for folder, _, names in os.walk(directory):
        yield from (Path(folder, name) for name in names)


def _own_names(settings: Settings, path: Path) -> Iterator[bool]:
    """Other files may lie beside them: one directory may be for all."""
    state = settings.library.state.resolve()
    yield path in (settings.library.control_socket.resolve(), (settings.directory / CONFIGURATION).resolve())
    yield path.parent == state and (path.name.startswith(DATABASE) or path.name in (LOCK, COPIES))
    yield path.parent == settings.snapshots.directory.resolve() and path.suffix == SNAPSHOT_SUFFIX
    yield path.is_relative_to(settings.library.cartridges.resolve()) and any(
        (directory / CARTRIDGE).exists() for directory in path.parents
    )


def open_image(disk: DiskSettings, path: Path, known: KnownDisks | None = None) -> DiskImage:
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


def describe(settings: Settings, known: KnownDisks) -> list[dict[str, Any]]:
    """The configured disks. stored_bytes is what the image takes on its file system, None without an image; problem
    says what is lost of one that was there before."""
    return [describe_one(settings, disk, known) for disk in settings.disks]


def describe_one(settings: Settings, disk: DiskSettings, known: KnownDisks) -> dict[str, Any]:
    """One of them."""
    path = settings.image_of(disk)
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
        "problem": _lost(status, known.size_bytes(disk.name)),
    }


def _lost(status: os.stat_result | None, before: int | None) -> str | None:
    if before is None:
        return None
    if status is None:
        return f"its image is missing; it had {format_size(before)}"
    if stat.S_ISREG(status.st_mode) and status.st_size < before:
        return f"its image was cut short: {format_size(status.st_size)} of {format_size(before)} are left"
    return None
