"""Small JSON files that know whether they are whole: {"crc32c": "hex", "content": {...}}. FORMAT.md, "Documents"."""

import json
from pathlib import Path
from typing import Any

from datamover.engine import crc32c, storage_replace
from vlib_images.errors import CartridgeDamaged

Document = dict[str, Any]


def _canonical(content: Document) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def write_document(path: Path, content: Document) -> None:
    """Replace the file, durably; a crash leaves the old content or the new. Raises OSError."""
    body = json.dumps({"crc32c": f"{crc32c(_canonical(content)):08x}", "content": content}, indent=1, sort_keys=True)
    storage_replace(str(path.parent), path.name, body.encode() + b"\n", True)


def read_document(path: Path) -> Document:
    """Raises CartridgeDamaged when the content does not match its checksum, OSError."""
    try:
        document = json.loads(path.read_bytes())
        content: Document = document["content"]
        whole = document["crc32c"] == f"{crc32c(_canonical(content)):08x}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CartridgeDamaged(f"{path} is no document of a cartridge: {error}") from error
    if not whole or not isinstance(content, dict):
        raise CartridgeDamaged(f"{path} does not match its checksum")
    return content
