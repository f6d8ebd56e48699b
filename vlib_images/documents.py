"""Small JSON files that know whether they are whole: {"crc32c": "hex", "content": {...}}. FORMAT.md, "Documents"."""

import json
import os
from pathlib import Path
from typing import Any, Final

from datamover.engine import crc32c, storage_replace
from vlib_images.errors import CartridgeDamaged
from vlib_images.plain_files import open_plain

Document = dict[str, Any]

DOCUMENT_BYTES_MAX: Final = 16 << 20
"""Longer than any document of ours."""


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """A whole file that describes something. Raises CartridgeDamaged, and reads nothing, when it is longer than such a
    file can be; OSError."""
    with open_plain(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length > most_bytes:
            raise CartridgeDamaged(f"{path} has {length} bytes, more than the {most_bytes} that it can have")
        return file.read(most_bytes)


def _canonical(content: Document) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def write_document(path: Path, content: Document) -> None:
    """Replace the file, durably; a crash leaves the old content or the new. Raises OSError."""
    body = json.dumps({"crc32c": f"{crc32c(_canonical(content)):08x}", "content": content}, indent=1, sort_keys=True)
    storage_replace(str(path.parent), path.name, body.encode() + b"\n", True)


def read_document(path: Path) -> Document:
    """Raises CartridgeDamaged when the content does not match its checksum, OSError."""
    try:
        document = json.loads(read_bounded(path, DOCUMENT_BYTES_MAX))
        content: Document = document["content"]
        whole = document["crc32c"] == f"{crc32c(_canonical(content)):08x}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CartridgeDamaged(f"{path} is no document of a cartridge: {error}") from error
    if not whole or not isinstance(content, dict):
        raise CartridgeDamaged(f"{path} does not match its checksum")
    return content
