"""The life of a snapshot set, in one table; and by when whoever holds it has to be heard from.

    FREEZING   its space is claimed; the instant is still to come
    HELD       the instant is kept; a list of the blocks that are wanted may come
    LISTED     only what the list names is kept
    COPYING    somebody copies it; what a checkpoint has made safe is given back
    COMMITTED  all of it is safe elsewhere
    RELEASED, EXPIRED, BROKEN: over. All of its space is given back, and nobody reads it any more.

Whoever holds a set renews its lease (every RENEW_SECONDS), or it expires. Nothing here has a clock: `now` is passed in,
in seconds that only go up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

RENEW_SECONDS: Final = 20.0  # how often a holder renews
LEASE_SECONDS: Final = 60.0  # three renewals lost
FREEZE_SECONDS: Final = 10.0  # from the claim of its space to the instant
LIST_SECONDS: Final = 120.0  # from the instant to the end of the list
MOST_SECONDS: Final = 24 * 3600.0  # however slow the copy


class SetState(Enum):
    """Where a snapshot set stands."""

    FREEZING = "freezing"
    HELD = "held"
    LISTED = "listed"
    COPYING = "copying"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"
    BROKEN = "broken"

    @property
    def over(self) -> bool:
        """Whether nothing comes after it."""
        return not TRANSITIONS[self]


class SetStep(Enum):
    """What happens to a snapshot set."""

    TAKE = "taken"
    LIST = "listed"
    START = "started"
    CHECKPOINT = "given back up to a checkpoint"
    FAIL = "given up by its copy"
    FINISH = "committed"
    RELEASE = "released"
    EXPIRE = "expired"
    BREAK = "broken"


_ENDS: Final = {SetStep.RELEASE: SetState.RELEASED, SetStep.EXPIRE: SetState.EXPIRED, SetStep.BREAK: SetState.BROKEN}
TRANSITIONS: Final[dict[SetState, dict[SetStep, SetState]]] = {
    SetState.FREEZING: {SetStep.TAKE: SetState.HELD, **_ENDS},
    SetState.HELD: {SetStep.LIST: SetState.LISTED, SetStep.START: SetState.COPYING, **_ENDS},
    SetState.LISTED: {SetStep.START: SetState.COPYING, **_ENDS},
    # A copy that failed is begun again at its checkpoint, by another mover or on another drive.
    SetState.COPYING: {
        SetStep.CHECKPOINT: SetState.COPYING,
        SetStep.FAIL: SetState.LISTED,
        SetStep.FINISH: SetState.COMMITTED,
        **_ENDS,
    },
    SetState.COMMITTED: _ENDS,
    SetState.RELEASED: {},
    SetState.EXPIRED: {},
    SetState.BROKEN: {},
}


class SnapshotStateError(Exception):
    """A step that does not follow the state; str() says so to an operator."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a snapshot set may take over what, in seconds. lease, list: None: an operator holds it, who renews
    nothing, and no list is due."""

    lease_seconds: float | None = LEASE_SECONDS
    list_seconds: float | None = LIST_SECONDS
    freeze_seconds: float = FREEZE_SECONDS
    most_seconds: float = MOST_SECONDS


@dataclass
class Life:
    """The state of one set, why it is in it, and the times that count."""

    terms: Terms
    began_at: float
    state: SetState = SetState.FREEZING
    reason: str = ""

    def __post_init__(self) -> None:
        self.entered_at = self.renewed_at = self.listed_at = self.began_at

    def step(self, step: SetStep, now: float, reason: str = "") -> None:
        """Raises SnapshotStateError. Whoever takes a step is alive: it renews the lease."""
        try:
            after = TRANSITIONS[self.state][step]
        except KeyError:
            why = f" ({self.reason})" if self.reason else ""
            raise SnapshotStateError(f"the snapshot is {self.state.value}{why}: it cannot be {step.value}") from None
        if after is not self.state:
            self.state, self.entered_at, self.listed_at = after, now, now
        self.reason, self.renewed_at = reason, now

    def renew(self, now: float) -> None:
        """The holder is alive. Raises SnapshotStateError when it is over."""
        if self.state.over:
            raise SnapshotStateError(f"the snapshot is {self.state.value} ({self.reason}): there is nothing to renew")
        self.renewed_at = now

    def list_comes(self, now: float) -> None:
        """A part of its list has come, or is looked through: one of very many files may take longer than a short one is
        waited for. Raises SnapshotStateError when it is over."""
        self.renew(now)
        self.listed_at = now

    def deadlines(self) -> Iterator[tuple[float, str]]:
        """(when, what has not happened by then) of everything that may end it now."""
        if self.state.over:
            return
        terms = self.terms
        yield self.began_at + terms.most_seconds, f"it was not released within {terms.most_seconds:g} s"
        if self.state is SetState.FREEZING:
            yield (
                self.entered_at + terms.freeze_seconds,
                f"the instant did not come within {terms.freeze_seconds:g} s after its space was claimed",
            )
            return
        if self.state is SetState.HELD and terms.list_seconds is not None:
            yield self.listed_at + terms.list_seconds, f"no list of blocks came within {terms.list_seconds:g} s"
        if terms.lease_seconds is not None:
            yield self.renewed_at + terms.lease_seconds, f"its lease was not renewed for {terms.lease_seconds:g} s"

    def expire(self, now: float) -> bool:
        """Ends it where a deadline has passed; its reason says which."""
        passed = min((deadline for deadline in self.deadlines() if deadline[0] <= now), default=None)
        if passed is None:
            return False
        self.step(SetStep.EXPIRE, now, passed[1])
        return True
