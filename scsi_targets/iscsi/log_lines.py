"""How many lines of the log one peer may cause: whoever connects a thousand times a second does not fill the disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from scsi_targets.iscsi.failed_logins import network_of

# Peers that are remembered; of more, those that were quiet for the longest time begin anew.
MAX_PEERS = 1024


@dataclass(slots=True)
class _Allowance:
    lines: float
    at: float
    left_out: int = 0


class LogLines:
    """An allowance of lines for each peer: `burst` at once, then one every `pause_seconds`; and one for all peers that
    is `together` times as large. Thread-safe. What is left out is counted, and the count is told."""

    def __init__(
        self, burst: int, pause_seconds: float, together: int = 20, clock: Callable[[], float] = monotonic
    ) -> None:
        self._burst = burst
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self._together = together
        self._all = _Allowance(burst * together, clock())

    def admit(self, peer: str) -> dict[str, int] | None:
        """What to add to a line about this peer (how many before it were left out); None: leave it out."""
        with self._lock:
            allowance = self._allowance_of(network_of(peer))
            if not self._take(allowance):
                allowance.left_out += 1
                return None
            left_out, allowance.left_out = allowance.left_out, 0
            return {"left_out": left_out} if left_out else {}

    def left_out(self) -> list[tuple[str, int]]:
        """Peers of whom lines were left out and who have an allowance again, with the number; told once."""
        with self._lock:
            told = []
            for peer, allowance in self._allowances.items():
                if allowance.left_out and self._take(allowance):
                    told.append((peer, allowance.left_out))
                    allowance.left_out = 0
            return told

    def _allowance_of(self, peer: str) -> _Allowance:
        allowance = self._allowances.get(peer)
        if allowance is None:
            if len(self._allowances) >= MAX_PEERS:
                self._allowances.popitem(last=False)
            allowance = self._allowances[peer] = _Allowance(self._burst, self._clock())
        self._allowances.move_to_end(peer)
        return allowance

    def _take(self, allowance: _Allowance) -> bool:
        self._grow(allowance, self._burst, self._pause_seconds)
        self._grow(self._all, self._burst * self._together, self._pause_seconds / self._together)
        if min(allowance.lines, self._all.lines) < 1:
            return False
        allowance.lines -= 1
        self._all.lines -= 1
        return True

    def _grow(self, allowance: _Allowance, most: float, pause_seconds: float) -> None:
        now = self._clock()
        allowance.lines = min(most, allowance.lines + (now - allowance.at) / pause_seconds)
        allowance.at = now
