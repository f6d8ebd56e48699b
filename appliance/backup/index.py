"""The index of a backup: the second archive of a volume, after the filemark, which says what is where on all volumes so
far. From it the catalogue is made anew, on whatever library reads the cartridge.

It is a pax archive of two files: tapebay-index/backup.json, and tapebay-index/files.jsonl.gz with a line for each file.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from appliance.backup import pax
from appliance.backup.catalogue import Catalogue, File, Part, Volume, entry_name
from appliance.backup.entries import Entry, Extent, Kind

FOLDER: Final = b"tapebay-index/"
HEAD, FILES = FOLDER + b"backup.json", FOLDER + b"files.jsonl.gz"
FORMAT: Final = 1
_STEP_BYTES: Final = 1 << 20
LIMIT_LINE_BYTES: Final = 1 << 20
_IDENTIFIER: Final = re.compile("[0-9a-f]{32}")
_FACTS: Final = ("identifier", "disks", "created_at", "library", "parts")


class BadIndex(Exception):
    """What is on the tape is no index, or a damaged one."""


def pieces(catalogue: Catalogue) -> Iterator[bytes]:
    """The archive, from its first header to its end."""
    facts = catalogue.facts()
    head = {"format": FORMAT, "volumes": [_volume(volume) for volume in catalogue.volumes()]}
    head |= {name: facts.get(name) for name in _FACTS}
    yield from _member(HEAD, json.dumps(head).encode())
    with tempfile.TemporaryFile(dir=catalogue.path.parent) as packed:
        _pack(catalogue, packed)
        size = packed.tell()
        packed.seek(0)
        yield pax.header(Entry(FILES, Kind.FILE, size=size, extents=[Extent(0, 0, size)]))
        while data := packed.read(_STEP_BYTES):
            yield data
        yield pax.padding(size)
    yield pax.END


def _member(name: bytes, content: bytes) -> Iterator[bytes]:
    yield pax.header(Entry(name, Kind.FILE, size=len(content), content=content))
    yield content
    yield pax.padding(len(content))


def _volume(volume: Volume) -> dict[str, Any]:
    return {"number": volume.number, "barcode": volume.barcode, "archive_bytes": volume.archive_bytes}


def _pack(catalogue: Catalogue, into: IO[bytes]) -> None:
    with gzip.GzipFile(fileobj=into, mode="wb", compresslevel=1, mtime=0) as packed:
        parts = catalogue.all_parts()
        for file in catalogue.files():
            line = {
                "number": file.number, "name": entry_name(file), "kind": file.kind.value.decode(),
                "size": file.size, "modified_ns": file.modified_ns, "stored_bytes": file.stored_bytes,
                "crc32c": file.crc32c, "parts": [list(part[1:]) for part in next(parts)],
            }  # fmt: skip
            packed.write(json.dumps(line).encode() + b"\n")


# ---- reading -------------------------------------------------------------------------------------------------------


def read_head(data: bytes) -> dict[str, Any]:
    """backup.json. Raises BadIndex."""
    try:
        head = json.loads(data)
        if head["format"] != FORMAT:
            raise BadIndex(f"the index has format {head['format']}, which this version does not know")
        head["volumes"] = list(head["volumes"])
        if not _IDENTIFIER.fullmatch(str(head["identifier"])):
            raise BadIndex("its identifier makes no sense")
    except (ValueError, KeyError, TypeError) as error:
        raise BadIndex(f"its backup.json makes no sense: {error}") from None
    return dict(head)


def read_files(path: Path) -> Iterator[tuple[File, list[Part]]]:
    """files.jsonl.gz. Raises BadIndex, OSError."""
    try:
        with gzip.open(path, "rb") as lines:
            while line := lines.readline(LIMIT_LINE_BYTES):
                yield _file(json.loads(line))
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise BadIndex(f"its files.jsonl.gz makes no sense: {error}") from None


def _file(line: dict[str, Any]) -> tuple[File, list[Part]]:
    number = int(line["number"])
    parts = [Part(number, *(int(value) for value in part)) for part in line["parts"]]
    file = File(
        number, str(line["name"]).encode(errors="surrogateescape"), Kind(str(line["kind"]).encode()),
        int(line["size"]), int(line["modified_ns"]), int(line["stored_bytes"]), int(line["crc32c"]),
    )  # fmt: skip
    return file, parts
