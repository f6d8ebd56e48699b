"""All sessions of a server: their numbers (TSIH), their bounds, reinstatement (RFC 7143 6.3.1, 6.3.5)."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Generic, Protocol, TypeVar

from scsi_targets.devices.unit.task import Nexus
from scsi_targets.iscsi.directory import Who
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import LoginRefused, LoginResult
from scsi_targets.iscsi.pdu import LoginStatus
from scsi_targets.iscsi.session_record import SessionRecord
from scsi_targets.iscsi.waiting_nexus import WaitingNexus

LAST_TSIH = 0xFFFF

NexusKey = tuple[str, bytes, str, int]  # initiator name, ISID, target name, portal group tag


class Closable(Protocol):
    """Whatever serves a session."""

    def close(self, reason: str, *, for_good: bool = True) -> None:
        """Ends the session soon, from any thread; it leaves the table when everything it held is given back. Not for
        good: its nexus may wait for the initiator port to come back."""


M = TypeVar("M", bound=Closable)


def _any_number() -> int:
    """For a session; 0 is none (RFC 7143 11.12.6). One after the other would tell each initiator how often others log
    in."""
    return 1 + secrets.randbelow(LAST_TSIH)


def _nexus_key(login: LoginResult) -> NexusKey | None:
    """What makes two logins the same nexus, but for the principal; None for discovery, where every session stands
    alone."""
    who = login.who
    if who.target_name is None:
        return None
    return who.initiator_name, who.isid, who.target_name, who.portal.portal_group_tag


class SessionTable(Generic[M]):
    """Thread-safe. A session is here from its admission until all that it held is given back."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float] = monotonic, numbers: Callable[[], int] = _any_number
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._sessions: dict[int, tuple[M, LoginResult]] = {}
        self._by_nexus: dict[NexusKey, int] = {}
        self._numbers = numbers
        self._waiting: dict[Nexus, WaitingNexus] = {}
        self._looked_at: WaitingNexus | None = None  # whether it may still wait

    def exists(self, who: Who, tsih: int) -> bool:
        """Whether that initiator port, as the account it proved, has a session of that TSIH with that target."""
        with self._changed:
            login = self._sessions[tsih][1] if tsih in self._sessions else None
        if login is None:
            return False
        other = login.who
        return (other.initiator_name, other.isid, other.target_name, other.account) == (
            who.initiator_name, who.isid, who.target_name, who.account,
        )  # fmt: skip

    def admit(self, member: M, login: LoginResult) -> int:
        """A TSIH for a new session. One of the same nexus is closed and waited for first; a nexus that waits for its
        initiator port is the login's from then on. Raises LoginRefused."""
        key, nexus = _nexus_key(login), login.nexus
        with self._changed:
            if key is not None:
                self._end_previous(key, login)
                self._check_room(login.who.initiator_name)
            else:
                self._make_discovery_room()
            tsih = self._free_tsih()
            self._sessions[tsih] = member, login
            if key is not None:
                self._by_nexus[key] = tsih
            if nexus is not None and (waiting := self._waiting.pop(nexus, None)) is not None:
                login.waiting = waiting
                self._changed.notify_all()
            return tsih

    def remove(self, tsih: int) -> None:
        """The session has ended and holds nothing any more; `login.waiting` of it waits, and keeps its number."""
        with self._changed:
            _, login = self._sessions.pop(tsih)
            if (key := _nexus_key(login)) is not None:
                del self._by_nexus[key]
            if (waiting := login.waiting) is not None:
                waiting.record = waiting.record and replace(waiting.record, tsih=tsih)
                self._waiting[waiting.nexus] = waiting
            self._changed.notify_all()

    def waiting(self) -> list[SessionRecord]:
        """The nexuses that wait for their initiator ports."""
        with self._changed:
            return [record for one in self._waiting.values() if (record := one.shown()) is not None]

    def look_at_waiting(self, may_wait: Callable[[WaitingNexus], bool]) -> None:
        """Asks of each nexus that waits for its initiator port whether it still may, and has it lost if not. One thread
        at a time calls it; `may_wait` is called without the table's lock."""
        with self._changed:
            all_waiting = list(self._waiting.values())
        for waiting in all_waiting:
            with self._changed:
                if self._waiting.get(waiting.nexus) is not waiting:
                    continue  # its initiator port is back
                self._looked_at = waiting
            self._look_at(waiting, may_wait)

    def _look_at(self, waiting: WaitingNexus, may_wait: Callable[[WaitingNexus], bool]) -> None:
        """A login of that nexus waits meanwhile."""
        stays = False
        try:
            stays = may_wait(waiting)
        finally:
            self._looked(waiting, stays=stays)

    def _looked(self, waiting: WaitingNexus, *, stays: bool) -> None:
        try:
            if not stays:
                waiting.lose()
        finally:
            with self._changed:
                self._looked_at = None
                if not stays:
                    del self._waiting[waiting.nexus]
                self._changed.notify_all()

    def members(self) -> list[M]:
        """Who serves the sessions, the oldest first."""
        with self._changed:
            return [member for member, _ in self._sessions.values()]

    def members_like(self, login: LoginResult) -> list[M]:
        """Who serves the sessions of the same initiator with the same target, as the same principal."""
        with self._changed:
            return [
                member
                for member, other in self._sessions.values()
                if (other.who.initiator_name, other.who.target_name, other.principal)
                == (login.who.initiator_name, login.who.target_name, login.principal)
            ]

    def end(self, tsih: int, reason: str, timeout_seconds: float) -> bool:
        """End one session, or nexus that waits; whether it has given back all that it held in that time, or was not
        there. Somebody looks at those that wait meanwhile."""
        deadline = self._clock() + timeout_seconds
        with self._changed:
            if tsih in self._sessions:
                member, _ = self._sessions[tsih]
                member.close(reason)
                if not self._changed.wait_for(lambda: not self._is_served_by(tsih, member), timeout_seconds):
                    return False
            if (waiting := self._waiting_as(tsih)) is None:
                return True
            waiting.given_up = True
            still = deadline - self._clock()
            return self._changed.wait_for(lambda: self._waiting.get(waiting.nexus) is not waiting, still)

    def _is_served_by(self, tsih: int, member: M) -> bool:
        return tsih in self._sessions and self._sessions[tsih][0] is member

    def _waiting_as(self, tsih: int) -> WaitingNexus | None:
        return next((one for one in self._waiting.values() if one.record and one.record.tsih == tsih), None)

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Whether all sessions ended in that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._sessions, timeout_seconds)

    def _end_previous(self, key: NexusKey, login: LoginResult) -> None:
        """Session reinstatement (RFC 7143 6.3.5): the old session's tasks and nexus go before the new one comes. Nobody
        reinstates the session of another principal by using its name."""
        deadline = self._clock() + self._limits.reinstatement_seconds
        while (tsih := self._by_nexus.get(key)) is not None or self._is_looked_at(login.nexus):
            if tsih is not None:
                member, previous = self._sessions[tsih]
                if previous.principal != login.principal:
                    message = "this initiator name and ISID have a session as somebody else"
                    raise LoginRefused(LoginStatus.AUTHORIZATION_FAILURE, message)
                member.close("reinstated by a new login", for_good=False)
            if not self._changed.wait(deadline - self._clock()):
                raise LoginRefused(LoginStatus.SERVICE_UNAVAILABLE, "the session before this one does not end")

    def _is_looked_at(self, nexus: Nexus | None) -> bool:
        return self._looked_at is not None and self._looked_at.nexus == nexus

    def _check_room(self, initiator_name: str) -> None:
        normal = [login.who for _, login in self._sessions.values() if login.who.target_name is not None]
        of_initiator = sum(who.initiator_name == initiator_name for who in normal)
        if len(normal) >= self._limits.sessions or of_initiator >= self._limits.sessions_per_initiator:
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many sessions")

    def _make_discovery_room(self) -> None:
        """Discovery takes milliseconds and may be open to anybody. So the oldest of too many discovery sessions gives
        way, and they take no place from those who do work."""
        discovering = [member for member, login in self._sessions.values() if login.who.target_name is None]
        limit = self._limits.discovery_sessions
        if len(discovering) >= 2 * limit:  # those who were asked to go are not gone yet
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many discovery sessions")
        if len(discovering) >= limit:
            discovering[len(discovering) - limit].close("too many discovery sessions at once")

    def _free_tsih(self) -> int:
        """A number that is free."""
        while (tsih := self._numbers()) in self._sessions or self._waiting_as(tsih) is not None:
            pass
        return tsih
