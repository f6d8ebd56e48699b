"""The list of files that an agent sends: one line of JSON for each, and a digest over all lines, bound to the snapshot.

Names, links and attributes are bytes of any value, written as text in which a byte above 7Fh that is no UTF-8 is a
surrogate (PEP 383), so that JSON can hold them; contents are base64. Everything that comes in is checked: an agent runs
on somebody's server, and a line of it must never make a backup read what the disk does not have, or a name that leads
out of the directory where it is restored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from appliance.backup.entries import Entry, FileExtent, Kind, Skipped

LIMIT_NAME_BYTES: Final = 4096
LIMIT_ATTRIBUTES_BYTES: Final = 1 << 20
LIMIT_CONTENT_BYTES: Final = 64 << 10
LIMIT_SIZE: Final = (1 << 63) - 1  # what Linux lets a file have, and a column of the catalogue holds
SECTOR: Final = 512
_KINDS: Final = {kind.name.lower(): kind for kind in Kind}
_NO_PARTS: Final = frozenset((b"", b".", b".."))  # of a name
_MOST_OWNER: Final = 0xFFFFFFFE
# Of every file, in the order of Entry's: field, least, most, default.
_NUMBERS: Final = (
    ("mode", 0, 0o7777, None), ("user", 0, _MOST_OWNER, None), ("group", 0, _MOST_OWNER, None),
    ("modified_ns", -(1 << 63), 1 << 65, None), ("size", 0, LIMIT_SIZE, 0),
)  # fmt: skip


class ListRefused(ValueError):
    """A line that no backup can be made of; str() says which and why."""


def to_line(found: Entry | Skipped) -> str:
    """One file as JSON, without a line end. One whose name is longer than any program takes is left out."""
    if (length := len(found.name)) > LIMIT_NAME_BYTES:
        reason = f"a name of {length} bytes, longer than the {LIMIT_NAME_BYTES} that programs take; back it up by --raw"
        found = Skipped(found.name[: LIMIT_NAME_BYTES - 3] + b"...", reason)
    if isinstance(found, Skipped):
        return _json({"name": _text(found.name), "skipped": found.reason})
    row: dict[str, Any] = {
        "name": _text(found.name), "kind": found.kind.name.lower(), "mode": found.mode, "user": found.user,
        "group": found.group, "modified_ns": found.modified_ns,
    }  # fmt: skip
    if found.size:
        row["size"] = found.size
    if found.extents:
        row["extents"] = [list(extent) for extent in found.extents]
    if found.content is not None:
        row["content"] = base64.b64encode(found.content).decode()
    if found.link:
        row["link"] = _text(found.link)
    if found.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        row["device"] = list(found.device)
    if found.attributes:
        row["attributes"] = [
            [_text(name), base64.b64encode(value).decode()] for name, value in sorted(found.attributes.items())
        ]
    return _json(row)


def from_line(line: str, disk_bytes: int) -> Entry | Skipped:
    """What to_line() wrote. disk_bytes: where the disk ends. Raises ListRefused."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ListRefused("it is no object")
        name = _name(row.pop("name"))
        if "skipped" in row:
            return Skipped(name, str(row["skipped"])[:500])
        return _entry(name, row, disk_bytes)
    except ListRefused as error:
        raise ListRefused(f"{error}: {line[:200]}") from None
    except (KeyError, TypeError, ValueError, binascii.Error, RecursionError) as error:
        raise ListRefused(f"it is no description of a file ({type(error).__name__}): {line[:200]}") from None


def content_bytes(line: str) -> int:
    """How much of a file's content is in a line of to_line() itself."""
    return len(base64.b64decode(json.loads(line).get("content", ""))) if '"content":' in line else 0


def name_in(line: str) -> bytes:
    """The name in a line that was refused; b"" where that is no name either."""
    try:
        return _name(json.loads(line)["name"])
    except (ListRefused, KeyError, TypeError, ValueError, RecursionError):
        return b""


def digest_of(lines: Iterable[str], snapshot: str, key: bytes) -> str:
    """What the agent's end-of-list signal carries: an HMAC-SHA256 over the snapshot's name and all lines, in order."""
    running = ListDigest(snapshot, key)
    for line in lines:
        running.add(line)
    return running.hexdigest()


