"""Who may hold how many connections: strangers share a part of the seats, so that they never take those of clients
that have shown a token."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from scsi_targets.iscsi.failed_logins import network_of

LIMIT_CONNECTIONS: Final = 512
LIMIT_STRANGERS: Final = 256
LIMIT_STRANGERS_OF_A_PEER: Final = 128


@dataclass(eq=False)
class Seat:
    """One connection's. leave() it."""

    _seats: "Seats" = field(repr=False)
    peer: str
    known: bool = False
    _left: bool = False

    def show_token(self) -> None:
        """Its peer has shown a token that opens something."""
        if not self.known and not self._left:
            self.known = True
            self._seats.no_stranger(self.peer)

    def leave(self) -> None:
        """The connection has ended. May be called again."""
        if not self._left:
            self._left = True
            self._seats.left(self)


class Seats:
    """All connections of a server, for the one thread of its event loop."""

    def __init__(self) -> None:
        self._taken = 0
        self._strangers: Counter[str] = Counter()

    def take(self, address: str) -> Seat | None:
        """A seat for a connection from there, if one is free."""
        peer = network_of(address)
        strangers = self._strangers
        if (
            self._taken >= LIMIT_CONNECTIONS
            or strangers.total() >= LIMIT_STRANGERS
            or strangers[peer] >= LIMIT_STRANGERS_OF_A_PEER
        ):
            return None
        self._taken += 1
        strangers[peer] += 1
        return Seat(self, peer)

    def no_stranger(self, peer: str) -> None:
        """One of its connections no longer counts as a stranger's."""
        self._strangers[peer] -= 1
        if not self._strangers[peer]:
            del self._strangers[peer]

    def left(self, seat: Seat) -> None:
        """A connection has ended."""
        self._taken -= 1
        if not seat.known:
            self.no_stranger(seat.peer)

    @property
    def taken(self) -> int:
        """How many there are."""
        return self._taken
