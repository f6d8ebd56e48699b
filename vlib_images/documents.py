"""Small JSON files that know whether they are whole: {"crc32c": "hex", "content": {...}}. FORMAT.md, "Documents"."""

import json
from typing import Any, Final

from datamover.engine import crc32c
from vlib_images.errors import CartridgeDamaged

Document = dict[str, Any]

DOCUMENT_BYTES_MAX: Final = 16 << 20
"""Longer than any document of ours."""


def _canonical(content: Document) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def encode_document(content: Document) -> bytes:
    """The file of a document."""
    body = json.dumps({"crc32c": f"{crc32c(_canonical(content)):08x}", "content": content}, indent=1, sort_keys=True)
    return body.encode() + b"\n"


def decode_document(data: bytes, name: str) -> Document:
    """The content of a document's file; name: for messages. Raises CartridgeDamaged when it does not match its
    checksum."""
    try:
        document = json.loads(data)
        content: Document = document["content"]
        whole = document["crc32c"] == f"{crc32c(_canonical(content)):08x}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CartridgeDamaged(f"{name} is no document of a cartridge: {error}") from error
    if not whole or not isinstance(content, dict):
        raise CartridgeDamaged(f"{name} does not match its checksum")
    return content
