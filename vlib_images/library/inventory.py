"""Which cartridge is where: the elements of a library, the shelf outside it, and durable moves between them.

It stands in the database, one row for each cartridge naming its place, so a cartridge cannot be in two places. A copy
in memory answers every question; a change goes to the database first and then costs what it changes, whatever the
size of the library.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from vlib_images.library.database import inventory_rows
from vlib_images.library.database.batches import batches
from vlib_images.library.database.database import Database
from vlib_images.library.database.events import Event
from vlib_images.library.database.inventory_rows import Record
from vlib_images.library.elements import (
    BARCODE,
    BadBarcode,
    BarcodeExists,
    Element,
    ElementEmpty,
    ElementFull,
    ElementType,
    InventoryError,
    Layout,
    NoSuchCartridge,
    NoSuchElement,
    Place,
)
from vlib_images.library.fair_lock import FairLock

__all__ = [
    "BARCODE", "BadBarcode", "BarcodeExists", "Element", "ElementEmpty", "ElementFull", "ElementType", "Inventory",
    "InventoryError", "Layout", "NoSuchCartridge", "NoSuchElement",
]  # fmt: skip


class Inventory:
    """The elements of one library and the cartridges in and outside them. Thread-safe; readers wait for no disk.

    Every change is one durable step: it has happened when the call returns, and after a crash it has happened whole or
    not at all. Changes raise InventoryError (refused) or OSError (storage failed); then nothing has changed.
    `evicted` lists the cartridges whose element the layout no longer has; opening put them on the shelf.
    """

    def __init__(self, database: Database, layout: Layout) -> None:
        """Raises StateDamaged, OSError."""
        self._database = database
        self.layout = layout
        self._changing = FairLock()  # taken before the database's turn
        self._lock = threading.Lock()  # guards the three mappings, held for as long as memory takes
        self._read()
        self.evicted = self._evict()

    def _read(self) -> None:
        with self._database.read() as connection:
            records = inventory_rows.read(connection, self._database.path)
        with self._lock:
            self._records = records
            self._occupant = {record.place: barcode for barcode, record in records.items() if record.place}
            self._shown: dict[Place, Element] = {}  # what has been asked for since it changed

    # ---- questions -------------------------------------------------------------------------------------------------

    def elements(self, kind: ElementType | None = None, addresses: Iterable[int] | None = None) -> list[Element]:
        """The elements of one type, or all, in the order of the layout; only those of `addresses` when given, for what
        those cost."""
        wanted = addresses if addresses is None or isinstance(addresses, range) else sorted(addresses)
        with self._lock:
            return [
                self._element(address, (each, address - elements.start))
                for each, elements in self.layout.ranges()
                if kind in (None, each)
                for address in _common(elements, wanted)
            ]

    def element(self, address: int) -> Element:
        """Raises NoSuchElement."""
        with self._lock:
            return self._element(address, self.layout.place_of(address))

    def find(self, barcode: str) -> Element | None:
        """Where a cartridge is; None: on the shelf. Raises NoSuchCartridge."""
        with self._lock:
            place = self._record(barcode).place
            address = self.layout.address_of(place)
            return None if place is None or address is None else self._element(address, place)

    def places(self) -> dict[Place, str]:
        """The cartridges inside the library, by place."""
        with self._lock:
            return dict(self._occupant)

    def __contains__(self, barcode: str) -> bool:
        """Whether the library has that cartridge, inside or on the shelf."""
        return barcode in self._records

    def barcodes(self) -> list[str]:
        """Every cartridge of the library, inside and on the shelf, sorted."""
        with self._lock:
            return sorted(self._records)

    def shelf(self) -> list[str]:
        """The cartridges outside the library, sorted."""
        with self._lock:
            return sorted(barcode for barcode, record in self._records.items() if record.place is None)

    def check_new(self, barcode: str) -> None:
        """Whether a new cartridge may have this barcode. Raises BadBarcode, BarcodeExists."""
        if not BARCODE.fullmatch(barcode):
            raise BadBarcode(f"{barcode!r} is not a barcode: {BadBarcode.__doc__}")
        if barcode in self._records:
            raise BarcodeExists(f"the library has a cartridge {barcode} already")

    # ---- changes ---------------------------------------------------------------------------------------------------

    def add(self, barcode: str, address: int | None = None) -> None:
        """A new cartridge, on the shelf or in an empty element. Raises BadBarcode, BarcodeExists, ElementFull, ..."""
        with self._changing:
            self._add([(barcode, address)])

    def add_all(self, cartridges: Collection[tuple[str, int | None]]) -> Iterator[int]:
        """New cartridges, each as add() takes one, in batches between which other changes get their turn; yields how
        many there are after each batch. Raises as add() does, and then nothing of that batch has been added."""
        done = 0
        for batch in batches(list(cartridges)):
            with self._changing:
                self._add(batch)
            done += len(batch)
            yield done

    def discard(self, barcode: str) -> None:
        """Forget a cartridge, wherever it is. Raises NoSuchCartridge."""
        with self._changing:
            place = self._record(barcode).place
            self._commit({barcode: None}, [Event("cartridge forgotten", barcode, {"from": _name(place)})])

    def insert(self, barcode: str, address: int) -> None:
        """The operator puts a cartridge from the shelf into an element. Raises NoSuchCartridge, ElementFull, ..."""
        with self._changing:
            if self._record(barcode).place is not None:
                raise NoSuchCartridge(f"cartridge {barcode} is not on the shelf")
            place = self._empty_place(address)
            event = Event("cartridge put in", barcode, {"to": _name(place)})
            self._commit({barcode: Record(place, placed_by_operator=True)}, [event])

    def remove(self, address: int) -> str:
        """The operator takes the cartridge of an element to the shelf; returns its barcode. Raises ElementEmpty, ..."""
        with self._changing:
            barcode = self._occupied(address)
            event = Event("cartridge taken out", barcode, {"from": _name(self.layout.place_of(address))})
            self._commit({barcode: Record(None)}, [event])
            return barcode

    def move(self, source: int, destination: int, between: tuple[str | None, str | None] | None = None) -> str:
        """The robot moves a cartridge; returns its barcode. Moving to the same element changes nothing. between: from
        which partition to which, for the audit record, when they are not one.

        Raises NoSuchElement, ElementEmpty (source), ElementFull (destination).
        """
        with self._changing:
            barcode = self._occupied(source)
            if source != destination:
                self._move({barcode: self._empty_place(destination)}, between)
            return barcode

    def exchange(self, source: int, first_destination: int, second_destination: int) -> tuple[str, str]:
        """The robot moves source to first_destination, and what was there to second_destination, in one step.

        second_destination may be source (a swap). Returns the two barcodes in that order.
        Raises NoSuchElement, ElementEmpty (source or first_destination), ElementFull (second_destination).
        """
        with self._changing:
            first, second = self._occupied(source), self._occupied(first_destination)
            if first == second:
                raise ElementFull(f"element {first_destination} cannot be exchanged with itself")
            swap = second_destination == source
            place = self.layout.place_of(source) if swap else self._empty_place(second_destination)
            self._move({first: self.layout.place_of(first_destination), second: place})
            return first, second

    def refit(self, layout: Layout) -> None:
        """The library has other elements, or other addresses for them, from now on; each cartridge stays in its place,
        the third slot being the third slot still. Raises InventoryError: an element that holds a cartridge would go."""
        with self._changing:
            self.check_refit(layout)
            with self._lock:
                self.layout = layout
                self._shown.clear()

    def check_refit(self, layout: Layout) -> None:
        """Whether refit() would be refused while nothing moves. Raises InventoryError."""
        with self._lock:
            occupied = sorted(self._occupant.items())
        for place, barcode in occupied:
            if layout.address_of(place) is None:
                raise InventoryError(f"cartridge {barcode} is in {_name(place)}, which would go; move it first")

    # ---- the parts of a change: whoever calls them holds `_changing` -----------------------------------------------

    def _add(self, cartridges: Iterable[tuple[str, int | None]]) -> None:
        changes: dict[str, Record | None] = {}
        taken: set[Place] = set()
        for barcode, address in cartridges:
            self.check_new(barcode)
            place = None if address is None else self._empty_place(address)
            if barcode in changes:
                raise BarcodeExists(f"cartridge {barcode} is given twice")
            if place in taken:
                raise ElementFull(f"element {address} is given twice")
            changes[barcode] = Record(place, placed_by_operator=place is not None)
            taken |= {place} if place is not None else set()
        self._commit(
            changes,
            [
                Event("cartridge added", barcode, {"to": _name(r.place)})
                for barcode, r in changes.items()
                if r is not None
            ],
        )

    def _move(self, places: Mapping[str, Place], between: tuple[str | None, str | None] | None = None) -> None:
        action = "cartridge moved between partitions" if between else "cartridge moved"
        more = {"from_partition": between[0], "to_partition": between[1]} if between else {}
        events = [
            Event(action, barcode, {"from": _name(self._records[barcode].place), "to": _name(place), **more})
            for barcode, place in places.items()
        ]
        self._commit({barcode: self._moved(barcode, place) for barcode, place in places.items()}, events)

    def _moved(self, barcode: str, place: Place) -> Record:
        old = self._records[barcode]
        # SMC-3 6.11: the source is the last *storage* element; a stay in a drive or in the picker does not change it.
        from_slot = old.place is not None and old.place[0] not in (ElementType.DRIVE, ElementType.TRANSPORT)
        return replace(old, place=place, source=old.place if from_slot else old.source, placed_by_operator=False)

    def _commit(self, changes: Mapping[str, Record | None], events: Iterable[Event]) -> None:
        """Durable first, then in memory: a failed write leaves both as they were."""
        try:
            with self._database.change(*events) as connection:
                inventory_rows.write(connection, changes, known=self._records.keys())
            self._remember(changes)
        except Exception:
            raise
        except BaseException:  # the thread is being ended, and only the database knows how far it came
            self._read()
            raise

    def _remember(self, changes: Mapping[str, Record | None]) -> None:
        with self._lock:
            for barcode in changes:
                old = self._records.pop(barcode, None)
                if old is not None and old.place is not None:
                    del self._occupant[old.place]
                    self._shown.pop(old.place, None)
            for barcode, record in changes.items():
                if record is not None:
                    self._records[barcode] = record
                    if record.place is not None:
                        self._occupant[record.place] = barcode
                        self._shown.pop(record.place, None)

    def _evict(self) -> list[str]:
        homeless = sorted(b for place, b in self._occupant.items() if self.layout.address_of(place) is None)
        for batch in batches(homeless):
            with self._changing:
                events = [
                    Event("cartridge put on the shelf", barcode, {"from": _name(self._records[barcode].place)})
                    for barcode in batch
                ]
                self._commit(dict.fromkeys(batch, Record(None)), events)
        return homeless

    # ---- lookups in memory -----------------------------------------------------------------------------------------

    def _element(self, address: int, place: Place) -> Element:
        if (shown := self._shown.get(place)) is None:
            shown = self._shown[place] = self._look(address, place)
        return shown

    def _look(self, address: int, place: Place) -> Element:
        barcode = self._occupant.get(place)
        if barcode is None:
            return Element(address, *place, None, None, False)
        record = self._records[barcode]
        source = None if record.source in (None, place) else self.layout.address_of(record.source)
        return Element(address, *place, barcode, source, record.placed_by_operator)

    def _record(self, barcode: str) -> Record:
        try:
            return self._records[barcode]
        except KeyError:
            raise NoSuchCartridge(f"the library has no cartridge {barcode}") from None

    def _occupied(self, address: int) -> str:
        barcode = self._occupant.get(self.layout.place_of(address))
        if barcode is None:
            raise ElementEmpty(f"element {address} is empty")
        return barcode

    def _empty_place(self, address: int) -> Place:
        place = self.layout.place_of(address)
        if place in self._occupant:
            raise ElementFull(f"element {address} holds cartridge {self._occupant[place]}")
        return place


def _common(elements: range, addresses: range | list[int] | None) -> Iterable[int]:
    if addresses is None:
        return elements
    if isinstance(addresses, list) or addresses.step != 1:
        return [address for address in addresses if address in elements]
    return range(max(elements.start, addresses.start), min(elements.stop, addresses.stop))


def _name(place: Place | None) -> str:
    return "shelf" if place is None else f"{place[0].name.lower()}:{place[1]}"
