"""Disk images from and to qcow2, VMDK, VHDX and what else qemu-img knows, when qemu-img is there.

Tapebay serves raw images only. A conversion makes a new file under a temporary name and gives it its name when it is
whole and durable, so a failure leaves nothing behind.
"""

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamover.engine import write_in_pieces
from vlib_images.atomic import sync_directory
from vlib_images.disk.foreign import FORMATS_WITH_NAMES, TakesFromElsewhere, check_references
from vlib_images.disk.image import Image, Provisioning
from vlib_images.disk.raw import DiskImage
from vlib_images.plain_files import is_folder

PROGRAM = "qemu-img"
PACKAGE = "qemu-utils"  # of Debian and its kin
EXPORT_FORMATS = ("qcow2", "vmdk", "vhdx", "vdi", "vpc", "raw")
_COPY_BYTES = 1 << 20
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")

FractionDone = Callable[[float], None]  # 0.0 to 1.0


class ConverterMissing(Exception):
    """qemu-img is not installed; str() says what to install."""


class ConversionFailed(Exception):
    """qemu-img refused, or the image is one that must not be imported; str() says why."""


def virtual_size(source: Path) -> int:
    """The size in bytes of the disk in an image of any format. Raises as import_image() does."""
    return int(_information(source)["virtual-size"])


def import_image(source: Path, destination: Path, *, progress: FractionDone | None = None) -> int:
    """Makes the raw image `destination` from an image of any format; returns its size in bytes.

    An image that takes its content from other files (a backing file, an external data file) is refused: importing one
    that somebody else made would copy whatever of this machine it names. Raises ConverterMissing, ConversionFailed,
    FileExistsError, OSError.
    """
    found = _information(source)
    size = int(found["virtual-size"])
    if size == 0:
        raise ConversionFailed(f"{source} is an empty disk")
    # -S 4k: what is zero takes no space.
    _convert(["-S", "4k", "-f", str(found["format"]), "-O", "raw"], source, destination, progress)
    return size


def export_image(source: Path, destination: Path, image_format: str, *, progress: FractionDone | None = None) -> None:
    """Makes `destination` in `image_format` (one of EXPORT_FORMATS) from a raw image that nobody has open for writing.

    Raises ValueError for another format, DiskInUse, NotADisk, ConverterMissing, ConversionFailed, FileExistsError,
    OSError.
    """
    _check_format(image_format)
    image = DiskImage.open(source, read_only=True)  # its lock keeps writers away
    try:
        _convert(["-f", "raw", "-O", image_format], source, destination, progress)
    finally:
        image.close()


def export_instant(
    instant: Image,
    destination: Path,
    image_format: str,
    *,
    progress: FractionDone | None = None,
    read: Callable[[], object] = lambda: None,
) -> None:
    """Makes `destination` of an image that does not change, wherever it is; its ranges are read once, in their order.
    read() is called when all of it has been. For qemu-img it is a file first, so that it is held no longer than reading
    takes: until the end there are two beside `destination`.

    Raises ValueError for another format, ConverterMissing, ConversionFailed, FileExistsError, OSError."""
    _check_format(image_format)
    progress = progress or (lambda _fraction: None)
    with _made(destination) as partial:
        copy = partial if image_format == "raw" else partial.with_name("instant")
        share = 1.0 if image_format == "raw" else 0.5
        _copy(instant, copy, lambda fraction: progress(fraction * share))
        read()
        if image_format != "raw":
            _run_convert(
                ["-f", "raw", "-O", image_format], copy, partial, lambda fraction: progress(share + fraction / 2)
            )
            copy.unlink()


def _check_format(image_format: str) -> None:
    if image_format not in EXPORT_FORMATS:
        raise ValueError(f"{image_format} is none of {', '.join(EXPORT_FORMATS)}")


