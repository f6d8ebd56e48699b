"""Who sees what: the one function that decides, and what it decides from."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from appliance.access.names import Names
from appliance.settings.settings import ZoneSettings
from appliance.settings.zones import numbered
from scsi_targets.devices.unit.principal import Principal, PrincipalKind
from scsi_targets.iscsi.directory import Portal

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Answers that are kept of who has asked. Names cost nothing to invent, so the memory of them is bounded.
MAXIMUM_REMEMBERED = 4096

_ALWAYS_OPEN = "no zone exists, so everybody sees everything"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a principal may see: LUN to device name. zones: those that it is in, in their order; none where the library
    is open. remotes: units of other targets that its copies may reach; None: all of them. asked: who asked for what."""

    luns: Mapping[int, str]
    zones: tuple[str, ...] = ()
    remotes: frozenset[str] | None = None
    asked: _Asked | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is what it is, a line for each zone that has a say."""
        return (_ALWAYS_OPEN,) if self.asked is None else self.asked.reasons()


@dataclass(frozen=True, slots=True)
class _Zone:
    name: str
    luns: Mapping[int, str]
    remotes: frozenset[str]
    networks: tuple[_Network, ...]
    portal_groups: frozenset[int]
    from_anywhere: bool

    def refusal(self, portal: Portal, peer: str) -> str | None:
        """Why nobody who comes so is in it."""
        if self.portal_groups and portal.portal_group_tag not in self.portal_groups:
            return f"zone {self.name} is not for portal group {portal.portal_group_tag}"
        if self.networks and not _within(_address(peer), self.networks):
            return f"zone {self.name} is not for the address {peer or 'unknown'}"
        return None


@dataclass(frozen=True, slots=True)
class _Asked:
    """named: the zones that name the principal. Words are made of it only for who wants to read them."""

    principal: Principal
    portal: Portal
    peer: str
    named: Sequence[_Zone]

    def reasons(self) -> tuple[str, ...]:
        lines = (
            zone.refusal(self.portal, self.peer) or f"zone {zone.name} names {self.principal}" for zone in self.named
        )
        return tuple(lines) or (f"no zone names {self.principal}",)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may see what of one target. Other zones are another Access, so it needs no lock. It is made once, so that a
    login looks only at zones that name it, and what a principal sees is put together once: `remembered` are answers
    that have been given, by what they depend on."""

    target_luns: Mapping[int, str]
    zones: tuple[_Zone, ...] = ()
    accounts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    initiators: Names = field(default_factory=lambda: Names(()))
    by_address: bool = False
    remembered: dict[tuple[Principal, int, str], Seen] = field(default_factory=dict)

    @classmethod
    def of(cls, zones: Sequence[ZoneSettings], target_luns: Mapping[int, str]) -> Access:
        """Of the zones of a library, at a target that holds those devices."""
        accounts = defaultdict[str, list[int]](list)
        for number, zone in enumerate(zones):
            for user in zone.accounts:
                accounts[user].append(number)
        numbers = {name: lun for lun, name in target_luns.items()}
        return cls(
            target_luns,
            tuple(_zone(zone, numbers) for zone in zones),
            dict(accounts),
            Names((name, number) for number, zone in enumerate(zones) for name in zone.initiators),
            by_address=any(zone.networks for zone in zones),
        )

    def zones_of(self, principal: Principal) -> list[_Zone]:
        """The zones that name a principal, in their order."""
        numbers: Sequence[int] = ()
        if principal.kind is PrincipalKind.ACCOUNT:
            numbers = sorted(set(self.accounts.get(principal.name, ())))
        elif principal.kind is PrincipalKind.INITIATOR:
            numbers = self.initiators.numbers(principal.name)
        return [self.zones[number] for number in numbers]


def view_for(access: Access, principal: Principal, portal: Portal, peer: str) -> Seen:
    """What a principal that came in by that portal, from that address, sees of a target; nothing else decides it.

    Without zones, all of it. As soon as there is one, only what the zones hold that name this principal: who has proved
    a CHAP account is that account and not its initiator name, which anybody may choose."""
    key = principal, portal.portal_group_tag, peer if access.by_address else ""
    seen = access.remembered.get(key)
    if seen is None:
        seen = _decide(access, principal, portal, peer)
        if len(access.remembered) >= MAXIMUM_REMEMBERED:
            access.remembered.clear()
        access.remembered[key] = seen
    return seen


def _decide(access: Access, principal: Principal, portal: Portal, peer: str) -> Seen:
    if not access.zones:
        return Seen(access.target_luns)
    named = access.zones_of(principal)
    zones = [zone for zone in named if zone.from_anywhere or zone.refusal(portal, peer) is None]
    return Seen(
        _together(zones),
        tuple([zone.name for zone in zones]),
        frozenset[str]().union(*[zone.remotes for zone in zones if zone.remotes]),
        _Asked(principal, portal, peer, named),
    )


def _together(zones: Sequence[_Zone]) -> dict[int, str]:
    """What several zones hold. Their numbers agree (settings.zones.conflicts)."""
    luns: dict[int, str] = {}
    for zone in zones:
        luns |= zone.luns
    return dict(sorted(luns.items()))


def _zone(zone: ZoneSettings, target_numbers: Mapping[str, int]) -> _Zone:
    return _Zone(
        zone.name,
        dict(numbered(zone, target_numbers)),
        frozenset(zone.remotes),
        tuple(ipaddress.ip_network(network) for network in zone.networks),
        frozenset(zone.portal_groups),
        from_anywhere=not zone.networks and not zone.portal_groups,
    )


def _within(address: _Address | None, networks: Sequence[_Network]) -> bool:
    return address is not None and any(address in network for network in networks)


def _address(peer: str) -> _Address | None:
    """A peer's address; an IPv4 one in IPv6's notation is that IPv4 address."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
