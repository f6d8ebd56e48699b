"""The index of a backup: the second archive of a volume, after the filemark, which says what is where on all volumes so
far. From it the catalogue is made anew, on whatever library reads the cartridge.

It is a pax archive of tapebay-index/backup.json, and tapebay-index/files.jsonl.gz with a line for each file; and of an
increment tapebay-index/unchanged.jsonl.gz, with a line for each file that the backups before it have.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from appliance.backup import pax
from appliance.backup.catalogue import ArchivePart, Catalogue, File, Kept, Volume, entry_name
from appliance.backup.entries import Entry, FileExtent, Kind

FOLDER: Final = b"tapebay-index/"
HEAD, FILES = FOLDER + b"backup.json", FOLDER + b"files.jsonl.gz"
UNCHANGED: Final = FOLDER + b"unchanged.jsonl.gz"  # of an increment: what the backups before it have
FORMAT: Final = 1
_STEP_BYTES: Final = 1 << 20
_BATCH_LINES: Final = 1000
LIMIT_LINE_BYTES: Final = 1 << 20
_IDENTIFIER: Final = re.compile("[0-9a-f]{32}")
FACTS: Final = ("identifier", "disks", "created_at", "library", "parts", "marks", "chain", "images")


_Read = TypeVar("_Read")


class BadIndex(Exception):
    """What is on the tape is no index, or a damaged one."""


def pieces(catalogue: Catalogue, alive: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """The archive, from its first header to its end. alive: called on the way, and may raise."""
    facts = catalogue.facts()
    head = {"format": FORMAT, "volumes": [_volume(volume) for volume in catalogue.volumes()]}
    head |= {name: facts.get(name) for name in FACTS}
    yield from _member(HEAD, json.dumps(head).encode())
    yield from _packed(catalogue, FILES, _lines(catalogue), alive)
    if head["chain"]:
        yield from _packed(catalogue, UNCHANGED, map(_unchanged_line, catalogue.unchanged()), alive)
    yield pax.END


def _packed(catalogue: Catalogue, name: bytes, lines: Iterable[str], alive: Callable[[], None]) -> Iterator[bytes]:
    with tempfile.TemporaryFile(dir=catalogue.path.parent) as packed:
        _pack(lines, packed, alive)
        size = packed.tell()
        packed.seek(0)
        yield pax.header(Entry(name, Kind.FILE, size=size, extents=[FileExtent(0, 0, size)]))
        while data := packed.read(_STEP_BYTES):
            yield data
        yield pax.padding(size)


def _member(name: bytes, content: bytes) -> Iterator[bytes]:
    yield pax.header(Entry(name, Kind.FILE, size=len(content), content=content))
    yield content
    yield pax.padding(len(content))


def _volume(volume: Volume) -> dict[str, Any]:
    return {"number": volume.number, "barcode": volume.barcode, "archive_bytes": volume.archive_bytes}


def _pack(lines: Iterable[str], into: IO[bytes], alive: Callable[[], None]) -> None:
    with gzip.GzipFile(fileobj=into, mode="wb", compresslevel=1, mtime=0) as packed:
        lines = iter(lines)
        while batch := "".join(itertools.islice(lines, _BATCH_LINES)):
            packed.write(batch.encode())
            alive()


def _lines(catalogue: Catalogue) -> Iterator[str]:
    for file, parts in zip(catalogue.files(), catalogue.all_parts(), strict=True):
        places = json.dumps([part[1:] for part in parts], separators=(",", ":"))
        yield f'{_facts(file)},"parts":{places}}}\n'


def _unchanged_line(kept: Kept) -> str:
    return f'{_facts(kept.file)},"origin":{json.dumps(kept.origin)},"before":{kept.before}}}\n'


def _facts(file: File) -> str:
    """A JSON object as far as its end. It is put together here, as only the name is more than digits: there may be
    millions."""
    identity = f'"{file.identity.hex()}"' if file.identity is not None else "null"
    return (
        f'{{"number":{file.number},"name":{json.dumps(entry_name(file))},"kind":"{file.kind.value.decode()}",'
        f'"size":{file.size},"modified_ns":{file.modified_ns},"stored_bytes":{file.stored_bytes},'
        f'"crc32c":{file.crc32c},"identity":{identity}'
    )


# ---- reading -------------------------------------------------------------------------------------------------------


def read_head(data: bytes) -> dict[str, Any]:
    """backup.json. Raises BadIndex."""
    try:
        head = json.loads(data)
        if head["format"] != FORMAT:
            raise BadIndex(f"the index has format {head['format']}, which this version does not know")
        head["volumes"] = list(head["volumes"])
        head["chain"] = [str(identifier) for identifier in head.get("chain") or []]
        if not _IDENTIFIER.fullmatch(str(head["identifier"])):
            raise BadIndex("its identifier makes no sense")
    except (ValueError, KeyError, TypeError) as error:
        raise BadIndex(f"its backup.json makes no sense: {error}") from None
    return dict(head)


def read_files(path: Path) -> Iterator[tuple[File, list[ArchivePart]]]:
    """files.jsonl.gz. Raises BadIndex, OSError."""
    return _read(path, _file_and_parts)


def read_unchanged(path: Path) -> Iterator[Kept]:
    """unchanged.jsonl.gz. Raises BadIndex, OSError."""
    return _read(path, lambda line: Kept(_file(line), int(line["origin"]), int(line["before"])))


def _read(path: Path, read: Callable[[dict[str, Any]], _Read]) -> Iterator[_Read]:
    try:
        with gzip.open(path, "rb") as lines:
            while line := lines.readline(LIMIT_LINE_BYTES):
                yield read(json.loads(line))
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise BadIndex(f"its lists of files make no sense: {error}") from None


def _file_and_parts(line: dict[str, Any]) -> tuple[File, list[ArchivePart]]:
    return _file(line), [ArchivePart(int(line["number"]), *(int(value) for value in part)) for part in line["parts"]]


def _file(line: dict[str, Any]) -> File:
    identity = line.get("identity")
    return File(
        int(line["number"]), str(line["name"]).encode(errors="surrogateescape"), Kind(str(line["kind"]).encode()),
        int(line["size"]), int(line["modified_ns"]), int(line["stored_bytes"]), int(line["crc32c"]),
        bytes.fromhex(identity) if identity is not None else None,
    )  # fmt: skip
