"""The states of a connection, a login and CHAP, as tables (RFC 7143 8.1.3, 6.3, 12.1.3). Nothing else changes state.

A session here has one connection and ErrorRecoveryLevel 0, so the session's states (8.3) are the connection's: what is
lost is gone at once, and the rows that only recovery or a second connection can reach are left out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from scsi_targets.iscsi.pdu import Stage


class ConnectionState(Enum):
    """Target side, RFC 7143 8.1.3. S1, S3 ... are the RFC's numbers."""

    FREE = "S1"
    TRANSPORT_UP = "S3"
    IN_LOGIN = "S4"
    LOGGED_IN = "S5"
    IN_LOGOUT = "S6"
    LOGOUT_REQUESTED = "S7"
    CLEANUP_WAIT = "S8"


class ConnectionEvent(Enum):
    """What moves a connection; T3, T4 ... are the RFC's transitions."""

    TRANSPORT_ACCEPTED = "T3"
    LOGIN_STARTED = "T4"
    LOGIN_COMPLETED = "T5"
    LOGIN_FAILED = "T7"
    LOGOUT_RECEIVED = "T9/T10"
    LOGOUT_REQUEST_SENT = "T11"
    LOGOUT_COMPLETED = "T13"
    TRANSPORT_LOST = "T6/T8/T15/T16"
    CLEANED_UP = "M1"


CONNECTION_TRANSITIONS: Mapping[tuple[ConnectionState, ConnectionEvent], ConnectionState] = {
    (ConnectionState.FREE, ConnectionEvent.TRANSPORT_ACCEPTED): ConnectionState.TRANSPORT_UP,
    (ConnectionState.TRANSPORT_UP, ConnectionEvent.LOGIN_STARTED): ConnectionState.IN_LOGIN,
    (ConnectionState.TRANSPORT_UP, ConnectionEvent.TRANSPORT_LOST): ConnectionState.FREE,
    (ConnectionState.TRANSPORT_UP, ConnectionEvent.LOGIN_FAILED): ConnectionState.FREE,
    (ConnectionState.IN_LOGIN, ConnectionEvent.LOGIN_COMPLETED): ConnectionState.LOGGED_IN,
    (ConnectionState.IN_LOGIN, ConnectionEvent.LOGIN_FAILED): ConnectionState.FREE,
    (ConnectionState.IN_LOGIN, ConnectionEvent.TRANSPORT_LOST): ConnectionState.FREE,
    (ConnectionState.LOGGED_IN, ConnectionEvent.LOGOUT_RECEIVED): ConnectionState.IN_LOGOUT,
    (ConnectionState.LOGGED_IN, ConnectionEvent.LOGOUT_REQUEST_SENT): ConnectionState.LOGOUT_REQUESTED,
    (ConnectionState.LOGGED_IN, ConnectionEvent.TRANSPORT_LOST): ConnectionState.CLEANUP_WAIT,
    (ConnectionState.LOGOUT_REQUESTED, ConnectionEvent.LOGOUT_REQUEST_SENT): ConnectionState.LOGOUT_REQUESTED,
    (ConnectionState.LOGOUT_REQUESTED, ConnectionEvent.LOGOUT_RECEIVED): ConnectionState.IN_LOGOUT,
    (ConnectionState.LOGOUT_REQUESTED, ConnectionEvent.TRANSPORT_LOST): ConnectionState.CLEANUP_WAIT,
    (ConnectionState.IN_LOGOUT, ConnectionEvent.LOGOUT_COMPLETED): ConnectionState.FREE,
    (ConnectionState.IN_LOGOUT, ConnectionEvent.TRANSPORT_LOST): ConnectionState.CLEANUP_WAIT,
    (ConnectionState.CLEANUP_WAIT, ConnectionEvent.CLEANED_UP): ConnectionState.FREE,
}


class ChapState(Enum):
    """The target's side of CHAP (RFC 7143 12.1.3)."""

    ALGORITHM_EXPECTED = "expects CHAP_A"
    RESPONSE_EXPECTED = "expects CHAP_N and CHAP_R"
    AUTHENTICATED = "authenticated"


class ChapEvent(Enum):
    """What moves an authentication on; a failure ends the login instead."""

    CHALLENGE_SENT = "CHAP_A, CHAP_I and CHAP_C sent"
    RESPONSE_VERIFIED = "CHAP_R verified"


CHAP_TRANSITIONS: Mapping[tuple[ChapState, ChapEvent], ChapState] = {
    (ChapState.ALGORITHM_EXPECTED, ChapEvent.CHALLENGE_SENT): ChapState.RESPONSE_EXPECTED,
    (ChapState.RESPONSE_EXPECTED, ChapEvent.RESPONSE_VERIFIED): ChapState.AUTHENTICATED,
}

# CSG -> the NSG values that may be asked for (RFC 7143 11.12.3): never back, never to the same stage.
LOGIN_STAGES: Mapping[int, frozenset[int]] = {
    Stage.SECURITY_NEGOTIATION: frozenset({Stage.LOGIN_OPERATIONAL_NEGOTIATION, Stage.FULL_FEATURE_PHASE}),
    Stage.LOGIN_OPERATIONAL_NEGOTIATION: frozenset({Stage.FULL_FEATURE_PHASE}),
}

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class IllegalTransition(Exception):
    """An event that the table does not have in the present state: a defect of this program, never of the peer."""


class StateMachine(Generic[S, E]):
    """A state and the one table that may change it. Safe to use from several threads."""

    __slots__ = ("_lock", "_transitions", "state")

    def __init__(self, initial: S, transitions: Mapping[tuple[S, E], S]) -> None:
        self.state = initial
        self._transitions = transitions
        self._lock = threading.Lock()

    def fire(self, event: E) -> None:
        """Take the transition of `event`. Raises IllegalTransition."""
        if not self.fire_if_allowed(event):
            raise IllegalTransition(f"{event.name} in state {self.state.name}")

    def fire_if_allowed(self, event: E) -> bool:
        """Take the transition of `event` if the table has one for the present state; whether it has."""
        with self._lock:
            following = self._transitions.get((self.state, event))
            if following is None:
                return False
            self.state = following
            return True


def connection_states() -> StateMachine[ConnectionState, ConnectionEvent]:
    """A connection's machine, in S1."""
    return StateMachine(ConnectionState.FREE, CONNECTION_TRANSITIONS)


def chap_states() -> StateMachine[ChapState, ChapEvent]:
    """An authentication's machine, expecting CHAP_A."""
    return StateMachine(ChapState.ALGORITHM_EXPECTED, CHAP_TRANSITIONS)