class ListDigest:
    """The same, a line at a time. key: what agent and appliance share, the agent's token's SHA-256 in hexadecimal."""

    def __init__(self, snapshot: str, key: bytes) -> None:
        self._running = hmac.new(key, snapshot.encode() + b"\n", hashlib.sha256)

    def add(self, line: str) -> None:
        self._running.update(line.encode() + b"\n")

    def hexdigest(self) -> str:
        return self._running.hexdigest()


def _entry(name: bytes, row: dict[str, Any], disk_bytes: int) -> Entry:
    kind = _KINDS.get(row["kind"])
    if kind is None:
        raise ListRefused(f"kind {row['kind']!r} is none of {', '.join(_KINDS)}")
    mode, user, group, modified_ns, size = _numbers(row)
    entry = Entry(name, kind, mode, user, group, modified_ns, size)
    if "link" in row:
        entry.link = _name(row["link"]) if kind is Kind.HARD_LINK else _bytes(row["link"])
    if kind in (Kind.HARD_LINK, Kind.SYMBOLIC_LINK) and not entry.link:
        raise ListRefused("a link that leads nowhere")
    if "device" in row:
        major, minor = row["device"]
        entry.device = (_within(major, "device", 0xFFF), _within(minor, "device", 0xFFFFF))
    entry.attributes = _attributes(row.get("attributes", []))
    if kind is Kind.FILE:
        _fill(entry, row, disk_bytes)
    elif entry.size or "extents" in row or "content" in row:
        raise ListRefused(f"a {kind.name.lower()} has no content")
    return entry


def _fill(entry: Entry, row: dict[str, Any], disk_bytes: int) -> None:
    if "content" in row:
        entry.content = base64.b64decode(row["content"], validate=True)
        if len(entry.content) != entry.size or entry.size > LIMIT_CONTENT_BYTES or "extents" in row:
            raise ListRefused("its content is not what its size says")
    if "extents" in row:
        entry.extents = list(checked_extents(row["extents"], entry.size, disk_bytes))


def checked_extents(rows: Iterable[Any], size: int, disk_bytes: int) -> Iterator[FileExtent]:
    """In the order of the file, none over another, all of them on the disk. Raises ListRefused."""
    end = 0
    for row in rows:
        file_offset, disk_offset, length = row
        if not type(file_offset) is type(disk_offset) is type(length) is int or disk_offset < 0:
            for value in row:
                _within(value, "extents", LIMIT_SIZE)
        if file_offset < end or length <= 0 or file_offset + length > size:
            raise ListRefused("its extents are not in order, or not within its size")
        if disk_offset + length > disk_bytes:
            raise ListRefused(f"an extent ends at byte {disk_offset + length} of {disk_bytes}")
        if disk_offset % SECTOR:
            raise ListRefused("an extent does not begin at a sector")
        end = file_offset + length
        yield FileExtent(file_offset, disk_offset, length)


def _attributes(rows: list[Any]) -> dict[bytes, bytes]:
    found = {_bytes(name): base64.b64decode(value, validate=True) for name, value in rows}
    if sum(len(name) + len(value) for name, value in found.items()) > LIMIT_ATTRIBUTES_BYTES:
        raise ListRefused("its attributes are larger than 1 MiB")
    return found


def _name(value: Any) -> bytes:
    """A path that leads nowhere but down."""
    name = _bytes(value)
    if name != b"." and not _NO_PARTS.isdisjoint(name.split(b"/")):
        raise ListRefused("a name that is not a plain path below the root")
    return name


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ListRefused("a name that is no text")
    name = value.encode(errors="surrogateescape")
    if not 0 < len(name) <= LIMIT_NAME_BYTES or b"\0" in name:
        raise ListRefused(f"a name with {len(name)} bytes, or with a NUL")
    return name


def _numbers(row: dict[str, Any]) -> list[int]:
    """In a loop of its own and not by _within(), as there are millions of files."""
    found: list[int] = []
    for field, least, most, default in _NUMBERS:
        value = row.get(field, default)
        if type(value) is not int or not least <= value <= most:
            raise ListRefused(f"{field} is {value!r}, which is not a number from {least} to {most}")
        found.append(value)
    return found


def _within(value: Any, field: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ListRefused(f"{field} is {value!r}, which is not a number from 0 to {most}")
    return value


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"))
