"""The numbers of devices in zones, and whether they agree for whoever may be in several."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from appliance.settings.settings import Settings, ZoneSettings


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


def _conflicts(settings: Settings) -> Iterator[str]:
    zones = {zone.name: zone for zone in settings.zones}
    sharing = list(_sharing(settings.zones))
    for target in settings.targets:
        of_target = {name: lun for lun, name in settings.lun_map(target).items()}
        numbers = {name: numbered(zone, of_target) for name, zone in zones.items()}
        for name, pairs in numbers.items():
            for one, other in _clashes(pairs, pairs):
                yield f"zone {name}: {one[1]} and {other[1]} have one LUN, {one[0]}; give one of them another in `luns`"
        for first, second in sharing:
            for one, other in _clashes(numbers[first], numbers[second]):
                yield (
                    f"zones {first} and {second} may both be one initiator's, and {one[1]} is LUN {one[0]} in the "
                    f"first, {other[1]} is LUN {other[0]} in the second; make them agree in `luns`"
                )


def _clashes(
    first: Sequence[tuple[int, str]], second: Sequence[tuple[int, str]]
) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    """One number for two devices, or two numbers for one."""
    by_lun, by_name = dict(first), {name: lun for lun, name in first}
    for lun, name in second:
        if by_lun.get(lun, name) != name:
            yield (lun, by_lun[lun]), (lun, name)
        elif by_name.get(name, lun) != lun:
            yield (by_name[name], name), (lun, name)


def _sharing(zones: Sequence[ZoneSettings]) -> Iterator[tuple[str, str]]:
    """Pairs of zones that one principal may be in."""
    members: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for zone in zones:
        for user in zone.accounts:
            members["account", user].append(zone.name)
        for name in zone.initiators:
            members["initiator", name].append(zone.name)
    for names in members.values():
        yield from combinations(dict.fromkeys(names), 2)
    for zone in zones:
        for pattern in filter(_is_pattern, zone.initiators):
            for other in zones:
                if other is not zone and any(overlap(pattern, name) for name in other.initiators):
                    yield zone.name, other.name


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name


def overlap(one: str, other: str) -> bool:
    """Whether some name matches both patterns; * and ? match any characters."""
    if one == "*" or other == "*":
        return True
    after = [False] * (len(other) + 1)  # for the rest of `one` behind this character: which rests of `other` overlap
    after[-1] = True
    for place in range(len(other) - 1, -1, -1):
        after[place] = other[place] == "*" and after[place + 1]
    for character in reversed(one):
        after = _rests(character, other, after)
    return after[0]


def _rests(character: str, other: str, after: Sequence[bool]) -> list[bool]:
    here = [False] * (len(other) + 1)
    here[-1] = character == "*" and after[-1]
    for place in range(len(other) - 1, -1, -1):
        theirs = other[place]
        if character == "*" or theirs == "*":
            here[place] = after[place] or here[place + 1]  # a star takes the other's next, or is nothing
        else:
            here[place] = (character == theirs or "?" in (character, theirs)) and after[place + 1]
    return here
