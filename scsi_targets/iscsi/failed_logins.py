"""How many proofs may fail: who guesses secrets is answered ever less often, and nobody else is kept out by it."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

# Peers and accounts that are remembered; of more, those whose last failure is the longest ago are forgotten.
MAX_REMEMBERED = 4096


@dataclass(slots=True)
class _Failures:
    count: float
    at: float


class FailedLogins:
    """Failures by peer and by account: `burst` of them at once, then one every `pause_seconds`. Thread-safe; nobody
    waits.

    A peer that has used them up is refused whatever it proves, so that it cannot go on guessing. An account whose
    failures are used up, by whomever, refuses only peers that have failed themselves: nobody is kept out by the guesses
    of others.
    """

    def __init__(self, burst: int, pause_seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._burst = burst
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._peers: OrderedDict[str, _Failures] = OrderedDict()
        self._accounts: OrderedDict[str, _Failures] = OrderedDict()

    def admit(self, peer: str, account: str) -> bool:
        """Whether a proof of that peer's is looked at."""
        with self._lock:
            of_peer = self._count(self._peers, network_of(peer))
            if of_peer == 0:
                return True
            return max(of_peer, self._count(self._accounts, account)) + 1 <= self._burst

    def failed(self, peer: str, account: str) -> None:
        """A proof was wrong."""
        with self._lock:
            for remembered, key in ((self._peers, network_of(peer)), (self._accounts, account)):
                count = self._count(remembered, key)
                if key not in remembered and len(remembered) >= MAX_REMEMBERED:
                    remembered.popitem(last=False)
                remembered[key] = _Failures(min(count + 1, self._burst), self._clock())
                remembered.move_to_end(key)

    def _count(self, remembered: OrderedDict[str, _Failures], key: str) -> float:
        """The failures that are not forgiven yet: one is, every `pause_seconds`."""
        found = remembered.get(key)
        if found is None:
            return 0.0
        left = found.count - (self._clock() - found.at) / self._pause_seconds
        if left <= 0:
            del remembered[key]
        return max(0.0, left)


def network_of(peer: str) -> str:
    """The address; of IPv6 the 64-bit network, within which a host may have any number of them."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else peer
