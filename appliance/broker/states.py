"""The life of a request, in one table.

queued → warranted → placing → mounting → granted → ending → done, cancelled or failed. Each step is one transaction
with its audit event; what a step asks of the robot comes between two of them, and is looked up there after a crash.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class RequestState(Enum):
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
        return self in (RequestState.PLACING, RequestState.MOUNTING, RequestState.GRANTED)

    @property
    def holds(self) -> bool:
        """Whether the request has a drive and a volume of its own."""
        return self in (RequestState.PLACING, RequestState.MOUNTING, RequestState.GRANTED, RequestState.ENDING)


class RequestStep(Enum):
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


TRANSITIONS: Final[dict[RequestState, dict[RequestStep, RequestState]]] = {
    RequestState.QUEUED: {
        RequestStep.WARRANT: RequestState.WARRANTED,
        RequestStep.CANCEL: RequestState.CANCELLED,
        RequestStep.FAIL: RequestState.FAILED,
    },
    RequestState.WARRANTED: {
        RequestStep.PLACE: RequestState.PLACING,
        RequestStep.CANCEL: RequestState.CANCELLED,
        RequestStep.FAIL: RequestState.FAILED,
    },
    RequestState.PLACING: {
        RequestStep.FIRST_LOGIN: RequestState.PLACING,
        RequestStep.MOUNT: RequestState.MOUNTING,
        RequestStep.END: RequestState.ENDING,
    },
    RequestState.MOUNTING: {
        RequestStep.FIRST_LOGIN: RequestState.MOUNTING,
        RequestStep.GRANT: RequestState.GRANTED,
        RequestStep.END: RequestState.ENDING,
    },
    RequestState.GRANTED: {RequestStep.FIRST_LOGIN: RequestState.GRANTED, RequestStep.END: RequestState.ENDING},
    RequestState.ENDING: {
        RequestStep.FREE: RequestState.DONE,
        RequestStep.CANCEL: RequestState.CANCELLED,
        RequestStep.FAIL: RequestState.FAILED,
    },
    RequestState.DONE: {},
    RequestState.CANCELLED: {},
    RequestState.FAILED: {},
}


class RequestStateError(Exception):
    """A step that does not follow the state; str() says so to an operator."""


def after(state: RequestState, step: RequestStep) -> RequestState:
    """Raises RequestStateError."""
    try:
        return TRANSITIONS[state][step]
    except KeyError:
        raise RequestStateError(f"the request is {state.value}: it cannot be {step.value}") from None
