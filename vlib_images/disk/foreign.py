"""Whether a foreign disk image takes its content from other files, told from its own bytes.

Asking qemu-img is too late: to print what it knows of a qcow2 or VMDK image it opens the external data file or the
extents that the image names, and a name may be any path of this machine, a network address or a JSON description of
either. Of the formats that qemu-img recognises by content, these can name another file: qcow, qcow2, QED and VMDK.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from vlib_images.plain_files import open_named, open_plain

FORMATS_WITH_NAMES: Final = frozenset({"qcow", "qcow2", "qed", "vmdk"})

_QCOW: Final = struct.Struct(">4sIQI")  # magic, version, backing file offset, its length
_QCOW_INCOMPATIBLE: Final = struct.Struct(">72xQ")
_QCOW_EXTERNAL_DATA: Final = 1 << 2
_QED: Final = struct.Struct("<4s12xQ")  # magic, cluster, table and header size, incompatible features
_QED_BACKING: Final = 1 << 0
_VMDK: Final = struct.Struct("<4s8xQ8xQ")  # magic, version, flags, capacity (sectors), grain, descriptor's first sector
_VMDK_TEXT: Final = re.compile(rb"(?:#[^\n]*\n|[ \t\r\n])*version\s*=")
_VMDK_EXTENT: Final = re.compile(rb'RW\s+[-+]?\d+\s+\S{1,10}\s*"([^"\r\n]*)')
_VMDK_PARENT: Final = b"parentFileNameHint"
_VMDK_DESCRIPTOR: Final = slice(512, 512 + 20 * 512)  # where qemu-img looks for the parent in an image with a header
_PLAIN_NAME: Final = re.compile(r"[^/:\0.][^/:\0]*")
_SECTOR: Final = 512
_DESCRIPTOR_BYTES_MAX: Final = 1 << 20
_EXTENTS_MAX: Final = 4096


class TakesFromElsewhere(Exception):
    """The image names a file that must not be opened for it; str() says which."""


def check_references(source: Path) -> str | None:
    """The image's format where it is one that can name other files, else None.

    Raises TakesFromElsewhere unless everything it names lies beside it: the extents of a split VMDK image, which must
    be plain files of the same folder. OSError.
    """
    with open_named(source) as file:
        head = file.read(_DESCRIPTOR_BYTES_MAX)
        if head.startswith(b"QFI\xfb"):
            return _check_qcow(head)
        if head.startswith(b"QED\0"):
            return _check_qed(head)
        if head.startswith((b"KDMV", b"COWD")):
            text = _embedded(file, head)
            if _VMDK_PARENT in head[_VMDK_DESCRIPTOR]:
                raise TakesFromElsewhere("a parent image")
        elif _VMDK_TEXT.match(head[:4096]):
            text = head
        else:
            return None
    for extent in _extents(text):
        _check_extent(source.parent.resolve() / extent)
    return "vmdk"


def _check_qcow(head: bytes) -> str:
    _, version, backing, _ = _QCOW.unpack_from(head.ljust(_QCOW.size, b"\0"))
    if backing:
        raise TakesFromElsewhere("a backing file")
    if version == 1:
        return "qcow"
    (incompatible,) = _QCOW_INCOMPATIBLE.unpack_from(head.ljust(_QCOW_INCOMPATIBLE.size, b"\0"))
    if version >= 3 and incompatible & _QCOW_EXTERNAL_DATA:
        raise TakesFromElsewhere("an external data file")
    return "qcow2"


def _check_qed(head: bytes) -> str:
    _, incompatible = _QED.unpack_from(head.ljust(_QED.size, b"\0"))
    if incompatible & _QED_BACKING:
        raise TakesFromElsewhere("a backing file")
    return "qed"


def _embedded(file: BinaryIO, head: bytes) -> bytes:
    """The descriptor of an image that has a header and no sectors of its own; empty for one that has."""
    magic, capacity, descriptor = _VMDK.unpack_from(head.ljust(_VMDK.size, b"\0"))
    if magic != b"KDMV" or capacity or not descriptor:
        return b""
    file.seek(min(descriptor * _SECTOR, 1 << 62))
    return file.read(_DESCRIPTOR_BYTES_MAX)


def _extents(descriptor: bytes) -> Iterator[str]:
    """The names of a descriptor's extents, each of a file beside it."""
    if _VMDK_PARENT in descriptor:
        raise TakesFromElsewhere("a parent image")
    for number, match in enumerate(_VMDK_EXTENT.finditer(descriptor)):
        name = match[1].decode(errors="surrogateescape")
        if not _PLAIN_NAME.fullmatch(name) or number >= _EXTENTS_MAX:
            raise TakesFromElsewhere(repr(name))
        yield name


def _check_extent(extent: Path) -> None:
    """An extent is a plain file of sectors, and names no other file itself."""
    try:
        with open_plain(extent, only_name=True) as file:
            nested = _embedded(file, file.read(_VMDK.size))
    except FileNotFoundError:
        raise TakesFromElsewhere(f"{extent}, which is missing") from None
    except OSError as error:
        raise TakesFromElsewhere(f"{extent}: {error.strerror}") from None
    if nested:
        raise TakesFromElsewhere(f"{extent}, which names other files itself")
