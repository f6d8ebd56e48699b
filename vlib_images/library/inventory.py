"""Which cartridge is where: the elements of a library, the shelf outside it, and durable moves between them.

The stored form has one record per cartridge, naming its place, so a cartridge cannot be in two places. Places are
stored as type and index ("storage:3"), not as element addresses: a library that changes its model, and with it its
addresses, keeps its cartridges where they were.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from vlib_images.library.state import JsonValue, StateStore

NAMESPACE = "inventory"
BARCODE = re.compile(r"[A-Z0-9][A-Z0-9_-]{0,31}")


class ElementType(IntEnum):
    """What an element is. The numbers are those of SMC-3 table 10, so that a changer needs no second table."""

    TRANSPORT = 1
    STORAGE = 2
    IMPORT_EXPORT = 3
    DRIVE = 4


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
        addresses = [address for _, elements in self.ranges() for address in elements]
        if len(addresses) != len(set(addresses)):
            raise ValueError("element addresses overlap")
        if any(not 0 <= address <= 0xFFFF for address in addresses):
            raise ValueError("element addresses are 0 to 65535")

    def ranges(self) -> Iterator[tuple[ElementType, range]]:
        yield ElementType.TRANSPORT, self.transport
        yield ElementType.STORAGE, self.storage
        yield ElementType.IMPORT_EXPORT, self.import_export
        yield ElementType.DRIVE, self.drives


@dataclass(frozen=True, slots=True)
class Element:
    """One element as it is now.

    source: address of the storage or import/export element that the cartridge was last taken from, None if unknown.
    placed_by_operator: the cartridge came from outside, not by the robot (SMC-3's ImpExp bit).
    """

    address: int
    type: ElementType
    index: int
    barcode: str | None
    source: int | None
    placed_by_operator: bool


@dataclass(frozen=True, slots=True)
class _Record:
    """A cartridge's stored record; place and source are "type:index" or None (shelf, unknown)."""

    place: str | None
    source: str | None = None
    placed_by_operator: bool = False

    @classmethod
    def parse(cls, value: JsonValue) -> "_Record":
        match value:
            case {
                "place": str() | None as place,
                "source": str() | None as source,
                "by_operator": bool() as by_operator,
            }:
                return cls(place, source, by_operator)
        raise InventoryError(f"inventory record not understood: {value!r}")

    def encode(self) -> JsonValue:
        return {"place": self.place, "source": self.source, "by_operator": self.placed_by_operator}


class Inventory:
    """The elements of one library and the cartridges in and outside them. Thread-safe.

    Every change is one durable step: it has happened when the call returns, and after a crash it has happened whole or
    not at all. Changes raise InventoryError (refused) or OSError (storage failed); then nothing has changed.
    `evicted` lists the cartridges whose element the layout no longer has; opening put them on the shelf.
    """

    def __init__(self, store: StateStore, layout: Layout) -> None:
        """Raises StateDamaged, OSError, or InventoryError when the stored records contradict each other."""
        self._store = store
        self._lock = threading.Lock()
        self.layout = layout
        self._address: dict[str, int] = {}
        self._elements: dict[int, tuple[ElementType, int, str]] = {}
        for kind, addresses in layout.ranges():
            for index, address in enumerate(addresses):
                place = f"{kind.name.lower()}:{index}"
                self._elements[address] = (kind, index, place)
                self._address[place] = address
        self._records = {barcode: _Record.parse(value) for barcode, value in store.items(NAMESPACE).items()}
        self._occupant: dict[str, str] = {}
        self._index()
        self.evicted = self._evict()

    def elements(self, kind: ElementType | None = None) -> list[Element]:
        """The elements of one type, or all, in the order of the layout."""
        with self._lock:
            return [self._element(address) for address, row in self._elements.items() if kind in (None, row[0])]

    def element(self, address: int) -> Element:
        """Raises NoSuchElement."""
        with self._lock:
            return self._element(address)

    def find(self, barcode: str) -> Element | None:
        """Where a cartridge is; None: on the shelf. Raises NoSuchCartridge."""
        with self._lock:
            place = self._record(barcode).place
            return None if place is None else self._element(self._address[place])

    def barcodes(self) -> list[str]:
        """Every cartridge of the library, inside and on the shelf, sorted."""
        with self._lock:
            return sorted(self._records)

    def shelf(self) -> list[str]:
        """The cartridges outside the library, sorted."""
        with self._lock:
            return sorted(barcode for barcode, record in self._records.items() if record.place is None)

    def first_empty(self, kind: ElementType) -> Element | None:
        """The empty element of that type with the lowest index, None when all are full."""
        return next((element for element in self.elements(kind) if element.barcode is None), None)

    def check_new(self, barcode: str) -> None:
        """Whether a new cartridge may have this barcode. Raises BadBarcode, BarcodeExists."""
        if not BARCODE.fullmatch(barcode):
            raise BadBarcode(f"{barcode!r} is not a barcode: {BadBarcode.__doc__}")
        if barcode in self._records:
            raise BarcodeExists(f"the library has a cartridge {barcode} already")

    def add(self, barcode: str, address: int | None = None) -> None:
        """A new cartridge, on the shelf or in an empty element. Raises BadBarcode, BarcodeExists, ElementFull, ..."""
        with self._lock:
            self.check_new(barcode)
            place = None if address is None else self._empty_place(address)
            self._commit({barcode: _Record(place, placed_by_operator=place is not None)})

    def discard(self, barcode: str) -> None:
        """Forget a cartridge, wherever it is. Raises NoSuchCartridge."""
        with self._lock:
            self._record(barcode)
            self._commit({barcode: None})

    def insert(self, barcode: str, address: int) -> None:
        """The operator puts a cartridge from the shelf into an element. Raises NoSuchCartridge, ElementFull, ..."""
        with self._lock:
            if self._record(barcode).place is not None:
                raise NoSuchCartridge(f"cartridge {barcode} is not on the shelf")
            self._commit({barcode: _Record(self._empty_place(address), placed_by_operator=True)})

    def remove(self, address: int) -> str:
        """The operator takes the cartridge of an element to the shelf; returns its barcode. Raises ElementEmpty, ..."""
        with self._lock:
            barcode = self._occupied(address)
            self._commit({barcode: _Record(None)})
            return barcode

    def move(self, source: int, destination: int) -> str:
        """The robot moves a cartridge; returns its barcode. Moving to the same element changes nothing.

        Raises NoSuchElement, ElementEmpty (source), ElementFull (destination).
        """
        with self._lock:
            barcode = self._occupied(source)
            if source != destination:
                self._commit({barcode: self._moved(barcode, self._empty_place(destination))})
            return barcode

    def exchange(self, source: int, first_destination: int, second_destination: int) -> tuple[str, str]:
        """The robot moves source to first_destination, and what was there to second_destination, in one step.

        second_destination may be source (a swap). Returns the two barcodes in that order.
        Raises NoSuchElement, ElementEmpty (source or first_destination), ElementFull (second_destination).
        """
        with self._lock:
            first, second = self._occupied(source), self._occupied(first_destination)
            if first == second:
                raise ElementFull(f"element {first_destination} cannot be exchanged with itself")
            place = self._elements[source][2] if second_destination == source else self._empty_place(second_destination)
            self._commit(
                {first: self._moved(first, self._elements[first_destination][2]), second: self._moved(second, place)}
            )
            return first, second

    def _moved(self, barcode: str, place: str) -> _Record:
        old = self._records[barcode]
        # SMC-3 6.11: the source is the last *storage* element; a stay in a drive or in the picker does not change it.
        from_slot = old.place is not None and not old.place.startswith(("drive:", "transport:"))
        return replace(old, place=place, source=old.place if from_slot else old.source, placed_by_operator=False)

    def _element(self, address: int) -> Element:
        kind, index, place = self._row(address)
        barcode = self._occupant.get(place)
        if barcode is None:
            return Element(address, kind, index, None, None, False)
        record = self._records[barcode]
        source = None if record.source is None else self._address.get(record.source)
        return Element(address, kind, index, barcode, source, record.placed_by_operator)

    def _row(self, address: int) -> tuple[ElementType, int, str]:
        try:
            return self._elements[address]
        except KeyError:
            raise NoSuchElement(f"the library has no element {address}") from None

    def _record(self, barcode: str) -> _Record:
        try:
            return self._records[barcode]
        except KeyError:
            raise NoSuchCartridge(f"the library has no cartridge {barcode}") from None

    def _occupied(self, address: int) -> str:
        barcode = self._occupant.get(self._row(address)[2])
        if barcode is None:
            raise ElementEmpty(f"element {address} is empty")
        return barcode

    def _empty_place(self, address: int) -> str:
        place = self._row(address)[2]
        if place in self._occupant:
            raise ElementFull(f"element {address} holds cartridge {self._occupant[place]}")
        return place

    def _commit(self, changes: Mapping[str, _Record | None]) -> None:
        """Durable first, then in memory: a failed write leaves both as they were."""
        encoded = {barcode: None if record is None else record.encode() for barcode, record in changes.items()}
        self._store.update(NAMESPACE, encoded)
        records = {**self._records, **changes}
        self._records = {barcode: record for barcode, record in records.items() if record is not None}
        self._index()

    def _index(self) -> None:
        occupant: dict[str, str] = {}
        for barcode, record in self._records.items():
            if record.place is not None and (other := occupant.setdefault(record.place, barcode)) != barcode:
                raise InventoryError(f"the inventory says that {other} and {barcode} are both in {record.place}")
        self._occupant = occupant

    def _evict(self) -> list[str]:
        homeless = sorted(barcode for place, barcode in self._occupant.items() if place not in self._address)
        if homeless:
            self._commit(dict.fromkeys(homeless, _Record(None)))
        return homeless
