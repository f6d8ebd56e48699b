"""Who asks for a verb, and which verbs it may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from vlib_images.library.actor import OPERATOR

CALLER_KEY: Final = "tapebay.caller"  # of an ASGI scope: who asks, once that is known; no peer can set it
CONNECTION_KEY: Final = "tapebay.connection"  # likewise: its Seat (control/seats.py), where it came by TCP


class Scope(Enum):
    """Who may ask for a verb: whoever may look, who operates the library, who decides what it is made of. Each may
    what the ones before it may."""

    READ = "read"
    OPERATE = "operate"
    ADMINISTER = "administer"

    def includes(self, needed: Scope) -> bool:
        """Whether who has this scope may what takes the other."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. name: as audit records have it. partitions, pools: nothing else of the library is in its reach; None:
    all of it. key: what both sides know of its token, with which it signs what it sends in many parts."""

    name: str
    scope: Scope
    partitions: frozenset[str] | None = None
    pools: frozenset[str] | None = None
    key: bytes = field(default=b"", repr=False, compare=False)

    @property
    def confined(self) -> bool:
        """Whether only a part of the library is in its reach."""
        return self.partitions is not None or self.pools is not None

    def reaches(self, partition: str) -> bool:
        """Whether that partition is in its reach: of who is for pools only, none."""
        return partition in self.partitions if self.partitions is not None else self.pools is None

    def reaches_pool(self, pool: str) -> bool:
        """Whether that pool is in its reach: of who is for partitions only, none."""
        return pool in self.pools if self.pools is not None else self.partitions is None


OWNER: Final = Caller(OPERATOR, Scope.ADMINISTER)
"""Who may open the control socket, or the library's files."""
