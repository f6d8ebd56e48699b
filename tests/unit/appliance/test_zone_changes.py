"""Zones that change: what is taken over from before shows the same as what is made from nothing, and costs what the
change changes."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.access.directory import CurrentDirectory, Directory
from appliance.access.members import ZoneMembers
from appliance.access.zones import Zoning, view_for
from appliance.library.contents import Contents
from appliance.settings import config_file
from appliance.settings.sections import ZoneSettings
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.directory import Portal
from tests.support.database import new_database
from tests.unit.appliance.test_zones import ALICE, BASE, BOB, EVE, LUNS, instructions

PATTERNS = ("*", "iqn.1993-08.org.debian:*", "iqn.1993-08.org.debian:?ob", ALICE, BOB, EVE)
PRINCIPALS = [*map(Principal.initiator, (ALICE, BOB, EVE)), *map(Principal.account, ("payroll", "science", ALICE))]
PEERS = ("192.0.2.1", "2001:db8::1", "")
PORTALS = (Portal("127.0.0.1", 3260), Portal("127.0.0.1", 3261, 2))


def several(*of: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(of), max_size=3)


SECTIONS = st.builds(
    ZoneSettings,
    name=st.sampled_from(["a", "b", "c", "d", "e"]),
    initiators=several(*PATTERNS),
    accounts=several("payroll", "science", ALICE),
    devices=several(*LUNS.values()),
    networks=several("192.0.2.0/24", "192.0.2.1/32", "2001:db8::/32"),
    portal_groups=several(1, 2),
    remotes=several("elsewhere", "beyond"),
)
ZONES = st.lists(SECTIONS, max_size=4, unique_by=lambda zone: zone.name)


def told(zoning: Zoning) -> Iterator[tuple[Mapping[int, str], Any, Sequence[str], Sequence[str]]]:
    """All that everybody could be told of it, from everywhere."""
    for principal, portal, peer in product(PRINCIPALS, PORTALS, PEERS):
        seen = view_for(zoning, principal, portal, peer)
        yield seen.luns, seen.remotes, seen.zones, seen.reasons


def kept(before: Sequence[ZoneSettings], wanted: Sequence[ZoneSettings]) -> list[ZoneSettings]:
    """As a library has them: a zone that has not changed is the same object."""
    return [next((zone for zone in before if zone == each), each) for each in wanted]


def names_of(members: ZoneMembers) -> list[tuple[str, ...]]:
    return sorted(group.names for group in members.groups)


@settings(deadline=None)
@given(st.lists(st.tuples(ZONES, st.sampled_from([LUNS, {**LUNS, 9: "drive9"}, {3: "drive0"}])), max_size=4))
def test_zones_that_are_made_of_those_before_show_what_they_would_from_nothing(changes: Any) -> None:
    zones, members, zoning = list[ZoneSettings](), ZoneMembers(()), Zoning.of((), LUNS)
    for wanted, luns in changes:
        zones = kept(zones, wanted)
        members = ZoneMembers(zones, members)
        zoning = Zoning.of(zones, luns, members, zoning)
        new = Zoning.of(wanted, luns)
        assert list(told(zoning)) == list(told(new))
        assert names_of(members) == names_of(ZoneMembers(wanted))


def changing(zones: int, initiators: int) -> tuple[int, int]:
    """Instructions of Python that it takes to give one zone of many another device, and another initiator."""
    library = config_file.parse(Path("tapebay.toml"), BASE)
    names = [f"iqn.1993-08.org.debian:{number}" for number in range(initiators)]
    sections = [
        ZoneSettings(name=f"z{n}", initiators=[*names, f"iqn.2000-01.org.own:{n}"], devices=["drive0"])
        for n in range(zones)
    ]
    current = CurrentDirectory(Directory(library.model_copy(update={"zones": sections}), {}))

    def count(**changed: Any) -> int:
        sections[1] = sections[1].model_copy(update=changed)
        given = library.model_copy(update={"zones": list(sections)})
        return instructions(partial(current.replace, given, {}))

    return count(devices=["drive1"]), count(initiators=[*sections[1].initiators, EVE])


def test_a_change_of_one_zone_does_not_cost_what_all_of_them_do() -> None:
    few_devices, few_names = changing(10, 10)
    more_devices, more_names = changing(10, 100)
    assert more_devices - few_devices < 100  # another device: who is in the zones is not looked at
    assert more_names - few_names < 300 * 90  # another member: only the zone's own
    many_devices, _ = changing(100, 10)
    assert many_devices - few_devices < 500 * 90  # the others are only looked at


def test_a_section_that_stays_is_neither_checked_nor_written_again(tmp_path: Path) -> None:
    contents = Contents(new_database(tmp_path / "state"), config_file.parse(tmp_path / "tapebay.toml", BASE))

    def changed(zones: int) -> tuple[int, int]:
        sections = [ZoneSettings(name=f"z{n}", initiators=[ALICE], devices=["drive0"]) for n in range(zones)]
        contents.change(contents.content.model_copy(update={"zones": sections}))
        sections[1] = sections[1].model_copy(update={"devices": ["drive1"]})
        found = contents.checked(contents.content.model_copy(update={"zones": sections}))
        again = instructions(partial(contents.checked, found)) + instructions(partial(contents.settings_with, found))
        return again, instructions(partial(contents.change, found))

    few_again, few = changed(3)
    many_again, many = changed(53)
    assert many_again == few_again < 100
    assert many - few < 100 * 50
    assert [zone.devices for zone in contents.settings.zones][:3] == [["drive0"], ["drive1"], ["drive0"]]
