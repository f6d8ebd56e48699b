"""The partitions of a library as its media changers show them, made of what the library contains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from appliance.settings.settings import CHANGER, PartitionSettings, Settings
from scsi_targets.devices.changer.models import find_model
from vlib_images.library.elements import ElementType, Place
from vlib_images.library.partition import Partition

if TYPE_CHECKING:
    from vlib_images.library.elements import Element, Layout

SerialNumber = Callable[[str, str | None], str]  # of a device by name, and as configured


def partitions_of(settings: Settings, layout: Layout, serial_number: SerialNumber) -> list[Partition]:
    """One for each [[partitions]]; without any, the whole library. layout: that of the library."""
    changer = settings.changer
    if not settings.partitions:
        return [Partition.whole(CHANGER, changer.model, serial_number(CHANGER, changer.serial), layout)]
    return [_cut(settings, partition, layout, serial_number) for partition in settings.partitions]


def _cut(settings: Settings, partition: PartitionSettings, layout: Layout, serial_number: SerialNumber) -> Partition:
    names = [drive.name for drive in settings.drives]
    return find_model(partition.model or settings.changer.model).partition(
        partition.name,
        serial_number(partition.name, partition.serial),
        transport=layout.transport,
        storage=_addresses(layout.storage, (number - 1 for number in partition.slot_numbers())),
        import_export=_addresses(layout.import_export, (number - 1 for number in partition.import_export_numbers())),
        drives=_addresses(layout.drives, map(names.index, partition.drives)),
        barcodes=partition.barcodes,
    )


def _addresses(elements: range, indexes: Iterable[int]) -> Sequence[int]:
    """The addresses of some of the elements, as far as they are there already: the layout follows the settings when a
    library grows. A range where they are one, which answers quicker."""
    chosen = [elements[index] for index in indexes if index < len(elements)]
    run = range(chosen[0], chosen[-1] + 1) if chosen else range(0)
    return run if list(run) == chosen else tuple(chosen)


def addresses_of(partition: PartitionSettings, model: str) -> dict[str, str]:
    """A partition's own element addresses, first to last, by type of element."""
    layout = find_model(model).layout(
        slots=len(partition.slot_numbers()),
        import_export=len(partition.import_export_numbers()),
        drives=len(partition.drives),
    )
    return {kind.name.lower(): f"{run[0]}-{run[-1]}" for kind, run in layout.ranges() if run}


def places_of(partition: PartitionSettings, settings: Settings) -> dict[Place, int]:
    """The places of the library that a partition has, each with its number in the partition, as operators count."""
    names = {drive.name: index for index, drive in enumerate(settings.drives)}
    slots = {(ElementType.STORAGE, n - 1): at for at, n in enumerate(partition.slot_numbers(), start=1)}
    exits = {(ElementType.IMPORT_EXPORT, n - 1): at for at, n in enumerate(partition.import_export_numbers(), start=1)}
    drives = {(ElementType.DRIVE, names[n]): at for at, n in enumerate(partition.drives) if n in names}
    return {**slots, **exits, **drives}


def elements_beside(partitions: Sequence[Partition], element: Element, layout: Layout) -> list[int]:
    """The addresses of the slots and import/export elements that a cartridge reaches from an element without leaving
    its partition; from an element in none, those that are in none."""
    own = partition_at(partitions, element)
    return [
        address
        for address in (*layout.storage, *layout.import_export)
        if (own is not None and own.outside(address) is not None)
        or (own is None and all(each.outside(address) is None for each in partitions))
    ]


def shown_by(partitions: Iterable[Partition]) -> dict[int, tuple[str, int]]:
    """Of each element of the library that is in a partition: which, and by which address that shows it."""
    return {
        address: (partition.name, own)
        for partition in partitions
        for kind, run in partition.layout.ranges()
        if kind is not ElementType.TRANSPORT
        for address, own in zip(partition.elements[kind], run, strict=True)
    }


def partition_at(partitions: Iterable[Partition], element: Element | None) -> Partition | None:
    """The partition that an element is in. None: in none, as the robot itself is and the shelf (None)."""
    if element is None or element.type is ElementType.TRANSPORT:
        return None
    return next((each for each in partitions if each.outside(element.address) is not None), None)
