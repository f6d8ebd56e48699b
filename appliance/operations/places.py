"""Elements as operators name them: slot:1, ie:2, drive:0 or the drive's name, picker, shelf, or an element address.

Slots and import/export elements count from 1 and drives from 0, as `mtx` counts them. payroll/slot:1 is the first slot
of partition payroll, and payroll/4096 the element that its media changer shows by that address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from appliance.failures import Failure, OperatorError
from appliance.library.partitions import partition_at
from vlib_images.library.inventory import Element, ElementType, Inventory, NoSuchElement

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles
    from vlib_images.library.elements import Layout
    from vlib_images.library.partition import Partition

SHELF = "shelf"
LONGEST_PLACE = 16
_FIRST = {ElementType.STORAGE: 1, ElementType.IMPORT_EXPORT: 1, ElementType.DRIVE: 0, ElementType.TRANSPORT: 0}
_WORDS = {
    "slot": ElementType.STORAGE,
    "ie": ElementType.IMPORT_EXPORT,
    "drive": ElementType.DRIVE,
    "picker": ElementType.TRANSPORT,
}
_WORD_OF = {kind: (word, _FIRST[kind]) for word, kind in _WORDS.items()}


def format_place(element: Element | None) -> str:
    """The name of an element; None is the shelf."""
    if element is None:
        return SHELF
    word, first = _WORD_OF[element.type]
    return f"{word}:{element.index + first}"


def partition_names(files: LibraryFiles) -> Callable[[Element | None], str | None]:
    """Of an element, the partition that it is in: None where that is none, and where there are no partitions."""
    if not files.settings.partitions:
        return lambda element: None
    partitions = files.partitions()

    def name(element: Element | None) -> str | None:
        partition = partition_at(partitions, element)
        return None if partition is None else partition.name

    return name


def parse_place(
    inventory: Inventory, drives: Mapping[str, int], text: str, partitions: Sequence[Partition] = ()
) -> Element | None:
    """The element that `text` names, None for the shelf. `drives` maps drive names to element addresses.

    Raises OperatorError NOT_FOUND that says what there is.
    """
    if text == SHELF:
        return None
    if "/" in text:
        return _place_in_partition(inventory, partitions, text)
    address = drives[text] if text in drives else _address(inventory.layout, text)
    try:
        return inventory.element(-1 if address is None else address)
    except NoSuchElement:
        message = f"there is no place {text!r}; {_what_there_is(inventory, drives)}"
        raise OperatorError(Failure.NOT_FOUND, message) from None


def _place_in_partition(inventory: Inventory, partitions: Sequence[Partition], text: str) -> Element:
    name, _, place = text.partition("/")
    partition = next((each for each in partitions if each.name == name), None)
    if partition is None:
        raise OperatorError(Failure.NOT_FOUND, f"there is no partition {name}; see: tapebay partition list")
    address = _address(partition.layout, place)
    try:
        return inventory.element(partition.inside(-1 if address is None else address))
    except NoSuchElement:
        message = f"partition {name} has no place {place!r}; see: tapebay partition show {name}"
        raise OperatorError(Failure.NOT_FOUND, message) from None


def _address(layout: Layout, text: str) -> int | None:
    """An element address as it is, or of slot:1 and the like."""
    word, _, number = text.partition(":")
    if not (number if word in _WORDS else text).isdecimal() or len(text) > LONGEST_PLACE:
        return None
    if word not in _WORDS:
        return int(text)
    index = int(number) - _FIRST[_WORDS[word]]
    return layout.address_of((_WORDS[word], index)) if index >= 0 else None


def _what_there_is(inventory: Inventory, drives: Mapping[str, int]) -> str:
    spans = []
    for kind in _WORD_OF:
        if kind is not ElementType.TRANSPORT and (elements := inventory.elements(kind)):
            first, last = format_place(elements[0]), format_place(elements[-1])
            spans.append(first if first == last else f"{first} to {last}")
    return f"the library has {', '.join(spans)}, {', '.join(drives)} and {SHELF}"
