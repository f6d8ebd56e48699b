"""Medium auxiliary memory: the attributes of SPC-5 7.4 ("MAM attributes"), kept with the cartridge in mam.json.

Device attributes are counted by Tapebay itself, medium attributes come from the medium's row, host attributes are what
initiators wrote. Attributes of a partition (host attribute 0809h, device attributes of usage) are kept per partition.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import structlog

from vlib_images.cartridge.files import CartridgeFiles, read_document, write_document
from vlib_images.documents import Document
from vlib_images.errors import CartridgeDamaged, CartridgeError

FILE: Final = "mam.json"
log = structlog.get_logger(__name__)
CAPACITY_BYTES: Final = 16 << 10
"""Size of the memory: LTO-7 and later have a chip of 16 KiB."""

HEADER_BYTES: Final = 5
"""Identifier, flags and length of an attribute, which occupy the memory too."""


class AttributeFormat(IntEnum):
    """SPC-5 table: attribute formats."""

    BINARY = 0
    ASCII = 1
    TEXT = 2


class MamError(CartridgeError):
    """The attribute cannot be stored: read-only, unknown, of the wrong format or length, or the memory is full."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute's value. Binary values are big endian; ASCII is padded with blanks, text with zeros."""

    identifier: int
    format: AttributeFormat
    read_only: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Definition:
    """A row of SPC-5's tables. length: in bytes, exactly; with `variable` the most."""

    identifier: int
    name: str
    format: AttributeFormat
    length: int
    variable: bool = False

    def takes_length(self, length: int) -> bool:
        """Whether a value may have so many bytes; none at all deletes the attribute (SPC-5 6.48)."""
        return length in (0, self.length) or (self.variable and length < self.length)


def _rows(
    *rows: tuple[int, str, AttributeFormat, int] | tuple[int, str, AttributeFormat, int, bool],
) -> dict[int, Definition]:
    return {row[0]: Definition(*row) for row in rows}


HOST: Final = _rows(
    (0x0800, "application vendor", AttributeFormat.ASCII, 8),
    (0x0801, "application name", AttributeFormat.ASCII, 32),
    (0x0802, "application version", AttributeFormat.ASCII, 8),
    (0x0803, "user medium text label", AttributeFormat.TEXT, 160),
    (0x0804, "date and time last written", AttributeFormat.ASCII, 12),
    (0x0805, "text localization identifier", AttributeFormat.BINARY, 1),
    (0x0806, "barcode", AttributeFormat.ASCII, 32),
    (0x0807, "owning host textual name", AttributeFormat.TEXT, 80),
    (0x0808, "media pool", AttributeFormat.TEXT, 160),
    (0x0809, "partition user text label", AttributeFormat.ASCII, 16),
    (0x080A, "load/unload at partition", AttributeFormat.BINARY, 1),
    (0x080B, "application format version", AttributeFormat.ASCII, 16),
    (0x080C, "volume coherency information", AttributeFormat.BINARY, 1023, True),
    (0x0820, "medium globally unique identifier", AttributeFormat.BINARY, 36),
    (0x0821, "media pool globally unique identifier", AttributeFormat.BINARY, 36),
    (0x1623, "volume lock state", AttributeFormat.BINARY, 1),
)
"""Attributes that an initiator may write (1400h-17FFh: any, vendor specific)."""


def host_definition(identifier: int) -> Definition | None:
    """The row of a writable attribute, None when an initiator may not write it."""
    row = HOST.get(identifier)
    if row is None and 0x1400 <= identifier <= 0x17FF:
        return Definition(identifier, "vendor specific host attribute", AttributeFormat.BINARY, 1024, True)
    return row


