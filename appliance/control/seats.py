"""Who may hold how many connections: strangers share a part of the seats, so that they never take those of clients
that have shown a token. Where they are too many the oldest go: who has a token shows it at once, and who holds seats
open does not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from scsi_targets.iscsi.failed_logins import network_of

LIMIT_CONNECTIONS: Final = 512
LIMIT_STRANGERS: Final = 256
LIMIT_STRANGERS_OF_A_PEER: Final = 128


def _nothing() -> None:
    """Before there is anything to be ended."""


@dataclass(eq=False)
class Seat:
    """One connection's. leave() it. end: set by its owner, ends the connection at once."""

    _seats: "Seats" = field(repr=False)
    peer: str
    known: bool = False
    end: Callable[[], object] = field(default=_nothing, repr=False)
    _left: bool = False

    def show_token(self) -> None:
        """Its peer has shown a token that opens something."""
        if not self.known and not self._left:
            self.known = True
            self._seats.no_stranger(self)

    def leave(self) -> None:
        """The connection has ended. May be called again."""
        if not self._left:
            self._left = True
            self._seats.left(self)


class Seats:
    """All connections of a server, for the one thread of its event loop."""

    def __init__(self) -> None:
        self._taken = 0
        self._strangers: dict[Seat, None] = {}  # the oldest first
        self._of_peers: dict[str, dict[Seat, None]] = {}

    def take(self, address: str) -> Seat | None:
        """A seat for a connection from there; None: clients with a token have all. May end the oldest stranger."""
        peer = network_of(address)
        of_peer = self._of_peers.get(peer, {})
        if len(of_peer) >= LIMIT_STRANGERS_OF_A_PEER:
            self._send_away(next(iter(of_peer)))
        elif len(self._strangers) >= LIMIT_STRANGERS or self._taken >= LIMIT_CONNECTIONS:
            if not self._strangers:
                return None
            self._send_away(next(iter(self._strangers)))
        seat = Seat(self, peer)
        self._taken += 1
        self._strangers[seat] = None
        self._of_peers.setdefault(peer, {})[seat] = None
        return seat

    def _send_away(self, seat: Seat) -> None:
        seat.leave()
        seat.end()

    def no_stranger(self, seat: Seat) -> None:
        """It no longer counts as a stranger's."""
        del self._strangers[seat]
        of_peer = self._of_peers[seat.peer]
        del of_peer[seat]
        if not of_peer:
            del self._of_peers[seat.peer]

    def left(self, seat: Seat) -> None:
        """A connection has ended."""
        self._taken -= 1
        if not seat.known:
            self.no_stranger(seat)

    @property
    def taken(self) -> int:
        """How many there are."""
        return self._taken
