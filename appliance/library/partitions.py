"""The partitions of a library as its media changers show them, made of what the library contains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from appliance.settings.sections import CHANGER, PartitionSettings
from appliance.settings.settings import Settings
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


class Holding:
    """Which places of the library a partition has: quick to make and to ask, however many there are."""

    def __init__(self, partition: PartitionSettings, settings: Settings) -> None:
        self.partition = partition
        names = [drive.name for drive in settings.drives]
        self._numbers = {
            ElementType.STORAGE: frozenset(partition.slot_numbers()),
            ElementType.IMPORT_EXPORT: frozenset(partition.import_export_numbers()),
            ElementType.DRIVE: frozenset(names.index(name) + 1 for name in partition.drives if name in names),
        }

    def __contains__(self, place: Place) -> bool:
        return place[1] + 1 in self._numbers.get(place[0], ())


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
