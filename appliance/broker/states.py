"""The life of a request, in one table.

queued → warranted → placing → mounting → granted → ending → done, cancelled or failed. Each step is one transaction
with its audit event; what a step asks of the robot comes between two of them, and is looked up there after a crash.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """Where a request stands."""

    QUEUED = "queued"
    WARRANTED = "warranted"  # it is its turn: a volume and a drive are looked for
    PLACING = "placing"  # volumes and drives are taken, in one decision (drives by the gate, where it chooses)
    MOUNTING = "mounting"  # the robot was told, or is about to be
    GRANTED = "granted"
    ENDING = "ending"  # its sessions end and its volume goes home
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing comes after it."""
        return not TRANSITIONS[self]

    @property
    def live(self) -> bool:
        """Whether the request has a grant that is not over."""
        return self in (State.PLACING, State.MOUNTING, State.GRANTED)

    @property
    def holds(self) -> bool:
        """Whether the request has a drive and a volume of its own."""
        return self in (State.PLACING, State.MOUNTING, State.GRANTED, State.ENDING)


class Step(Enum):
    """What happens to a request."""

    WARRANT = "warranted"
    PLACE = "placed"
    FIRST_LOGIN = "first login"
    MOUNT = "mount begun"
    GRANT = "granted"
    END = "ended"
    FREE = "drive freed"
    CANCEL = "cancelled"
    FAIL = "failed"


TRANSITIONS: Final[dict[State, dict[Step, State]]] = {
    State.QUEUED: {Step.WARRANT: State.WARRANTED, Step.CANCEL: State.CANCELLED, Step.FAIL: State.FAILED},
    State.WARRANTED: {Step.PLACE: State.PLACING, Step.CANCEL: State.CANCELLED, Step.FAIL: State.FAILED},
    State.PLACING: {Step.FIRST_LOGIN: State.PLACING, Step.MOUNT: State.MOUNTING, Step.END: State.ENDING},
    State.MOUNTING: {Step.FIRST_LOGIN: State.MOUNTING, Step.GRANT: State.GRANTED, Step.END: State.ENDING},
    State.GRANTED: {Step.FIRST_LOGIN: State.GRANTED, Step.END: State.ENDING},
    State.ENDING: {Step.FREE: State.DONE, Step.CANCEL: State.CANCELLED, Step.FAIL: State.FAILED},
    State.DONE: {},
    State.CANCELLED: {},
    State.FAILED: {},
}


class NotNow(Exception):
    """A step that does not follow the state; str() says so to an operator."""


def after(state: State, step: Step) -> State:
    """Raises NotNow."""
    try:
        return TRANSITIONS[state][step]
    except KeyError:
        raise NotNow(f"the request is {state.value}: it cannot be {step.value}") from None
