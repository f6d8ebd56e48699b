"""What a backup knows of one file: its metadata, and where on the disk its content lies. Never the content itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a file is; the values are the type flags of its tar header (POSIX pax, ustar)."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMBOLIC_LINK = b"2"
    CHARACTER_DEVICE = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


class FileExtent(NamedTuple):
    """A run of a file's bytes on a disk: where it is in the file, where on the disk; all in bytes."""

    file_offset: int
    disk_offset: int
    length: int


class Skipped(NamedTuple):
    """A file that cannot be backed up from outside, and why."""

    name: bytes
    reason: str


@dataclass(slots=True)
class Entry:
    """One file. name: its path, relative and without "." and "..", of any bytes but NUL; b"." is the root.

    extents: of a FILE, in the order of the file, not beyond its size; what none of them covers reads as zeros.
    content: of a FILE whose bytes lie within the file system's own structures, instead of extents.
    link: where a link leads to. device: (major, minor). attributes: extended attributes by their full names, ACLs in
    the text form of acl_from_text(3) under system.posix_acl_access and system.posix_acl_default.
    dumpdir: of a directory in an increment, what is in it (GNU tar's form); no part of its identity.
    modified_ns: since 1970."""

    name: bytes
    kind: Kind
    mode: int = 0o644
    user: int = 0
    group: int = 0
    modified_ns: int = 0
    size: int = 0
    extents: Sequence[FileExtent] = ()
    content: bytes | None = None
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    dumpdir: bytes = b""

    @property
    def sparse(self) -> bool:
        """Whether a part of the file is not on the disk."""
        return self.kind is Kind.FILE and self.content is None and self.stored_bytes < self.size

    @property
    def stored_bytes(self) -> int:
        """How much of its content there is."""
        if self.kind is not Kind.FILE:
            return 0
        if self.content is not None:
            return len(self.content)
        return sum([length for _, _, length in self.extents])  # a list: it is asked for every file

    def identity(self) -> bytes:
        """Everything that is known of it, in bytes: two that are equal were the same file at the same places."""
        facts = (
            self.kind.value, self.mode, self.user, self.group, self.modified_ns, self.size,
            [(*extent,) for extent in self.extents], self.content, self.link, self.device,
            sorted(self.attributes.items()),
        )  # fmt: skip
        return self.name + b"\0" + repr(facts).encode()


def clipped(extents: Sequence[FileExtent], size: int) -> list[FileExtent]:
    """In the order of the file, those that touch joined, and nothing beyond the size."""
    found: list[FileExtent] = []
    for extent in sorted(extents):
        length = min(extent.length, size - extent.file_offset)
        if length <= 0:
            continue
        last = found[-1] if found else None
        if (
            last is not None
            and last.file_offset + last.length == extent.file_offset
            and last.disk_offset + last.length == extent.disk_offset
        ):
            found[-1] = last._replace(length=last.length + length)
        else:
            found.append(extent._replace(length=length))
    return found
