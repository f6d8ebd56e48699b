"""What of the library is in a caller's reach: tokens may be for some of its partitions or pools only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OnFiles

if TYPE_CHECKING:
    from vlib_images.library.elements import Element


class Reach:
    """Of one caller, as the library is now."""

    def __init__(self, context: OnFiles) -> None:
        self._caller, self._files = context.caller, context.files
        self._partitions = context.files.partitions() if context.caller.partitions is not None else []

    def has(self, element: Element | None) -> bool:
        """Whether it may see and use an element (None: the shelf): one of its partitions has it, and it holds a
        cartridge of its pools, if the caller is for such. So an empty place is in no pool's reach."""
        if self._caller.pools is not None and (element is None or not self._in_pools(element.barcode)):
            return False
        return self._in_partitions(element)

    def has_cartridge(self, barcode: str) -> bool:
        """Whether it may see a cartridge and ask for it: wherever it is, if the caller is for pools only."""
        if not self._caller.confined:
            return True
        if barcode not in self._files.inventory or not self._in_pools(barcode):
            return False
        return self._caller.partitions is None or self._in_partitions(self._files.inventory.find(barcode))

    def _in_pools(self, barcode: str | None) -> bool:
        if self._caller.pools is None:
            return True
        pool = None if barcode is None else self._files.settings.pool_of(barcode)
        return pool is not None and pool in self._caller.pools

    def _in_partitions(self, element: Element | None) -> bool:
        from appliance.library.partitions import partition_at

        if self._caller.partitions is None:
            return True
        partition = partition_at(self._partitions, element)
        return partition is not None and partition.name in self._caller.partitions


def in_reach(context: OnFiles, element: Element | None) -> bool:
    """Whether the caller may see and use an element (None: the shelf)."""
    return Reach(context).has(element)


def refuse_beyond(context: OnFiles, *elements: Element | None) -> None:
    """Raises OperatorError NOT_PERMITTED when one of them is not in the caller's reach."""
    from appliance.operations.places import format_place

    reach, kind = Reach(context), "partition" if context.caller.pools is None else "pool"
    for element in elements:
        if not reach.has(element):
            where = format_place(element)
            raise OperatorError(Failure.NOT_PERMITTED, f"{where} is in no {kind} that {context.caller.name} is for")


def refuse_unknown(context: OnFiles, barcode: str) -> None:
    """Raises OperatorError NOT_FOUND when a cartridge is not in the caller's reach, as if there were none."""
    if not Reach(context).has_cartridge(barcode):
        raise OperatorError(Failure.NOT_FOUND, f"there is no cartridge {barcode} in the library")


def barcodes_in_reach(context: OnFiles) -> list[str]:
    """The cartridges in the caller's reach, sorted."""
    reach = Reach(context)
    return [barcode for barcode in context.files.inventory.barcodes() if reach.has_cartridge(barcode)]
