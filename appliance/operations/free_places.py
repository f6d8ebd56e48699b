"""Which free slots new cartridges go to: of the partition whose barcode rule they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.failures import Failure, OperatorError

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles
    from vlib_images.library.partition import Partition


def places_in_partitions(files: LibraryFiles, barcodes: Sequence[str], wanted: str | None) -> list[int]:
    """An address for each barcode. wanted: the name of the partition they are for; by default the only one that each of
    them fits. Raises OperatorError: it fits several or none, too few slots are free."""
    partitions = files.partitions()
    if wanted is not None:
        partitions = [partition for partition in partitions if partition.name == wanted]
        if not partitions:
            raise OperatorError(Failure.NOT_FOUND, f"there is no partition {wanted}; see: tapebay partition list")
    owners = {barcode: _owner(partitions, barcode) for barcode in barcodes}
    free = {partition.name: _free(files, partition) for partition in partitions}
    return [_next(free[owner.name], owner, list(owners.values()), files) for owner in owners.values()]


def _owner(partitions: Sequence[Partition], barcode: str) -> Partition:
    fitting = [partition for partition in partitions if partition.admits(barcode)]
    if not fitting:
        rules = ", ".join(f"{partition.name} ({partition.barcodes})" for partition in partitions)
        message = f"{barcode} fits the barcode rule of no partition: {rules}; give it another, or make it --to shelf"
        raise OperatorError(Failure.REFUSED, message)
    if len(fitting) > 1:
        names = ", ".join(partition.name for partition in fitting)
        message = f"{barcode} fits the barcode rule of several partitions: {names}; say which: --partition NAME"
        raise OperatorError(Failure.REFUSED, message)
    return fitting[0]


def _free(files: LibraryFiles, partition: Partition) -> Iterator[int]:
    from vlib_images.library.elements import ElementType
    from vlib_images.library.homes import free_slots

    return free_slots(files.inventory, partition.elements[ElementType.STORAGE])


def _next(free: Iterator[int], owner: Partition, owners: Sequence[Partition], files: LibraryFiles) -> int:
    address = next(free, None)
    if address is None:
        count, needed = len(list(_free(files, owner))), owners.count(owner)
        where = f" in partition {owner.name}" if files.settings.partitions else ""
        message = f"{count} slots are free{where}, {needed} are needed; make the cartridges --to shelf"
        raise OperatorError(Failure.REFUSED, message)
    return address
