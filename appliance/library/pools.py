"""What is in the pools of a library: how many cartridges, and how many of them requests may have as blank ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from appliance.library.partitions import shown_by
from vlib_images.library.elements import ElementType

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles


class PoolCounts(NamedTuple):
    """holds: cartridges, those on the shelf too. blank: of them those in storage slots that are in no partition; None:
    nobody has looked at all of these yet."""

    holds: int
    blank: int | None


def counts_of(files: LibraryFiles, names: Collection[str], look_seconds: float) -> dict[str, PoolCounts]:
    """Of each pool of these names. look_seconds: how long cartridges may be looked at that nobody has."""
    if not names:
        return {}
    members: dict[str, list[str]] = {name: [] for name in names}
    for barcode in files.inventory.barcodes():
        if (name := files.settings.pool_of(barcode)) in members:
            members[name].append(barcode)
    ready = set(_for_requests(files))
    wanted = {name: [barcode for barcode in held if barcode in ready] for name, held in members.items()}
    known = files.cartridges.look_at([barcode for held in wanted.values() for barcode in held], look_seconds)
    return {
        name: PoolCounts(
            len(members[name]), sum(files.cartridges.blank(barcode) is not None for barcode in held) if known else None
        )
        for name, held in wanted.items()
    }


def _for_requests(files: LibraryFiles) -> Iterator[str]:
    taken = shown_by(files.partitions()) if files.settings.partitions else {}
    for element in files.inventory.elements(ElementType.STORAGE):
        if element.barcode is not None and element.address not in taken:
            yield element.barcode
