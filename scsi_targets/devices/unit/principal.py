"""Who stands behind a session, and what it may be allowed to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto


class PrincipalKind(Enum):
    """How a session proved who it is."""

    INITIATOR = "initiator"  # by its iSCSI name alone
    ACCOUNT = "account"  # with the secret of a CHAP account
    KEY = "key"  # with a key, whose grant is the name: it stays the same when the key is renewed
    UNRECORDED = "unrecorded"  # nobody knows: kept by a version that did not tell principals apart


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a session proved to be. Reservations, sessions and views belong to a principal, never to a mere name."""

    kind: PrincipalKind
    name: str

    @classmethod
    def initiator(cls, name: str) -> Principal:
        """Who has nothing to show but an iSCSI name."""
        return cls(PrincipalKind.INITIATOR, name)

    @classmethod
    def account(cls, user: str) -> Principal:
        """Who proved to know the secret of a CHAP account."""
        return cls(PrincipalKind.ACCOUNT, user)

    @classmethod
    def key(cls, grant: str) -> Principal:
        """Who holds a key of a grant."""
        return cls(PrincipalKind.KEY, grant)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


class Permission(Flag):
    """What a logical unit may be used for. The row of a command says which of them it takes."""

    READ_DATA = auto()
    WRITE_DATA = auto()
    READ_PARAMETERS = auto()
    WRITE_PARAMETERS = auto()
    RESERVE = auto()
    MANAGE = auto()
    MOVE = auto()
    ALL = READ_DATA | WRITE_DATA | READ_PARAMETERS | WRITE_PARAMETERS | RESERVE | MANAGE | MOVE
