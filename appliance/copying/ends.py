"""The two ends of a copy as an operator writes them:

    disk:NAME            remote:NAME      iscsi://HOST/IQN/LUN       also with @LBA+COUNT,LBA+COUNT,... of their blocks
    drive:NAME           cartridge:BARCODE                           also with @start, @end, @file=N, @block=N
    /a/path, ./a/path    file:PATH

A remote unit or iscsi:// address takes what its kind takes.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import NamedTuple

_EXTENT = re.compile(r"(\d{1,20})\+(\d{1,20})")
_POSITION = re.compile(r"start|end|(file|block)=(\d{1,18})")
_HOW = "write disk:NAME, drive:NAME, cartridge:BARCODE, remote:NAME, iscsi://HOST/IQN/LUN or a path as ./NAME"


class EndKind(Enum):
    """What an end is."""

    DISK = "disk"
    DRIVE = "drive"
    CARTRIDGE = "cartridge"
    REMOTE = "remote"
    ISCSI = "iscsi"
    FILE = "file"


class BlockExtent(NamedTuple):
    """Blocks of a disk."""

    address: int
    blocks: int


class Where(Enum):
    """What a position on a tape is counted in. HERE: where the tape stands."""

    HERE = "here"
    START = "start"
    END = "end"
    FILE = "file"
    BLOCK = "block"


class TapePosition(NamedTuple):
    """On a tape."""

    where: Where = Where.HERE
    number: int = 0


class End(NamedTuple):
    """Where to copy from or to. name: of the device, the cartridge or the file; for ISCSI the address. within: what
    comes after the "@"."""

    kind: EndKind
    name: str
    within: str = ""

    def __str__(self) -> str:
        prefix = "" if self.kind in (EndKind.FILE, EndKind.ISCSI) else f"{self.kind.value}:"
        return f"{prefix}{self.name}{'@' if self.within else ''}{self.within}"

    def extents(self) -> list[BlockExtent]:
        """None: the whole disk. Raises ValueError."""
        parts = self.within.split(",") if self.within else []
        found = [_EXTENT.fullmatch(part) for part in parts]
        extents = [BlockExtent(int(one[1]), int(one[2])) for one in found if one is not None]
        if len(extents) != len(parts) or not all(extent.blocks for extent in extents):
            raise ValueError(f"{self}: write the blocks of a disk as @LBA+COUNT, for example @2048+4096,8192+8")
        return extents

    def position(self) -> TapePosition:
        """Raises ValueError."""
        if not self.within:
            return TapePosition()
        found = _POSITION.fullmatch(self.within)
        if found is None:
            raise ValueError(f"{self}: write a position on a tape as @start, @end, @file=N or @block=N, from 0 on")
        return TapePosition(Where(found[1] or self.within), int(found[2] or 0))


def parse_end(text: str) -> End:
    """Raises ValueError that says how to write it. A path is made absolute."""
    word, separator, rest = text.partition(":")
    if word == "file" and rest:
        return End(EndKind.FILE, str(Path(rest).absolute()))
    if text.startswith("iscsi://"):
        address, _, within = text.partition("@")
        return End(EndKind.ISCSI, address, within)
    if separator and word in (kind.value for kind in EndKind):
        name, _, within = rest.partition("@")
        if not name:
            raise ValueError(f"{text!r} names nothing; {_HOW}")
        return End(EndKind(word), name, within)
    if "/" in text:
        return End(EndKind.FILE, str(Path(text).absolute()))
    raise ValueError(f"{text!r} says neither a device nor a file; {_HOW}")
