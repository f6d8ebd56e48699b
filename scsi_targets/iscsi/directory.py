"""What iSCSI asks of the room above it: which targets there are, who may use them, where they are reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from scsi_targets.devices.unit.view import View


class DirectoryError(Exception):
    """A login that is not granted; str() is the reason for the log, the initiator sees only the status."""


class NotFound(DirectoryError):
    """There is no such target (login status 0203h)."""


class Forbidden(DirectoryError):
    """This initiator may not use that target (login status 0202h)."""


class Removed(DirectoryError):
    """The target was here and is gone for good (login status 0204h)."""


class Unavailable(DirectoryError):
    """The target is known but cannot serve now (login status 0301h)."""


class TargetMoved(DirectoryError):
    """The target is served elsewhere (login status 0101h, or 0102h when `permanently`)."""

    def __init__(self, address: str, *, permanently: bool = False) -> None:
        super().__init__(f"moved to {address}")
        self.address = address
        self.permanently = permanently


@dataclass(frozen=True, slots=True)
class Portal:
    """A network portal: where the server listens, and the address it tells initiators.

    host: an IPv4 or IPv6 address without brackets, a wildcard (0.0.0.0, ::) or a host's name.
    port: 0 lets the kernel choose.
    advertised: "host:port" ("[host]:port" for IPv6) as initiators reach it, behind NAT or a container bridge; None
    answers the address that the connection came in on.
    """

    host: str
    port: int = 3260
    portal_group_tag: int = 1
    advertised: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.portal_group_tag <= 65535:
            raise ValueError(f"portal group tag {self.portal_group_tag} is not in 0..65535")


@dataclass(frozen=True, slots=True)
class ChapCredentials:
    """What an initiator must prove (`username`, `secret`), and what the target proves in return when it is asked.

    unknown: nobody of that name may log in, whatever is proved. remark: what is known of the name that the log is to
    say when the proof fails, as that it has expired."""

    username: str
    secret: str = field(repr=False)
    mutual_username: str | None = None
    mutual_secret: str | None = field(default=None, repr=False)
    unknown: bool = False
    remark: str = ""

    def __post_init__(self) -> None:
        if not self.secret:
            raise ValueError("a CHAP secret must not be empty")
        if (self.mutual_username is None) != (self.mutual_secret is None):
            raise ValueError("mutual CHAP needs both a user name and a secret")
        # RFC 7143 9.2.1: the same secret in both directions would let a peer answer a challenge with our own answer.
        if self.mutual_secret == self.secret:
            raise ValueError("the CHAP secrets of the two directions must differ")


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks to log in, to what, and from where. Names are in lower case (RFC 3722).

    isid: 6 bytes. target_name None: a discovery session. portal: where the connection came in. peer: the address it
    came from, without the port. account: the CHAP user whose secret was proved; None before that, and without CHAP."""

    initiator_name: str
    isid: bytes
    target_name: str | None
    portal: Portal
    peer: str = ""
    account: str | None = None


class TargetDirectory(Protocol):
    """Who may see what. Called from many threads at once, and again during a session when something changed.

    Any of these may raise a DirectoryError, which becomes the login status named there.
    """

    def target_names(self, who: Who) -> list[str]:
        """The targets that SendTargets shows: those that this very session may log in to as what it proved."""

    def portals(self, target_name: str, who: Who | None = None) -> list[Portal]:
        """The portals of a target, equal to those that the server was given; who: those that this very session, or its
        initiator with some account, could log in by. Raises NotFound."""

    def authentication(self, who: Who) -> bool:
        """Whether CHAP is asked. Raises NotFound, Forbidden when no account could ever be the right one."""

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        """What a CHAP_N must be proved with; None when nobody of that name may log in so."""

    def open(self, who: Who) -> View:
        """What a session sees that has proved what was asked, `who.account`. Raises NotFound, Forbidden, ..."""


def open_view(directory: TargetDirectory, who: Who) -> View:
    """What who has logged in sees if the directory is asked today. Raises DirectoryError."""
    assert who.target_name is not None
    if who.portal not in directory.portals(who.target_name):
        raise NotFound("the target is no longer served at this portal")
    return directory.open(who)
