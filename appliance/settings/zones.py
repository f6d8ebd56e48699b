"""The numbers of devices in zones, and whether they agree for whoever may be in several."""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

from appliance.settings.patterns import overlap
from appliance.settings.sections import ZoneSettings
from appliance.settings.settings import Settings


def numbered(zone: ZoneSettings, target_numbers: Mapping[str, int]) -> list[tuple[int, str]]:
    """LUN and name of each device of a zone that a target holds (name to LUN). Devices keep the target's numbers, but
    for those that the zone gives others: nothing gets another number because something else comes or goes."""
    own = {name: lun for lun, name in zone.luns.items()}
    return [(own.get(name, target_numbers[name]), name) for name in zone.device_names() if name in target_numbers]


def conflicts(settings: Settings) -> list[str]:
    """A line for each number that a zone gives twice, and for each two zones that may be one initiator's and do not
    agree on a number."""
    if not any(zone.luns for zone in settings.zones):
        return []  # everything has the target's numbers
    return list(dict.fromkeys(_conflicts(settings)))


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The numbers of one zone, to be looked up often."""

    pairs: Sequence[tuple[int, str]]
    by_lun: Mapping[int, str]
    by_name: Mapping[str, int]

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, str]]) -> Self:
        return cls(pairs, dict(pairs), {name: lun for lun, name in pairs})


def _conflicts(settings: Settings) -> Iterator[str]:
    sharing = _sharing(settings.zones)
    for target in settings.targets:
        of_target = {name: lun for lun, name in settings.lun_map(target).items()}
        numbers = {zone.name: _Numbers.of(numbered(zone, of_target)) for zone in settings.zones}
        for name, own in numbers.items():
            for one, other in _clashes(own, own):
                yield f"zone {name}: {one[1]} and {other[1]} have one LUN, {one[0]}; give one of them another in `luns`"
        for first, second in sharing:
            for one, other in _clashes(numbers[first], numbers[second]):
                yield (
                    f"zones {first} and {second} may both be one initiator's, and {one[1]} is LUN {one[0]} in the "
                    f"first, {other[1]} is LUN {other[0]} in the second; make them agree in `luns`"
                )


def _clashes(first: _Numbers, second: _Numbers) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    """One number for two devices, or two numbers for one."""
    for lun, name in second.pairs:
        if first.by_lun.get(lun, name) != name:
            yield (lun, first.by_lun[lun]), (lun, name)
        elif first.by_name.get(name, lun) != lun:
            yield (first.by_name[name], name), (lun, name)


def _sharing(zones: Sequence[ZoneSettings]) -> dict[tuple[str, str], None]:
    """Pairs of zones that one principal may be in."""
    members: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for zone in zones:
        for user in zone.accounts:
            members["account", user].append(zone.name)
        for name in zone.initiators:
            members["initiator", name].append(zone.name)
    # Many principals are in the same zones; those pairs are made once.
    groups = dict.fromkeys(tuple(dict.fromkeys(names)) for names in members.values())
    return dict.fromkeys([pair for names in groups for pair in combinations(names, 2)] + list(_overlapping(zones)))


def _overlapping(zones: Sequence[ZoneSettings]) -> Iterator[tuple[str, str]]:
    """Pairs of zones of which one has a pattern that may name an initiator of the other. Only names and patterns that
    begin alike are compared: they stand together in their order."""
    known = sorted((_beginning(name), name, zone.name) for zone in zones for name in zone.initiators)
    beginnings = [beginning for beginning, _, _ in known]
    for zone in zones:
        for pattern in filter(_is_pattern, zone.initiators):
            start = _beginning(pattern)
            alike = known[bisect_left(beginnings, start) : bisect_right(beginnings, start + chr(0x10FFFF))]
            for end in range(len(start)):
                alike += known[bisect_left(beginnings, start[:end]) : bisect_right(beginnings, start[:end])]
            for _, name, other in alike:
                if other != zone.name and overlap(pattern, name):
                    yield zone.name, other


def _beginning(pattern: str) -> str:
    """What every name that matches begins with."""
    return re.split("[*?]", pattern, maxsplit=1)[0]


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name
