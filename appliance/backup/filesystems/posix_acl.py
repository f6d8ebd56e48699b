"""POSIX ACLs as file systems keep them, to the text of acl_from_text(3) with numbers for names."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_TAGS: Final = {
    0x01: (b"user", False), 0x02: (b"user", True), 0x04: (b"group", False), 0x08: (b"group", True),
    0x10: (b"mask", False), 0x20: (b"other", False),
}  # fmt: skip


def of_ext4(value: bytes) -> bytes:
    """ext4's own form: only entries that name somebody have an identifier. Raises ValueError."""
    return b",".join(_text(*entry) for entry in _ext4_entries(value))


def _ext4_entries(value: bytes) -> Iterator[tuple[int, int, int]]:
    at = 4
    while at + 4 <= len(value):
        tag, permissions = struct.unpack_from("<HH", value, at)
        named = _TAGS.get(tag, (b"", False))[1]
        identifier = int.from_bytes(value[at + 4 : at + 8], "little") if named else 0
        at += 8 if named else 4
        yield tag, permissions, identifier


def of_xfs(value: bytes) -> bytes:
    """XFS's own form (SGI_ACL_FILE, SGI_ACL_DEFAULT). Raises ValueError."""
    count = int.from_bytes(value[:4], "big")
    entries = (struct.unpack_from(">IIH", value, 4 + 12 * index) for index in range(min(count, len(value) // 12)))
    return b",".join(_text(tag, permissions, identifier) for tag, identifier, permissions in entries)


def of_attribute(value: bytes) -> bytes:
    """The kernel's form, an extended attribute's value (linux/posix_acl_xattr.h). Raises ValueError."""
    entries = (struct.unpack_from("<HHI", value, at) for at in range(4, len(value) - 7, 8))
    return b",".join(_text(tag, permissions, identifier) for tag, permissions, identifier in entries)


def _text(tag: int, permissions: int, identifier: int) -> bytes:
    if tag not in _TAGS:
        raise ValueError(f"an ACL entry with tag {tag:#x}")
    word, named = _TAGS[tag]
    rights = bytes(letter if permissions & bit else 0x2D for letter, bit in zip(b"rwx", (4, 2, 1), strict=True))
    return b"%b:%b:%b" % (word, b"%d" % identifier if named else b"", rights)
