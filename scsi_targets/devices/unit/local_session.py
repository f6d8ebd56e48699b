"""An initiator's session within this process: what it sends goes to the logical units of a view, and over no network.

`scsi_targets.client` works over it as over an iSCSI session, so that a job of the daemon's own is one more initiator:
it has a name, reservations count for it, and a copy that it orders runs as that of any host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from datamover.initiator import InitiatorError, Result
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.devices.unit.view import View

if TYPE_CHECKING:
    from typing_extensions import Buffer

POLL_SECONDS = 0.2  # how often a command that runs asks whether it is to stop


class Stopped(InitiatorError):
    """The session was told to stop: the command at hand was aborted, and no other is sent."""


class LocalSession:
    """Use it in a `with` block, which tells the logical units of its coming and going. One command at a time.

    stopped: asked before each command and while one runs; True aborts it, and the call raises Stopped."""

    def __init__(self, view: View, nexus: Nexus, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self.view = view
        self.nexus = nexus
        self._stopped = stopped
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.view.nexus_established(self.nexus)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.view.nexus_lost(self.nexus)

    def command(
        self,
        lun: int,
        cdb: bytes,
        data_out: Any = None,
        data_in_length: int = 0,
        *,
        data_in: Any = None,
        timeout_seconds: float | None = None,
    ) -> Result:
        """As InitiatorSession.command(); timeout_seconds is not used, as nothing here can be lost. Raises Stopped."""
        wanted = memoryview(data_in).nbytes if data_in is not None else data_in_length
        with self._lock:
            response = self._execute(lun, cdb, data_out, wanted)
        data = memoryview(b"" if response.data_in is None else response.data_in).cast("B")[:wanted]
        if data_in is not None:
            into = memoryview(data_in).cast("B")
            into[: len(data)] = data
            data = into[: len(data)]
        residual = wanted - response.data_length if wanted else 0
        return Result(response.status, response.sense, data, residual)

    def submit(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None
    ) -> Result:
        """Runs the command at once: there is no queue here. wait() gives the result."""
        return self.command(lun, cdb, data_out, data_in_length, data_in=data_in)

    def wait(self, command: Result, timeout_seconds: float | None = None) -> Result:
        """What submit() has found."""
        return command

    def _execute(self, lun: int, cdb: bytes, data_out: Buffer | None, wanted: int) -> Response:
        if self._stopped():
            raise Stopped("stopped before the next command")
        ended = threading.Event()
        outcome: list[Response] = []

        def complete(response: Response) -> None:
            outcome.append(response)
            ended.set()

        task = Task(
            self.nexus, lun, cdb, data_out=data_out, data_in_limit=wanted, complete=complete, on_abort=ended.set,
            view=self.view,
        )  # fmt: skip
        response = self.view.execute(task)
        if response is not None:
            return response
        while not ended.wait(POLL_SECONDS):
            if self._stopped():
                task.abort()
        if not outcome:
            unit = self.view.logical_units[lun]
            with unit.lock:
                unit.tasks.await_end([task])
            raise Stopped("the command was aborted")
        return outcome[0]
