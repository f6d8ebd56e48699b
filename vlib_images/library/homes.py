"""Home slots: where the cartridges that are in drives came from, and go back to.

Backup software unloads a drive into the slot that READ ELEMENT STATUS names as the cartridge's source. Who puts another
cartridge there makes that unload fail: where the choice is ours, a home slot is filled only when no other is free.
"""

from collections.abc import Iterable, Iterator

from vlib_images.library.elements import Element, ElementType
from vlib_images.library.inventory import Inventory


def homes(inventory: Inventory) -> dict[int, str]:
    """Addresses of the empty elements that cartridges in drives came from, and those cartridges' barcodes."""
    kept = {}
    for drive in inventory.elements(ElementType.DRIVE):
        if drive.barcode and drive.source is not None and inventory.element(drive.source).barcode is None:
            kept[drive.source] = drive.barcode
    return kept


def free_slots(inventory: Inventory, among: Iterable[int] | None = None) -> Iterator[int]:
    """Addresses of empty storage slots, in order, home slots last. among: only these (a partition's)."""
    kept = homes(inventory)
    chosen = None if among is None else set(among)
    last = []
    for slot in inventory.elements(ElementType.STORAGE):
        if slot.barcode is None and (chosen is None or slot.address in chosen):
            if slot.address in kept:
                last.append(slot.address)
            else:
                yield slot.address
    yield from last


def home_of(inventory: Inventory, drive: Element, among: Iterable[int] | None = None) -> int | None:
    """Where the cartridge of a drive goes: to its home when that is free, else to a free slot. None: all are full.
    among: only to these (what the drive's partition has)."""
    chosen = None if among is None else set(among)
    home = drive.source
    if home is not None and (chosen is None or home in chosen) and inventory.element(home).barcode is None:
        return home
    return next(free_slots(inventory, chosen), None)
