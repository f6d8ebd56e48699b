"""A logical unit as a copy manager: EXTENDED COPY sent to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from scsi_targets.client.unit import GOOD, CommandFailed, Unit, is_unit_attention
from scsi_targets.t10 import copy_descriptors as copy

PARAMETERS_BYTES = 1024
# How often a copy is asked how far it is.
WATCH_SECONDS = 0.5

CopyWatch: TypeAlias = Callable[[copy.CopyStatus], None]


class StartedCopy(NamedTuple):
    """An EXTENDED COPY that was sent: its CDB, its parameter list, and what the session knows it by."""

    cdb: bytes
    data: bytes
    command: Any


class CopyingUnit(Unit):
    """Any disk or drive that copies; timeouts are those of whole copies."""

    def extended_copy(
        self,
        cscds: Sequence[bytes],
        segments: Sequence[bytes],
        inline_data: bytes = b"",
        *,
        list_identifier: int = 1,
        watch: CopyWatch | None = None,
    ) -> None:
        """EXTENDED COPY(LID1), to its end. watch: called with the copy's status while it runs; what it raises stops the
        copy, between two blocks, and is raised when it has stopped. Raises CommandFailed, whose sense says which
        segment (its command_specific) and what the source or destination said (forwarded)."""
        if watch is not None:
            self.take_unit_attentions()  # a unit attention would end the copy
        started = self.start(cscds, segments, inline_data, list_identifier=list_identifier)
        if watch is None:
            self.finish(started)
        else:
            self._watch(started, list_identifier, watch)

    def start(
        self,
        cscds: Sequence[bytes],
        segments: Sequence[bytes],
        inline_data: bytes = b"",
        *,
        list_identifier: int = 1,
    ) -> StartedCopy:
        """EXTENDED COPY(LID1), sent: finish() waits for its end. Meanwhile the program may do something else."""
        data = copy.parameter_list(cscds, segments, inline_data, list_identifier=list_identifier)
        cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(data))
        started = StartedCopy(cdb, data, self.session.submit(self.lun, cdb, data))
        self.has_ended(started)
        return started

    def has_ended(self, started: StartedCopy) -> bool:
        """Whether finish() would not wait. A session over the network sends and receives only while it is asked
        something, so ask now and then."""
        return self.session.ended(started.command, 0)

    def finish(self, started: StartedCopy) -> None:
        """Waits for the end. Unit attentions tell of what happened before: they are passed over, and the command is
        sent again. Raises CommandFailed."""
        result = self.session.wait(started.command, self.timeout_seconds)
        if result.status == GOOD:
            return
        failed = CommandFailed(self.lun, started.cdb, result)
        if not is_unit_attention(failed):
            raise failed
        self.run(started.cdb, started.data)

    def _watch(self, started: StartedCopy, list_identifier: int, watch: CopyWatch) -> None:
        try:
            while not self.session.ended(started.command, WATCH_SECONDS):
                watch(self.status(list_identifier))
        except BaseException:
            self._stop(list_identifier)
            self.session.wait(started.command, self.timeout_seconds)
            raise
        result = self.session.wait(started.command)
        if result.status != GOOD:
            raise CommandFailed(self.lun, started.cdb, result)

    def _stop(self, list_identifier: int) -> None:
        try:
            self.abort(list_identifier)
        except CommandFailed:
            return  # it has ended by itself

    def abort(self, list_identifier: int = 1) -> None:
        """COPY OPERATION ABORT: the copy stops between two blocks, and fails."""
        self.run(copy.CopyOperationAbort.encode(list_identifier=list_identifier))

    def operating_parameters(self) -> copy.OperatingParameters:
        """RECEIVE COPY OPERATING PARAMETERS: the limits of a list."""
        cdb = copy.ReceiveCopyOperatingParameters.encode(allocation_length=PARAMETERS_BYTES)
        least = copy.OperatingParameters.length
        return copy.OperatingParameters.decode(self.run(cdb, data_in_length=PARAMETERS_BYTES, least=least))

    def status(self, list_identifier: int = 1) -> copy.CopyStatus:
        """RECEIVE COPY STATUS(LID1), while it runs."""
        cdb = copy.ReceiveCopyStatusLid1.encode(
            list_identifier=list_identifier, allocation_length=copy.CopyStatus.length
        )
        length = copy.CopyStatus.length
        return copy.CopyStatus.decode(self.run(cdb, data_in_length=length, least=length))
