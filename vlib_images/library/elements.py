"""What a library consists of: elements of four types, each with an address; and what may be wrong with a change."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple, TypeAlias

BARCODE = re.compile(r"[A-Z0-9][A-Z0-9_-]{0,31}")


class ElementType(IntEnum):
    """What an element is. The numbers are those of SMC-3 table 10, so that a changer needs no second table."""

    TRANSPORT = 1
    STORAGE = 2
    IMPORT_EXPORT = 3
    DRIVE = 4


Place: TypeAlias = tuple[ElementType, int]  # the type of an element and its index among those, from 0


class InventoryError(Exception):
    """A change that the inventory refuses; nothing has changed."""


class NoSuchElement(InventoryError):
    """The library has no element with that address."""


class ElementEmpty(InventoryError):
    """There is no cartridge in the element to move from."""


class ElementFull(InventoryError):
    """There is a cartridge in the element to move to."""


class NoSuchCartridge(InventoryError):
    """No cartridge has that barcode, or it is not where the caller said."""


class BarcodeExists(InventoryError):
    """A cartridge of this library, inside or on the shelf, has that barcode already."""


class BadBarcode(InventoryError):
    """A barcode is 1 to 32 upper-case letters, digits, '-' or '_', the first a letter or digit."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The element addresses of a library, 0..65535, one range per type; the ranges do not overlap."""

    transport: range
    storage: range
    import_export: range
    drives: range

    def __post_init__(self) -> None:
        spans = sorted((elements for _, elements in self.ranges() if elements), key=lambda elements: elements.start)
        if any(not (elements.step == 1 and 0 <= elements.start <= elements[-1] <= 0xFFFF) for elements in spans):
            raise ValueError("element addresses are 0 to 65535, without gaps in a type")
        if any(first.stop > second.start for first, second in pairwise(spans)):
            raise ValueError("element addresses overlap")

    def ranges(self) -> Iterator[tuple[ElementType, range]]:
        yield ElementType.TRANSPORT, self.transport
        yield ElementType.STORAGE, self.storage
        yield ElementType.IMPORT_EXPORT, self.import_export
        yield ElementType.DRIVE, self.drives

    def elements_of(self, kind: ElementType) -> range:
        """The addresses of the elements of one type."""
        match kind:
            case ElementType.TRANSPORT:
                return self.transport
            case ElementType.STORAGE:
                return self.storage
            case ElementType.IMPORT_EXPORT:
                return self.import_export
            case ElementType.DRIVE:
                return self.drives

    def place_of(self, address: int) -> Place:
        """What stands at an element address. Raises NoSuchElement."""
        for kind, elements in self.ranges():
            if address in elements:
                return kind, address - elements.start
        raise NoSuchElement(f"the library has no element {address}")

    def address_of(self, place: Place | None) -> int | None:
        """The element address of a place; None when this layout does not have it."""
        if place is None:
            return None
        elements = self.elements_of(place[0])
        return elements[place[1]] if place[1] < len(elements) else None


class Element(NamedTuple):
    """One element as it is now.

    source: address of the storage or import/export element that the cartridge was last taken from; None if unknown, or
    if that is where it is again.
    placed_by_operator: the cartridge came from outside, not by the robot (SMC-3's ImpExp bit).
    """

    address: int
    type: ElementType
    index: int  # type: ignore[assignment]  # of a tuple too, which nobody wants here
    barcode: str | None
    source: int | None
    placed_by_operator: bool
