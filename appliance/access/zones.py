"""Who sees what: the one function that decides, and what it decides from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Self

from appliance.access.members import NetworkPrefix, Networks, ZoneGroup, ZoneMembers
from appliance.settings.sections import ZoneSettings
from appliance.settings.zones import numbered
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.directory import Portal

# Answers that are kept of who has asked. Names cost nothing to invent, so the memory of them is bounded.
MAXIMUM_REMEMBERED = 4096

# Zones and LUNs that are looked at when content changes so that a login need not: about 20 ms of work.
MAXIMUM_AHEAD = 500_000

_ALWAYS_OPEN = "no zone exists, so everybody sees everything"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a principal may see: LUN to device name. remotes: units of other targets that its copies may reach; None:
    all of them. admitting: the zones that it is in; none where the library is open. asked: who asked for what."""

    luns: Mapping[int, str]
    remotes: frozenset[str] | None = None
    admitting: Sequence[_Bundle] = ()
    asked: _Asked | None = None

    @property
    def zones(self) -> tuple[str, ...]:
        """The names of the zones that it is in, in their order."""
        return () if self.asked is None else tuple(zone.name for zone in self.asked.in_order(self.admitting))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is what it is, a line for each zone that has a say."""
        return (_ALWAYS_OPEN,) if self.asked is None else self.asked.reasons()


@dataclass(frozen=True, slots=True, eq=False)
class _Zone:
    """What a section of settings means at one target."""

    settings: ZoneSettings
    luns: Mapping[int, str]
    remotes: frozenset[str]
    networks: Sequence[NetworkPrefix]
    portal_groups: frozenset[int]

    @classmethod
    def of(cls, zone: ZoneSettings, target_numbers: Mapping[str, int]) -> Self:
        """target_numbers: the LUN there of each device."""
        return cls(
            zone,
            dict(sorted(numbered(zone, target_numbers))),
            frozenset(zone.remotes),
            [NetworkPrefix.of(ip_network(network)) for network in dict.fromkeys(zone.networks)],
            frozenset(zone.portal_groups),
        )

    @property
    def name(self) -> str:
        return self.settings.name


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Zones put together that one word names, for one network (or any) and the same portal groups (none: any). Their
    numbers agree (settings.zones.conflicts)."""

    zones: Sequence[_Zone]
    portal_groups: frozenset[int]
    luns: Mapping[int, str]
    remotes: frozenset[str]

    @classmethod
    def of(cls, zones: Sequence[_Zone]) -> Self:
        """zones: at least one."""
        first = zones[0]
        if len(zones) == 1:
            return cls(zones, first.portal_groups, first.luns, first.remotes)
        luns: dict[int, str] = {}
        for zone in zones:
            luns |= zone.luns
        remotes = frozenset[str]().union(*[zone.remotes for zone in zones if zone.remotes])
        return cls(zones, first.portal_groups, dict(sorted(luns.items())), remotes)


@dataclass(frozen=True, slots=True)
class _Group:
    """The zones that one word names, and their bundles for each network; None: for wherever somebody comes from."""

    zones: Sequence[_Zone]
    bundles: Mapping[NetworkPrefix | None, Sequence[_Bundle]]

    @classmethod
    def of(cls, zones: Sequence[_Zone]) -> Self:
        alike = defaultdict[NetworkPrefix | None, dict[frozenset[int], list[_Zone]]](dict)
        for zone in zones:
            for network in zone.networks or (None,):
                alike[network].setdefault(zone.portal_groups, []).append(zone)
        return cls(zones, {network: [_Bundle.of(each) for each in found.values()] for network, found in alike.items()})


