"""An initiator's session within this process: what it sends goes to the logical units of a view, and over no network.

`scsi_targets.client` works over it as over an iSCSI session, so that a job of the daemon's own is one more initiator:
it has a name, reservations count for it, and a copy that it orders runs as that of any host.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from datamover.initiator import CommandResult, InitiatorError
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.devices.unit.view import View

POLL_SECONDS = 0.2  # how often a command that runs asks whether it is to stop


class Aborted(InitiatorError):
    """A task management function, a reset for example, has aborted the command."""


class Stopped(Aborted):
    """The session was told to stop: the command at hand was aborted, and no other is sent."""


class LocalCommand:
    """A command that was submitted; LocalSession.wait() gives its result."""

    def __init__(self, task: Task, data_in: memoryview) -> None:
        self.task = task
        self.data_in = data_in
        self.response: Response | None = None
        self.ended = threading.Event()
        task.complete, task.on_abort = self.complete, self.ended.set

    def complete(self, response: Response) -> None:
        """It has been answered."""
        self.response = response
        self.ended.set()

    def result(self, response: Response) -> CommandResult:
        """The Data-In lies in the buffer that was given for it."""
        wanted = len(self.data_in)
        data = memoryview(b"" if response.data_in is None else response.data_in).cast("B")[:wanted]
        self.data_in[: len(data)] = data
        residual = wanted - response.data_length if wanted else 0
        return CommandResult(response.status, response.sense, self.data_in[: len(data)], residual)


class LocalSession:
    """Use it in a `with` block, which tells the logical units of its coming and going.

    stopped: asked before each command and while one is waited for; True aborts it, and the call raises Stopped."""

    def __init__(self, view: View, nexus: Nexus, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self.view = view
        self.nexus = nexus
        self._stopped = stopped
        self._tags = itertools.count(1)
        self._submitted: set[LocalCommand] = set()  # and not waited for yet

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
    ) -> CommandResult:
        """As InitiatorSession.command(); timeout_seconds is not used, as nothing here can be lost. Raises Stopped."""
        return self.wait(self.submit(lun, cdb, data_out, data_in_length, data_in=data_in))

    def submit(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None
    ) -> LocalCommand:
        """A quick command is done when this returns. Raises Stopped."""
        if self._stopped():
            raise Stopped("stopped before the next command")
        into = memoryview(bytearray(data_in_length) if data_in is None else data_in).cast("B")
        task = Task(self.nexus, lun, cdb, next(self._tags), data_out=data_out, data_in_limit=len(into), view=self.view)
        command = LocalCommand(task, into)
        self._submitted.add(command)
        if (response := self.view.execute(task)) is not None:
            command.complete(response)
        return command

    def ended(self, command: LocalCommand, seconds: float) -> bool:
        """Whether a command ends within so long."""
        return command.ended.wait(seconds)

    def wait(self, command: LocalCommand, timeout_seconds: float | None = None) -> CommandResult:
        """The result of what was submitted. Raises Stopped when it was aborted."""
        self._submitted.discard(command)
        while not command.ended.wait(POLL_SECONDS):
            if self._stopped():
                command.task.abort()
        if command.response is None:
            self._await_end(command)
            if self._stopped():
                raise Stopped("the command was stopped")
            raise Aborted(f"LUN {command.task.lun}: another initiator has reset the unit, or aborted its commands")
        return command.result(command.response)

    def abort_submitted(self) -> None:
        """What was submitted and is not waited for is aborted; nothing of it is done any more when this returns."""
        while self._submitted:
            command = self._submitted.pop()
            command.task.abort()
            command.ended.wait()
            if command.response is None:
                self._await_end(command)

    def _await_end(self, command: LocalCommand) -> None:
        """Until its logical unit has let an aborted command go."""
        unit = self.view.logical_units[command.task.lun]
        with unit.lock:
            unit.tasks.await_end([command.task])
