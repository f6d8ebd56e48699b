"""Asking the appliance until it has answered: what is lost on the way, or whose answer is, is asked again.

What makes something carries an idempotency key, so that it is made once however often it is asked for. Everything else
that an agent asks for may come twice, or late: it says how something stands, or ends what may be ended already.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from appliance.failures import Failure, NoAnswer, OperatorError

ANSWER_SECONDS: Final = 60.0  # for one answer to begin, and to go on
PATIENCE_SECONDS: Final = 120.0  # for an appliance that is away
PAUSE_SECONDS: Final = 0.5
LEAST_SECONDS: Final = 0.1
_MAKES: Final = ("snapshot.create", "backup.start", "request.create")
_PASSING: Final = (Failure.NOT_RUNNING, Failure.BUSY)


class Api(Protocol):
    """Client of the HTTP API, or anything else that does verbs and tells events."""

    def call(self, verb: str, /, **parameters: Any) -> Any:
        """Raises OperatorError."""

    def events(self, subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        """What happens to a request from its first item on. Raises OperatorError, also after so long without any."""


@dataclass(slots=True)
class Asking:
    """An Api over another one. now, pause: time, in seconds."""

    api: Api
    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], object] = time.sleep

    @property
    def host(self) -> str:
        """Where the appliance is, as this server reaches it; empty: unknown."""
        return str(getattr(self.api, "host", ""))

    def call(
        self, verb: str, /, *, timeout_seconds: float = ANSWER_SECONDS, patience_seconds: float = PATIENCE_SECONDS,
        **parameters: Any,
    ) -> Any:  # fmt: skip
        """The answer. patience_seconds: for how long it is asked again without one. Raises OperatorError."""
        if verb in _MAKES:
            parameters["idempotency_key"] = uuid.uuid4().hex
        deadline = self.now() + patience_seconds
        while True:
            asked = self.now()
            timeout = min(timeout_seconds, max(LEAST_SECONDS, deadline - asked))
            try:
                return self.api.call(verb, timeout_seconds=timeout, **parameters)
            except OperatorError as error:
                if not passing(error):
                    raise
                if self.now() - asked > timeout_seconds:  # it answered for a while, as what is long does
                    deadline = self.now() + patience_seconds
                if self.now() + PAUSE_SECONDS >= deadline:
                    raise
            self.pause(PAUSE_SECONDS)

    def events(self, subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        """As the other one tells them."""
        return self.api.events(subject, timeout_seconds=timeout_seconds)


def passing(error: OperatorError) -> bool:
    """Whether the same may be asked again."""
    return isinstance(error, NoAnswer) or error.failure in _PASSING
