"""Disk images from and to qcow2, VMDK, VHDX and what else qemu-img knows, when qemu-img is there.

Tapebay serves raw images only. A conversion makes a new file under a temporary name and gives it its name when it is
whole and durable, so a failure leaves nothing behind.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlib_images.atomic import sync_directory
from vlib_images.disk.raw import DiskImage

PROGRAM = "qemu-img"
PACKAGE = "qemu-utils"  # of Debian and its kin
EXPORT_FORMATS = ("qcow2", "vmdk", "vhdx", "vdi", "vpc", "raw")
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")

Progress = Callable[[float], None]  # 0.0 to 1.0


class ConverterMissing(Exception):
    """qemu-img is not installed; str() says what to install."""


class ConversionFailed(Exception):
    """qemu-img refused, or the image is one that must not be imported; str() says why."""


def virtual_size(source: Path) -> int:
    """The size in bytes of the disk in an image of any format. Raises as import_image() does."""
    return int(_information(source)["virtual-size"])


def import_image(source: Path, destination: Path, *, progress: Progress | None = None) -> int:
    """Makes the raw image `destination` from an image of any format; returns its size in bytes.

    An image that takes its content from other files (a backing file, an external data file) is refused: importing one
    that somebody else made would copy whatever of this machine it names. Raises ConverterMissing, ConversionFailed,
    FileExistsError, OSError.
    """
    found = _information(source)
    for name in _references(found):
        if Path(source.parent, name).resolve().parent != source.resolve().parent or name == found.get(
            "backing-filename"
        ):
            raise ConversionFailed(f"{source} takes content from {name}; flatten it first ({PROGRAM} convert)")
    size = int(found["virtual-size"])
    if size == 0:
        raise ConversionFailed(f"{source} is an empty disk")
    # -S 4k: what is zero takes no space.
    _convert(["-S", "4k", "-f", str(found["format"]), "-O", "raw"], source, destination, progress)
    return size


def export_image(source: Path, destination: Path, image_format: str, *, progress: Progress | None = None) -> None:
    """Makes `destination` in `image_format` (one of EXPORT_FORMATS) from a raw image that nobody has open for writing.

    Raises ValueError for another format, DiskInUse, NotADisk, ConverterMissing, ConversionFailed, FileExistsError,
    OSError.
    """
    if image_format not in EXPORT_FORMATS:
        raise ValueError(f"{image_format} is none of {', '.join(EXPORT_FORMATS)}")
    image = DiskImage.open(source, read_only=True)  # its lock keeps writers away
    try:
        _convert(["-f", "raw", "-O", image_format], source, destination, progress)
    finally:
        image.close()


def _information(source: Path) -> dict[str, Any]:
    source.stat()  # FileNotFoundError in our own words
    output = _run(["info", "--output=json", _file_argument(source)])
    information: dict[str, Any] = json.loads(output)
    return information


def _references(information: dict[str, Any]) -> Iterator[str]:
    """The other files that an image names."""
    for key in ("backing-filename", "full-backing-filename"):
        if key in information:
            yield information["backing-filename"]
    specific = information.get("format-specific", {}).get("data", {})
    if "data-file" in specific:
        yield specific["data-file"]
    for extent in specific.get("extents", []):
        yield extent["filename"]


def _convert(options: list[str], source: Path, destination: Path, progress: Progress | None) -> None:
    if destination.exists():
        raise FileExistsError(f"{destination} exists")
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        _run(["convert", "-p", *options, _file_argument(source), _file_argument(partial)], progress)
        _synchronize(partial)
        os.link(partial, destination)  # unlike a rename, it never replaces what came there meanwhile
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(destination.parent)


def _file_argument(path: Path) -> str:
    # Never taken for an option, a protocol ("nbd:...") or a JSON description, whatever the file is called.
    return f"file:{path.absolute()}"


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(arguments: list[str], progress: Progress | None = None) -> bytes:
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


def _read(process: subprocess.Popen[bytes], progress: Progress | None) -> bytes:
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