class MamStore:
    """The host's attributes, by partition. Changes are durable when the call returns.

    damaged: the stored attributes could not be read and are lost (TapeAlert flag 0Fh, cartridge memory failure).
    """

    def __init__(self, files: CartridgeFiles, partitions: list[dict[int, Attribute]], *, damaged: bool = False) -> None:
        self._files = files
        self._partitions = partitions
        self.damaged = damaged

    @classmethod
    def create(cls, files: CartridgeFiles, partition_count: int) -> "MamStore":
        """Raises OSError."""
        store = cls(files, [{} for _ in range(partition_count)])
        store._write()
        return store

    @classmethod
    def read_or_begin(cls, files: CartridgeFiles, partition_count: int) -> "MamStore":
        """As read(), but a damaged memory is an empty one that says so: the data on the medium is whole."""
        try:
            return cls.read(files)
        except (CartridgeDamaged, FileNotFoundError) as error:
            log.warning("the attributes of a cartridge are lost", reason=str(error))
            return cls(files, [{} for _ in range(partition_count)], damaged=True)

    @classmethod
    def read(cls, files: CartridgeFiles) -> "MamStore":
        """Raises CartridgeDamaged, OSError."""
        content = read_document(files, FILE)
        try:
            return cls(files, [cls._decode(rows) for rows in content["partitions"]])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CartridgeDamaged(f"{files.name}/{FILE} is not understood: {error}") from error

    @staticmethod
    def _decode(rows: Document) -> dict[int, Attribute]:
        return {
            int(key, 16): Attribute(int(key, 16), AttributeFormat(row["format"]), False, bytes.fromhex(row["value"]))
            for key, row in rows.items()
        }

    def _write(self) -> None:
        rows = [
            {f"{a.identifier:04x}": {"format": int(a.format), "value": a.value.hex()} for a in attributes.values()}
            for attributes in self._partitions
        ]
        write_document(self._files, FILE, {"partitions": rows})

    def reset(self, partition_count: int) -> None:
        """The medium was formatted: one set of attributes per partition; those of partition 0 stay. Raises OSError."""
        self._partitions = [self._partitions[0] if number == 0 else {} for number in range(partition_count)]
        self._write()

    def get(self, identifier: int, partition: int = 0) -> Attribute | None:
        """None when no such attribute was written."""
        return self._partitions[partition].get(identifier)

    def __iter__(self) -> Iterator[Attribute]:
        """The attributes of partition 0, by identifier."""
        return self.attributes(0)

    def attributes(self, partition: int = 0) -> Iterator[Attribute]:
        """By identifier."""
        return iter(sorted(self._partitions[partition].values(), key=lambda attribute: attribute.identifier))

    def set(self, changes: list[Attribute], partition: int = 0) -> None:
        """Store all of them, or none; an empty value deletes. Raises MamError, OSError."""
        for attribute in changes:
            self._check(attribute)
        merged = dict(self._partitions[partition])
        for attribute in changes:
            merged[attribute.identifier] = attribute
            if not attribute.value:
                del merged[attribute.identifier]
        before = self._partitions[partition]
        self._partitions[partition] = merged
        if self.used_bytes > CAPACITY_BYTES:
            self._partitions[partition] = before
            raise MamError("the medium auxiliary memory is full")
        try:
            self._write()
        except OSError:
            self._partitions[partition] = before
            raise

    @staticmethod
    def _check(attribute: Attribute) -> None:
        row = host_definition(attribute.identifier)
        if row is None:
            raise MamError(f"attribute {attribute.identifier:04X}h cannot be written")
        if attribute.format != row.format and attribute.identifier in HOST:
            raise MamError(f"attribute {attribute.identifier:04X}h has format {row.format.name}")
        if len(attribute.value) > row.length:  # shorter ones were taken by older versions and go on being copied
            raise MamError(f"attribute {attribute.identifier:04X}h has at most {row.length} bytes")

    @property
    def used_bytes(self) -> int:
        """What the stored attributes occupy."""
        return sum(HEADER_BYTES + len(a.value) for attributes in self._partitions for a in attributes.values())