@dataclass(frozen=True, slots=True)
class _Asked:
    """zones: all that there are. named: those that name the principal. Words are made of it only for who wants to read
    them."""

    zones: Mapping[str, _Zone]
    principal: Principal
    portal: Portal
    peer: str
    named: Sequence[_Group]
    admitting: Sequence[_Bundle]

    def reasons(self) -> tuple[str, ...]:
        admitting = set(self.in_order(self.admitting))
        lines = (
            f"zone {zone.name} names {self.principal}" if zone in admitting else self._refusal(zone)
            for zone in self.in_order(self.named)
        )
        return tuple(lines) or (f"no zone names {self.principal}",)

    def in_order(self, sets: Iterable[_Bundle | _Group]) -> list[_Zone]:
        """Their zones, each once."""
        found = {zone for each in sets for zone in each.zones}
        return [zone for zone in self.zones.values() if zone in found]

    def _refusal(self, zone: _Zone) -> str:
        if zone.portal_groups and self.portal.portal_group_tag not in zone.portal_groups:
            return f"zone {zone.name} is not for portal group {self.portal.portal_group_tag}"
        return f"zone {zone.name} is not for the address {self.peer or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Zoning:
    """Who may see what of one target. Other zones are another Zoning, so it needs no lock.

    It is made when content changes, and what zones show together is put together then, once for all words that are in
    the same zones (`ahead`: of the first of the members' groups, bounded by MAXIMUM_AHEAD). So no login has to look at
    each zone that it is in. What has not changed is taken over from the one before, so that a change costs what it
    changes, while sessions are at work. `remembered` are answers that have been given, by what they depend on."""

    target_luns: Mapping[int, str]
    zones: Mapping[str, _Zone]
    members: ZoneMembers
    networks: Networks
    ahead: Mapping[ZoneGroup, _Group]
    remembered: dict[tuple[Principal, int, str], Seen] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        settings: Sequence[ZoneSettings],
        target_luns: Mapping[int, str],
        members: ZoneMembers | None = None,
        before: Zoning | None = None,
    ) -> Zoning:
        """Of the zones of a library, at a target that holds those devices. members: of these zones, if they are made
        already (they are the same at every target). before: of the same target."""
        numbers = {name: lun for lun, name in target_luns.items()}
        known = before if before is not None and before.target_luns == target_luns else _NOTHING
        zones = {each.name: known._zone(each) or _Zone.of(each, numbers) for each in settings}
        members = members or ZoneMembers(settings)
        networks = Networks(network for zone in zones.values() for network in zone.networks)
        return cls(target_luns, zones, members, networks, _ahead(zones, members.groups, known.ahead))

    def _zone(self, settings: ZoneSettings) -> _Zone | None:
        """What was made of that very section."""
        zone = self.zones.get(settings.name)
        return zone if zone is not None and zone.settings is settings else None

    def groups_of(self, principal: Principal) -> list[_Group]:
        """The zones that name a principal; one may be in several groups."""
        return [self._group(group) for group in self.members.groups_of(principal)]

    def _group(self, group: ZoneGroup) -> _Group:
        return self.ahead.get(group) or _Group.of([self.zones[name] for name in group.names])


_NOTHING = Zoning({}, {}, ZoneMembers(()), Networks(()), {})


def view_for(access: Zoning, principal: Principal, portal: Portal, peer: str) -> Seen:
    """What a principal that came in by that portal, from that address, sees of a target; nothing else decides it.

    Without zones, all of it. As soon as there is one, only what the zones hold that name this principal: who has proved
    a CHAP account is that account and not its initiator name, which anybody may choose."""
    key = principal, portal.portal_group_tag, peer if access.networks else ""
    seen = access.remembered.get(key)
    if seen is None:
        seen = _decide(access, principal, portal, peer)
        if len(access.remembered) >= MAXIMUM_REMEMBERED:
            access.remembered.clear()
        access.remembered[key] = seen
    return seen


def _decide(access: Zoning, principal: Principal, portal: Portal, peer: str) -> Seen:
    if not access.zones:
        return Seen(access.target_luns)
    named, tag = access.groups_of(principal), portal.portal_group_tag
    networks = (None, *access.networks.around(peer)) if access.networks else (None,)
    bundles = [bundle for group in named for network in networks for bundle in group.bundles.get(network, ())]
    admitting = [bundle for bundle in bundles if not bundle.portal_groups or tag in bundle.portal_groups]
    asked = _Asked(access.zones, principal, portal, peer, named, admitting)
    if len(admitting) == 1:
        return Seen(admitting[0].luns, admitting[0].remotes, admitting, asked)
    luns: dict[int, str] = {}
    for bundle in admitting:
        luns |= bundle.luns
    remotes = frozenset[str]().union(*[bundle.remotes for bundle in admitting])
    return Seen(dict(sorted(luns.items())), remotes, admitting, asked)


def _ahead(
    zones: Mapping[str, _Zone], groups: Iterable[ZoneGroup], known: Mapping[ZoneGroup, _Group]
) -> dict[ZoneGroup, _Group]:
    """The first groups, as many as are allowed to take their time now; those of the same zones are known."""
    left, ahead = MAXIMUM_AHEAD, dict[ZoneGroup, _Group]()
    for each in groups:
        named, made = [zones[name] for name in each.names], known.get(each)
        if made is None or made.zones != named:
            left -= sum([(1 + len(zone.luns)) * (len(zone.networks) or 1) for zone in named])
            if left < 0:
                break
            made = _Group.of(named)
        ahead[each] = made
    return ahead
