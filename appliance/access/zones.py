"""Who sees what: the one function that decides, and what it decides from."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from appliance.settings.settings import ZoneSettings
from appliance.settings.zones import numbered
from scsi_targets.devices.unit.principal import Principal, PrincipalKind
from scsi_targets.iscsi.directory import Portal

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_ALWAYS_OPEN = "no zone exists, so everybody sees everything"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a principal may see: LUN to device name, and why. zones: those that it is in, in their order; none where the
    library is open. remotes: units of other targets that its copies may reach; None: all of them."""

    luns: Mapping[int, str]
    zones: tuple[str, ...] = ()
    remotes: frozenset[str] | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Zone:
    name: str
    luns: Mapping[int, str]
    remotes: frozenset[str]
    networks: tuple[_Network, ...]
    portal_groups: frozenset[int]

    def refusal(self, portal: Portal, peer: str) -> str | None:
        """Why nobody who comes so is in it."""
        if self.portal_groups and portal.portal_group_tag not in self.portal_groups:
            return f"zone {self.name} is not for portal group {portal.portal_group_tag}"
        if self.networks and not _within(_address(peer), self.networks):
            return f"zone {self.name} is not for the address {peer or 'unknown'}"
        return None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may see what of one target. Never changes, so it needs no lock: other zones are another Access. Made once,
    so that a login looks only at zones that name it, whatever their number."""

    target_luns: Mapping[int, str]
    zones: tuple[_Zone, ...] = ()
    accounts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    initiators: Mapping[str, Sequence[int]] = field(default_factory=dict)
    patterns: tuple[tuple[re.Pattern[str], int], ...] = ()

    @classmethod
    def of(cls, zones: Sequence[ZoneSettings], target_luns: Mapping[int, str]) -> Access:
        """Of the zones of a library, at a target that holds those devices."""
        accounts, initiators = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        patterns = []
        for number, zone in enumerate(zones):
            for user in zone.accounts:
                accounts[user].append(number)
            for name in zone.initiators:
                if "*" in name or "?" in name:
                    patterns.append((_compiled(name), number))
                else:
                    initiators[name].append(number)
        numbers = {name: lun for lun, name in target_luns.items()}
        known = tuple(_zone(zone, numbers) for zone in zones)
        return cls(target_luns, known, dict(accounts), dict(initiators), tuple(patterns))

    def zones_of(self, principal: Principal) -> list[_Zone]:
        """The zones that name a principal, in their order."""
        numbers: set[int] = set()
        if principal.kind is PrincipalKind.ACCOUNT:
            numbers = set(self.accounts.get(principal.name, ()))
        elif principal.kind is PrincipalKind.INITIATOR:
            numbers = {number for pattern, number in self.patterns if pattern.fullmatch(principal.name)}
            numbers.update(self.initiators.get(principal.name, ()))
        return [self.zones[number] for number in sorted(numbers)]


def view_for(access: Access, principal: Principal, portal: Portal, peer: str) -> Seen:
    """What a principal that came in by that portal, from that address, sees of a target; nothing else decides it.

    Without zones, all of it. As soon as there is one, only what the zones hold that name this principal: who has proved
    a CHAP account is that account and not its initiator name, which anybody may choose."""
    if not access.zones:
        return Seen(access.target_luns, reasons=(_ALWAYS_OPEN,))
    named = access.zones_of(principal)
    refusals = {zone.name: zone.refusal(portal, peer) for zone in named}
    zones = [zone for zone in named if refusals[zone.name] is None]
    reasons = [refusals[zone.name] or f"zone {zone.name} names {principal}" for zone in named]
    return Seen(
        _together(zones),
        tuple(zone.name for zone in zones),
        frozenset[str]().union(*(zone.remotes for zone in zones)),
        tuple(reasons) or (f"no zone names {principal}",),
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
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern), re.DOTALL)


def _within(address: _Address | None, networks: Sequence[_Network]) -> bool:
    return address is not None and any(address in network for network in networks)


def _address(peer: str) -> _Address | None:
    """A peer's address; an IPv4 one in IPv6's notation is that IPv4 address."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