def _copy(source: Image, destination: Path, progress: FractionDone) -> None:
    """A sparse file of the same bytes."""
    buffer = memoryview(bytearray(_COPY_BYTES))
    with destination.open("xb") as file:
        file.truncate(source.size_bytes)
        for extent in source.extents(0, source.size_bytes):
            if extent.state is not Provisioning.MAPPED:
                source.pass_over(extent.offset, extent.length)
                continue
            for offset in range(extent.offset, extent.offset + extent.length, _COPY_BYTES):
                piece = buffer[: min(_COPY_BYTES, extent.offset + extent.length - offset)]
                source.read_into(piece, offset)
                write_in_pieces(file.fileno(), piece, offset)
                progress((offset + len(piece)) / source.size_bytes)
    progress(1.0)


def _information(source: Path) -> dict[str, Any]:
    """What qemu-img knows of an image that takes nothing from elsewhere. Its own bytes are asked first, since qemu-img
    opens what the image names; qemu-img's answer must agree."""
    try:
        known = check_references(source)
    except TakesFromElsewhere as error:
        raise ConversionFailed(f"{source} takes content from {error}; flatten it first ({PROGRAM} convert)") from None
    pinned = [] if known is None else ["-f", known]
    found: dict[str, Any] = json.loads(_run(["info", "--output=json", *pinned, _file_argument(source)]))
    specific = found.get("format-specific", {}).get("data", {})
    if (
        (known is None and found["format"] in FORMATS_WITH_NAMES)
        or "backing-filename" in found
        or "data-file" in specific
    ):
        raise ConversionFailed(f"{source} takes content from other files; flatten it first ({PROGRAM} convert)")
    return found


def _convert(options: list[str], source: Path, destination: Path, progress: FractionDone | None) -> None:
    with _made(destination) as partial:
        _run_convert(options, source, partial, progress)


def _run_convert(options: list[str], source: Path, destination: Path, progress: FractionDone | None) -> None:
    _run(["convert", "-p", *options, _file_argument(source), _file_argument(destination)], progress)


@contextmanager
def _made(destination: Path) -> Iterator[Path]:
    """Where to make `destination`: it gets its name when the file is whole and durable."""
    if os.path.lexists(destination):
        raise FileExistsError(errno.EEXIST, "it exists already", str(destination))
    with _workshop(destination) as folder:
        partial = folder / "image"
        yield partial
        _synchronize(partial)
        os.link(partial, destination)  # unlike a rename, it never replaces what came there meanwhile
    sync_directory(destination.parent)


@contextmanager
def _workshop(destination: Path) -> Iterator[Path]:
    """An empty folder beside `destination` that nobody else writes in; qemu-img would follow a link of the name it is
    told to make. It goes in the end, and what a killed run left of it goes first."""
    folder = destination.with_name(f".{destination.name}.partial")
    if is_folder(folder):
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _file_argument(path: Path) -> str:
    # Never taken for an option, a protocol ("nbd:...") or a JSON description, whatever the file is called.
    return f"file:{path.absolute()}"


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(arguments: list[str], progress: FractionDone | None = None) -> bytes:
    try:
        process = subprocess.Popen(
            [PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        message = f"{PROGRAM} is needed to convert disk images; on Debian it is in the package {PACKAGE}"
        raise ConverterMissing(message) from None
    with process:
        try:
            output = _read(process, progress)
            complaint = process.stderr.read() if process.stderr is not None else b""
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        words = complaint.decode(errors="backslashreplace").strip() or f"it ended with {process.returncode}"
        raise ConversionFailed(f"{PROGRAM} {arguments[0]}: {words}")
    return output


def _read(process: subprocess.Popen[bytes], progress: FractionDone | None) -> bytes:
    """What it prints; with `progress`, told as it goes."""
    assert process.stdout is not None
    output = b""
    while piece := os.read(process.stdout.fileno(), 65536):
        output += piece
        if progress is not None:
            for percent in _PERCENT.findall(output):
                progress(float(percent) / 100)
            output = output[output.rfind(b")") + 1 :]
    return output
