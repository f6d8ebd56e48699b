"""Who is in which zones, and which networks an address is in: made when content changes, looked up at each login."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from appliance.access.names import Names
from appliance.settings.sections import ZoneSettings
from scsi_targets.devices.unit.principal import Principal, PrincipalKind

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class ZoneMembers:
    """Which zones name an account or an initiator; the same at every target. `groups` are the zones, by their numbers,
    that one word names (an account, an initiator's name, a pattern); words that are in the same zones have one."""

    def __init__(self, zones: Sequence[ZoneSettings]) -> None:
        numbers: dict[tuple[int, ...], int] = {}
        self._accounts = _groups(numbers, ((zone.accounts, number) for number, zone in enumerate(zones)))
        initiators = _groups(numbers, ((zone.initiators, number) for number, zone in enumerate(zones)))
        self._initiators = Names(initiators)
        self.groups = list(numbers)

    def groups_of(self, principal: Principal) -> Sequence[int]:
        """The places in `groups` of those that name a principal."""
        if principal.kind is PrincipalKind.ACCOUNT:
            group = self._accounts.get(principal.name)
            return () if group is None else (group,)
        return self._initiators.matching(principal.name) if principal.kind is PrincipalKind.INITIATOR else ()


def _groups(numbers: dict[tuple[int, ...], int], named: Iterable[tuple[Iterable[str], int]]) -> Mapping[str, int]:
    """The group of each word; new ones are added to `numbers`, the place of each group."""
    zones: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for words, zone in named:
        for word in words:
            zones[word][zone] = None
    return {word: numbers.setdefault(tuple(each), len(numbers)) for word, each in zones.items()}


class Networks:
    """Some networks, of which those around an address are found by one look for each length of their prefixes."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._by_prefix: defaultdict[tuple[int, int], dict[int, IPNetwork]] = defaultdict(dict)
        for network in networks:
            unused_bits = network.max_prefixlen - network.prefixlen
            self._by_prefix[network.version, unused_bits][int(network.network_address) >> unused_bits] = network

    def __bool__(self) -> bool:
        return bool(self._by_prefix)

    def around(self, peer: str) -> frozenset[IPNetwork]:
        """Those that hold an address; none hold what is no address."""
        address = _address(peer)
        if address is None:
            return frozenset()
        bits = int(address)
        found = (
            networks.get(bits >> unused_bits)
            for (version, unused_bits), networks in self._by_prefix.items()
            if version == address.version
        )
        return frozenset(network for network in found if network is not None)


def _address(peer: str) -> IPAddress | None:
    """A peer's address; an IPv4 one in IPv6's notation is that IPv4 address."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
