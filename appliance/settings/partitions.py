"""Partitions of a library: whether they fit together, and with the library that they cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from appliance.settings.numbers import format_numbers, parse_numbers


class Cut(Protocol):
    """What a partition takes of the library: numbers of slots and import/export slots from 1, and names of drives."""

    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> str: ...
    @property
    def import_export(self) -> str: ...
    @property
    def drives(self) -> Sequence[str]: ...


class _Part(NamedTuple):
    name: str
    slots: str
    import_export: str
    drives: tuple[str, ...]


def problems_with(
    partitions: Sequence[Cut], slot_count: int, import_export_count: int, names: Sequence[str]
) -> Sequence[str]:
    """A line for each thing that a partition names and the library does not have, and for each that two have. names:
    of the library's drives."""
    parts = tuple(_Part(each.name, each.slots, each.import_export, tuple(each.drives)) for each in partitions)
    return _problems(parts, slot_count, import_export_count, tuple(names))


@lru_cache(maxsize=16)  # asked at every change of anything, and there may be tens of thousands of slots
def _problems(parts: tuple[_Part, ...], slots: int, exits: int, drives: tuple[str, ...]) -> Sequence[str]:
    rows = {
        "slot": [(part.name, parse_numbers(part.slots)) for part in parts],
        "import/export slot": [(part.name, parse_numbers(part.import_export)) for part in parts],
    }
    problems = [
        *(f'partition {name} has no slots; write for example "1-20"' for name, numbers in rows["slot"] if not numbers),
        *(line for part in parts for line in _drives(part, drives)),
    ]
    for (what, members), count in zip(rows.items(), (slots, exits), strict=True):
        problems += [line for row in members for line in _missing(what, *row, count)]
        problems += _shared(what, members)
    return [*problems, *_shared("drive", [(part.name, part.drives) for part in parts])]


def _drives(part: _Part, drives: Sequence[str]) -> Iterator[str]:
    for name in part.drives:
        if name not in drives:
            yield f"partition {part.name}: there is no drive {name!r}; the library has {', '.join(drives) or 'none'}"
    if len(set(part.drives)) != len(part.drives):
        yield f"partition {part.name}: a drive is given twice"


def _missing(what: str, name: str, numbers: Sequence[int], count: int) -> Iterator[str]:
    if missing := sorted(number for number in numbers if number > count):
        known = f"1 to {count}" if count else "none"
        yield f"partition {name}: there is no {what} {format_numbers(missing)}; the library has {known}"


def _shared(what: str, rows: Sequence[tuple[str, Sequence[object]]]) -> Iterator[str]:
    """A slot, import/export slot or drive is in one partition at most."""
    owner: dict[object, str] = {}
    for name, members in rows:
        for member in members:
            if (other := owner.setdefault(member, name)) != name:
                yield f"{what} {member} is in partition {other} and in partition {name}; it can be in one"
                break
