"""Medium auxiliary memory attributes of devices and media (SPC-5 7.4.2), and how attributes are encoded (7.4.1)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from scsi_targets.t10.fields import TooShort

ATTRIBUTE_HEADER_BYTES = 5


class AttributeFormat(IntEnum):
    """FORMAT of an attribute."""

    BINARY = 0
    ASCII = 1
    TEXT = 2


class MamAttribute(NamedTuple):
    """One attribute with its value."""

    identifier: int
    format: int
    value: bytes
    read_only: bool = False

    def encode(self) -> bytes:
        """The attribute as READ ATTRIBUTE returns it and WRITE ATTRIBUTE takes it."""
        flags = (0x80 if self.read_only else 0) | self.format
        return self.identifier.to_bytes(2, "big") + bytes([flags]) + len(self.value).to_bytes(2, "big") + self.value


def binary(identifier: int, value: int, length: int) -> MamAttribute:
    """A read-only number that stops at its maximum."""
    return MamAttribute(
        identifier, AttributeFormat.BINARY, min(value, (1 << length * 8) - 1).to_bytes(length, "big"), True
    )


def ascii_text(identifier: int, value: str, length: int) -> MamAttribute:
    """A read-only string, padded with blanks."""
    return MamAttribute(
        identifier, AttributeFormat.ASCII, value.encode("ascii", "replace")[:length].ljust(length), True
    )


def decode_attributes(data: bytes) -> list[tuple[int, MamAttribute]]:
    """(offset, attribute) of each attribute in a WRITE ATTRIBUTE parameter list (header excluded). Raises TooShort when
    the data end inside one."""
    found: list[tuple[int, MamAttribute]] = []
    at = 0
    while at < len(data):
        head = data[at : at + ATTRIBUTE_HEADER_BYTES]
        length = int.from_bytes(head[3:5], "big")
        value = data[at + ATTRIBUTE_HEADER_BYTES : at + ATTRIBUTE_HEADER_BYTES + length]
        if len(head) < ATTRIBUTE_HEADER_BYTES or len(value) < length:
            raise TooShort(f"the attribute at byte {at} is cut off")
        found.append((at, MamAttribute(int.from_bytes(head[:2], "big"), head[2] & 0x03, value, bool(head[2] & 0x80))))
        at += ATTRIBUTE_HEADER_BYTES + length
    return found
