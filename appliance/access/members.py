"""Who is in which zones, and which networks an address is in: made when content changes, looked up at each login."""

from __future__ import annotations

import socket
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, Self

from appliance.access.names import Names, Words
from appliance.settings.sections import ZoneSettings
from scsi_targets.devices.unit.principal import Principal, PrincipalKind

_IN_IPV6 = bytes(10) + b"\xff\xff"  # an IPv4 address in IPv6's notation has this before its own four bytes


@dataclass(frozen=True, slots=True, eq=False)
class ZoneGroup:
    """The zones that one word names (an account, an initiator's name, a pattern). Words that are in the same zones have
    one group; it is itself and nothing else, so that to look it up costs the same for any number."""

    names: tuple[str, ...]  # sorted


class ZoneMembers:
    """Which zones name an account or an initiator; the same at every target."""

    def __init__(self, zones: Sequence[ZoneSettings], before: ZoneMembers | None = None) -> None:
        """before: others that they are made of; then only the words of zones that differ are looked at."""
        self._zones = {zone.name: zone for zone in zones}
        self._words: dict[PrincipalKind, Words[ZoneGroup]] = {
            PrincipalKind.ACCOUNT: Words({}),
            PrincipalKind.INITIATOR: Names({}),
        }
        self._sizes = Counter[ZoneGroup]()  # how many words have each
        was: Mapping[str, ZoneSettings] = {}
        if before is not None:
            was, self._words, self._sizes = before._zones, dict(before._words), Counter(before._sizes)
        changed = {name for name in was.keys() | self._zones.keys() if _differ(was.get(name), self._zones.get(name))}
        if changed:
            self._change(was, changed)

    def _change(self, was: Mapping[str, ZoneSettings], changed: Collection[str]) -> None:
        """To what these zones name now, from what they named."""
        regrouped = _Regrouped(changed, self.groups)
        for kind, words in self._words.items():
            naming = {word: list[str]() for name in was if name in changed for word in _named(was[name], kind)}
            for name in changed & self._zones.keys():
                for word in _named(self._zones[name], kind):
                    naming.setdefault(word, []).append(name)
            before = {word: words.get(word) for word in naming}
            after = {word: regrouped(before[word], tuple(names)) for word, names in naming.items()}
            self._sizes.subtract(group for group in before.values() if group is not None)
            self._sizes.update(group for group in after.values() if group is not None)
            self._words[kind] = words.but(after)
        self._sizes = +self._sizes  # without groups that no word has any more

    @property
    def groups(self) -> Collection[ZoneGroup]:
        """All that there are."""
        return self._sizes.keys()

    def groups_of(self, principal: Principal) -> Sequence[ZoneGroup]:
        """Those that name a principal."""
        words = self._words.get(principal.kind)
        return words.matching(principal.name) if words is not None else ()


class _Regrouped:
    """The groups of words that changed zones name or named."""

    def __init__(self, changed: Collection[str], known: Iterable[ZoneGroup]) -> None:
        self._changed = changed
        self._known = {group.names: group for group in known}
        self._made: dict[tuple[ZoneGroup | None, tuple[str, ...]], ZoneGroup | None] = {}

    def __call__(self, before: ZoneGroup | None, naming: tuple[str, ...]) -> ZoneGroup | None:
        """Of a word that had that group and that those of the changed zones name now; None: no zone names it."""
        if (before, naming) not in self._made:
            stay = (name for name in before.names if name not in self._changed) if before is not None else ()
            names = tuple(sorted({*stay, *naming}))
            self._made[before, naming] = self._known.setdefault(names, ZoneGroup(names)) if names else None
        return self._made[before, naming]


def _differ(before: ZoneSettings | None, after: ZoneSettings | None) -> bool:
    """In whom they name. It is cheap: a zone that has not changed has the same lists."""
    if before is None or after is None:
        return True
    return (before.accounts, before.initiators) != (after.accounts, after.initiators)


def _named(zone: ZoneSettings, kind: PrincipalKind) -> list[str]:
    return zone.accounts if kind is PrincipalKind.ACCOUNT else zone.initiators


class NetworkPrefix(NamedTuple):
    """A network, as it is looked for: the bits of its prefix, without the unused ones behind them."""

    version: int
    unused_bits: int
    prefix: int

    @classmethod
    def of(cls, network: IPv4Network | IPv6Network) -> Self:
        unused_bits = network.max_prefixlen - network.prefixlen
        return cls(network.version, unused_bits, int(network.network_address) >> unused_bits)


class Networks:
    """Some networks, of which those around an address are found by one look for each length of their prefixes."""

    def __init__(self, networks: Iterable[NetworkPrefix]) -> None:
        self._by_length: defaultdict[tuple[int, int], dict[int, NetworkPrefix]] = defaultdict(dict)
        for network in frozenset(networks):
            self._by_length[network.version, network.unused_bits][network.prefix] = network

    def __bool__(self) -> bool:
        return bool(self._by_length)

    def around(self, peer: str) -> list[NetworkPrefix]:
        """Those that hold an address; none hold what is no address."""
        version, bits = _address(peer)
        found = [networks.get(bits >> unused) for (of, unused), networks in self._by_length.items() if of == version]
        return [network for network in found if network is not None]


def _address(peer: str) -> tuple[int, int]:
    """The version and bits of a peer's address; version 0: it is none. An IPv4 one in IPv6's notation is that IPv4
    address."""
    text = peer.partition("%")[0]
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return 0, 0
    if packed.startswith(_IN_IPV6):
        packed = packed[len(_IN_IPV6) :]
    return 4 if len(packed) == 4 else 6, int.from_bytes(packed)
