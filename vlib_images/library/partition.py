"""Partitions: one library cut into several whole ones, each with element addresses of its own.

The inventory knows every element of the library by one address. A partition says which of those elements are its own
and by which address its media changer shows each: from the first to the last of a kind without a gap, whichever
elements of the library they are. The whole library is a partition too, in which both addresses are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

from vlib_images.library.elements import Element, ElementType, Layout

if TYPE_CHECKING:  # which brings the database with it
    from vlib_images.library.inventory import Inventory


@dataclass(frozen=True)
class Partition:
    """Plain data: what a media changer shows, and as what.

    layout: the partition's own element addresses. elements: for each kind the inventory's addresses of its elements, in
    the order of the partition's own; the transport is the library's one robot and may be in every partition.
    barcodes: the cartridges that belong here, patterns with * and ? between commas. model, serial_number: of the media
    changer.
    """

    name: str
    model: str
    serial_number: str
    layout: Layout
    elements: Mapping[ElementType, Sequence[int]] = field(repr=False)
    barcodes: str = "*"

    def __post_init__(self) -> None:
        """ValueError: not as many elements of a kind as addresses for them, or one twice."""
        for kind, addresses in self.layout.ranges():
            members = self.elements.get(kind, ())
            if len(members) != len(addresses):
                raise ValueError(f"partition {self.name}: {len(addresses)} addresses for {len(members)} {kind.name}")
            if not isinstance(members, range) and len(set(members)) != len(members):
                raise ValueError(f"partition {self.name}: the same {kind.name} element twice")

    @classmethod
    def whole(cls, name: str, model: str, serial_number: str, layout: Layout) -> Partition:
        """The whole library that an inventory with this layout has."""
        return cls(name, model, serial_number, layout, dict(layout.ranges()))

    def inside(self, address: int) -> int:
        """The inventory's address of an element by the partition's own. Raises NoSuchElement."""
        kind, position = self.layout.place_of(address)
        return self.elements[kind][position]

    def members(self, kind: ElementType, addresses: Sequence[int]) -> Sequence[int]:
        """The inventory's addresses of elements of one kind, by the partition's own; quick for a range of them."""
        first, members = self.layout.elements_of(kind).start, self.elements[kind]
        if isinstance(addresses, range):
            return members[addresses.start - first : addresses.stop - first]
        return [members[address - first] for address in addresses]

    def look(self, inventory: Inventory, kind: ElementType, addresses: Sequence[int]) -> list[Element]:
        """Elements of one kind, by the partition's own addresses, as they are now."""
        members = self.members(kind, addresses)
        if isinstance(members, range):
            return inventory.elements(kind, members)
        return [inventory.element(address) for address in members]

    def outside(self, address: int) -> int | None:
        """The partition's own address of an element of the inventory, None when it is not in this partition."""
        for kind, addresses in self.layout.ranges():
            if (position := self._position(kind, address)) is not None:
                return addresses[position]
        return None

    def admits(self, barcode: str) -> bool:
        """Whether a cartridge of that barcode belongs here."""
        return admits(self.barcodes, barcode)

    def changed_kinds(self, layout: Layout, before: Partition, layout_before: Layout) -> set[ElementType]:
        """The types of elements of which `before`, in a library with that layout, had others or by other addresses than
        this partition has now: an element is the same when it is the third slot of the library still."""
        return {
            kind
            for kind, addresses in self.layout.ranges()
            if addresses != before.layout.elements_of(kind)
            or self._indexes(kind, layout) != before._indexes(kind, layout_before)
        }

    def _indexes(self, kind: ElementType, layout: Layout) -> list[int]:
        first = layout.elements_of(kind).start
        return [address - first for address in self.elements[kind]]

    def _position(self, kind: ElementType, address: int) -> int | None:
        members = self.elements.get(kind, ())
        if isinstance(members, range):
            return members.index(address) if address in members else None
        return self._positions[kind].get(address)

    @cached_property
    def _positions(self) -> dict[ElementType, dict[int, int]]:
        """Of the kinds whose elements are no range: a dictionary answers as quickly."""
        return {
            kind: {address: position for position, address in enumerate(members)}
            for kind, members in self.elements.items()
        }


def admits(patterns: str, barcode: str) -> bool:
    """Whether a barcode fits one of the patterns between commas."""
    return any(fnmatchcase(barcode, pattern) for pattern in patterns.split(","))
