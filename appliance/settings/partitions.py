"""Partitions of a library: whether they fit together, and with the library that they cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from appliance.settings.numbers import format_numbers


class Cut(Protocol):
    """What a partition takes of the library: numbers of slots and import/export slots from 1, and names of drives."""

    @property
    def name(self) -> str: ...
    @property
    def drives(self) -> Sequence[str]: ...
    def slot_numbers(self) -> Sequence[int]: ...
    def import_export_numbers(self) -> Sequence[int]: ...


def problems_with(
    partitions: Sequence[Cut], slot_count: int, import_export_count: int, names: Sequence[str]
) -> Iterator[str]:
    """A line for each thing that a partition names and the library does not have, and for each that two have. names:
    of the library's drives."""
    slots, exits = range(1, slot_count + 1), range(1, import_export_count + 1)
    for partition in partitions:
        if not partition.slot_numbers():
            yield f'partition {partition.name} has no slots; write for example "1-20"'
        yield from _missing(partition.name, "slot", partition.slot_numbers(), slots)
        yield from _missing(partition.name, "import/export slot", partition.import_export_numbers(), exits)
        for name in partition.drives:
            if name not in names:
                known = ", ".join(names) or "none"
                yield f"partition {partition.name}: there is no drive {name!r}; the library has {known}"
        if len(set(partition.drives)) != len(partition.drives):
            yield f"partition {partition.name}: a drive is given twice"
    yield from _shared("slot", [(each.name, each.slot_numbers()) for each in partitions])
    yield from _shared("import/export slot", [(each.name, each.import_export_numbers()) for each in partitions])
    yield from _shared("drive", [(each.name, each.drives) for each in partitions])


def _missing(name: str, what: str, numbers: Sequence[int], there: range) -> Iterator[str]:
    if missing := sorted(set(numbers).difference(there)):
        known = f"{there[0]} to {there[-1]}" if there else "none"
        yield f"partition {name}: there is no {what} {format_numbers(missing)}; the library has {known}"


def _shared(what: str, rows: Sequence[tuple[str, Sequence[object]]]) -> Iterator[str]:
    """A slot, import/export slot or drive is in one partition at most."""
    owner: dict[object, str] = {}
    for name, members in rows:
        for member in members:
            if (other := owner.setdefault(member, name)) != name:
                yield f"{what} {member} is in partition {other} and in partition {name}; it can be in one"
                break
