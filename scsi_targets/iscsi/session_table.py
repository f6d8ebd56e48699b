"""All sessions of a server: their numbers (TSIH), their bounds, reinstatement (RFC 7143 6.3.1, 6.3.5)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, Protocol, TypeVar

from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import LoginRefused, LoginResult
from scsi_targets.iscsi.pdu import LoginStatus

LAST_TSIH = 0xFFFF

NexusKey = tuple[str, bytes, str, int]  # initiator name, ISID, target name, portal group tag


class Closable(Protocol):
    """Whatever serves a session."""

    def close(self, reason: str) -> None:
        """Ends the session soon, from any thread; it leaves the table when everything it held is given back."""


M = TypeVar("M", bound=Closable)


def _nexus_key(login: LoginResult) -> NexusKey | None:
    """What makes two logins the same nexus; None for discovery, where every session stands alone."""
    if login.target_name is None:
        return None
    return login.initiator_name, login.isid, login.target_name, login.portal_group_tag


class SessionTable(Generic[M]):
    """Thread-safe. A session is here from its admission until all that it held is given back."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._sessions: dict[int, tuple[M, LoginResult]] = {}
        self._by_nexus: dict[NexusKey, int] = {}
        self._last_tsih = 0

    def exists(self, initiator_name: str, isid: bytes, tsih: int) -> bool:
        """Whether that initiator port has a session of that TSIH."""
        with self._changed:
            login = self._sessions[tsih][1] if tsih in self._sessions else None
        return login is not None and (login.initiator_name, login.isid) == (initiator_name, isid)

    def admit(self, member: M, login: LoginResult) -> int:
        """A TSIH for a new session. One of the same nexus is closed and waited for first. Raises LoginRefused."""
        key = _nexus_key(login)
        with self._changed:
            if key is not None:
                self._end_previous(key)
            self._check_room(login.initiator_name)
            tsih = self._free_tsih()
            self._sessions[tsih] = member, login
            if key is not None:
                self._by_nexus[key] = tsih
            return tsih

    def remove(self, tsih: int) -> None:
        """The session has ended and holds nothing any more."""
        with self._changed:
            _, login = self._sessions.pop(tsih)
            if (key := _nexus_key(login)) is not None:
                del self._by_nexus[key]
            self._changed.notify_all()

    def members(self, target_name: str | None = None) -> list[M]:
        """Who serves the sessions of one target, or all sessions."""
        with self._changed:
            return [
                member
                for member, login in self._sessions.values()
                if target_name is None or login.target_name == target_name
            ]

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Whether all sessions ended in that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._sessions, timeout_seconds)

    def _end_previous(self, key: NexusKey) -> None:
        """Session reinstatement (RFC 7143 6.3.5): the old session's tasks and nexus go before the new one comes."""
        deadline = self._clock() + self._limits.reinstatement_seconds
        while (tsih := self._by_nexus.get(key)) is not None:
            self._sessions[tsih][0].close("reinstated by a new login")
            if not self._changed.wait(deadline - self._clock()):
                raise LoginRefused(LoginStatus.SERVICE_UNAVAILABLE, "the session before this one does not end")

    def _check_room(self, initiator_name: str) -> None:
        of_initiator = sum(login.initiator_name == initiator_name for _, login in self._sessions.values())
        if len(self._sessions) >= self._limits.sessions or of_initiator >= self._limits.sessions_per_initiator:
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many sessions")

    def _free_tsih(self) -> int:
        """The next number that is free, so that a number is not used again soon; 0 is none (RFC 7143 11.12.6)."""
        while True:
            self._last_tsih = self._last_tsih % LAST_TSIH + 1
            if self._last_tsih not in self._sessions:
                return self._last_tsih
