"""What of the library is in a caller's reach: tokens may be for some of its partitions only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OnFiles

if TYPE_CHECKING:
    from vlib_images.library.elements import Element


def in_reach(context: OnFiles, element: Element | None) -> bool:
    """Whether an element (None: the shelf) is in a partition that the caller may see and use."""
    from appliance.library.partitions import partition_at

    if not context.caller.confined:
        return True
    partition = partition_at(context.files.partitions(), element)
    return partition is not None and context.caller.reaches(partition.name)


def refuse_beyond(context: OnFiles, *elements: Element | None) -> None:
    """Raises OperatorError NOT_PERMITTED when one of them is not in the caller's reach."""
    from appliance.operations.places import format_place

    for element in elements:
        if not in_reach(context, element):
            where = format_place(element)
            raise OperatorError(Failure.NOT_PERMITTED, f"{where} is in no partition that {context.caller.name} is for")


def refuse_unknown(context: OnFiles, barcode: str) -> None:
    """Raises OperatorError NOT_FOUND when a cartridge is not in the caller's reach, as if there were none."""
    inventory = context.files.inventory
    if context.caller.confined and (barcode not in inventory or not in_reach(context, inventory.find(barcode))):
        raise OperatorError(Failure.NOT_FOUND, f"there is no cartridge {barcode} in the library")


def barcodes_in_reach(context: OnFiles) -> list[str]:
    """The cartridges in the caller's reach, sorted."""
    inventory = context.files.inventory
    if not context.caller.confined:
        return inventory.barcodes()
    return sorted(each.barcode for each in inventory.elements() if each.barcode and in_reach(context, each))
