"""The session of a copy with a logical unit of another target."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from datamover.initiator import CommandResult, InitiatorError

if TYPE_CHECKING:
    from datamover.initiator import InitiatorSession, PendingCommand

POLL_SECONDS = 0.5  # how long before it is asked again whether the copy was stopped
# What is given to a unit for its answer when the copy was stopped: a healthy one ends at a whole block.
STOPPING_SECONDS = 5.0


class RemoteSession:
    """An InitiatorSession, as a client.unit.AnySession. A unit that does not answer, for half an hour of a tape drive's
    time, does not keep a copy that was told to stop.

    stopped: whether it was."""

    def __init__(self, session: InitiatorSession, stopped: Callable[[], bool]) -> None:
        self._session = session
        self._stopped = stopped

    def command(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None,
        timeout_seconds: float | None = None,
    ) -> CommandResult:  # fmt: skip
        """As InitiatorSession.command()."""
        return self.wait(self.submit(lun, cdb, data_out, data_in_length, data_in=data_in), timeout_seconds)

    def submit(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None
    ) -> PendingCommand:
        """As InitiatorSession.submit()."""
        return self._session.submit(lun, cdb, data_out, data_in_length, data_in=data_in)

    def ended(self, command: PendingCommand, seconds: float) -> bool:
        """As InitiatorSession.ended()."""
        return self._session.ended(command, seconds)

    def wait(self, command: PendingCommand, timeout_seconds: float | None = None) -> CommandResult:
        """As InitiatorSession.wait(), but not much longer once the copy was told to stop."""
        limit = self._session.timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + limit
        stopping: float | None = None
        while not self._session.ended(command, max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))):
            now = time.monotonic()
            if stopping is None and self._stopped():
                stopping = now + STOPPING_SECONDS
            if now >= deadline:
                self._give_up(f"no answer within {limit:g} s")
            if stopping is not None and now >= stopping:
                self._give_up("no answer, and the copy was stopped")
        return self._session.wait(command)

    def _give_up(self, why: str) -> None:
        """What came later would be written into memory that its owner has back. Raises InitiatorError."""
        self._session.close()
        raise InitiatorError(f"command: {why}")

    def close(self) -> None:
        """As InitiatorSession.close()."""
        self._session.close()
