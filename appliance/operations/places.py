"""Elements as operators name them: slot:1, ie:2, drive:0 or the drive's name, picker, shelf, or an element address.

Slots and import/export elements count from 1 and drives from 0, as `mtx` counts them.
"""

from collections.abc import Mapping

from appliance.failures import Failure, OperatorError
from vlib_images.library.inventory import Element, ElementType, Inventory, NoSuchElement

SHELF = "shelf"
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


def parse_place(inventory: Inventory, drives: Mapping[str, int], text: str) -> Element | None:
    """The element that `text` names, None for the shelf. `drives` maps drive names to element addresses.

    Raises OperatorError NOT_FOUND that says what there is.
    """
    if text == SHELF:
        return None
    address = drives.get(text, int(text) if text.isdecimal() else None)
    word, _, number = text.partition(":")
    if address is None and word in _WORDS and number.isdecimal():
        kind, index = _WORDS[word], int(number) - _FIRST[_WORDS[word]]
        address = inventory.layout.address_of((kind, index)) if index >= 0 else None
    try:
        return inventory.element(-1 if address is None else address)
    except NoSuchElement:
        message = f"there is no place {text!r}; {_what_there_is(inventory, drives)}"
        raise OperatorError(Failure.NOT_FOUND, message) from None


def _what_there_is(inventory: Inventory, drives: Mapping[str, int]) -> str:
    spans = []
    for kind in _WORD_OF:
        if kind is not ElementType.TRANSPORT and (elements := inventory.elements(kind)):
            first, last = format_place(elements[0]), format_place(elements[-1])
            spans.append(first if first == last else f"{first} to {last}")
    return f"the library has {', '.join(spans)}, {', '.join(drives)} and {SHELF}"
