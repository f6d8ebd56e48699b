"""One EXTENDED COPY from its arrival to its end: its place in the queues of the tape drives, the job, and how it failed
(SPC-5 5.17.7.4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from datamover.copy_job import CopyJob
from datamover.copy_progress import CopyCancelled, CopyFailed, InexactSegment, Side, Tally
from datamover.endpoints import NoDevice
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.copying.access import Access, Copyable, Unreachable, WrongLength
from scsi_targets.devices.copying.plan import Planner, RunsOffDisk, unreachable
from scsi_targets.devices.copying.records import Checksums, CopyRecord
from scsi_targets.devices.copying.slots import SLOTS, Slot
from scsi_targets.devices.unit.reservations import Conflict
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition, ForwardedSense

if TYPE_CHECKING:
    from scsi_targets.devices.copying.parameters import CopyParameters
    from scsi_targets.devices.unit.task import Task

log = structlog.get_logger(__name__)

# Held while a copy takes its places in the queues of all its drives: so two copies are in the same order in every
# queue, and none waits for one that waits for it. Taken before the lock of any logical unit.
_arrivals = threading.Lock()


class Operation:
    """Made on arrival, which raises CheckCondition for what is wrong with the parameter list; then begin(), run() on a
    thread that may take long, end().

    units: what the initiator may copy between. own: the logical unit that processes the command."""

    def __init__(
        self, parameters: CopyParameters, task: Task, units: Iterable[Copyable], own: Copyable, record: CopyRecord
    ) -> None:
        self._task = task
        self._record = record
        self._planner = Planner(parameters, task, units, own)
        self._changed = threading.Condition()
        self._slot = Slot(self._wake)
        try:
            self._steps = self._planner.steps()
            self._accesses = list(self._planner.accesses.values())
        except CopyFailed as failed:
            raise self._report(failed) from failed

    def begin(self) -> None:
        """Takes its place with every logical unit that takes part."""
        self._record.cancelling = self._wake
        self._task.when_aborted(self._wake)
        with _arrivals:
            for access in self._accesses:
                access.begin(self._wake)

    def end(self) -> None:
        """The logical units are free of it."""
        SLOTS.give_back(self._slot)
        for access in self._accesses:
            access.end()

    def run(self) -> None:
        """The whole of it. Raises CheckCondition."""
        progress = self._record.progress
        try:
            self._await_turn()
            self._record.has_turn = True
            self._planner.check()
            job = CopyJob(
                self._steps, progress=progress, cancelled=self._stopped, pace=self._record.pace, hurried=self._hurried
            )
            try:
                job.run()
            finally:
                self._record.checksums = Checksums.of(job.tallies)
        except CopyFailed as failed:
            if self._stopped() and isinstance(failed.cause, Unreachable):  # that was not waited for any more
                raise self._cancelled() from None
            raise self._report(self._first_cause(failed)) from failed
        except CopyCancelled:
            raise self._cancelled() from None
        log.info("copy done", segments=len(self._steps), written_bytes=progress.bytes_written,
                 crc32c=f"{progress.crc32c:08x}")  # fmt: skip

    def _cancelled(self) -> CheckCondition:
        self._record.reason = "it was stopped"
        log.info("copy stopped", written_bytes=self._record.progress.bytes_written)
        return CheckCondition(sense.COPY_CLEARED_BY_DEVICE_SERVER)

    # ---- waiting ---------------------------------------------------------------------------------------------------

    def _stopped(self) -> bool:
        return self._task.aborted or self._record.cancelled

    def _hurried(self) -> bool:
        return self._stopped() or self._planner.ends[self._record.progress.segments - 1].cleared

    def _wake(self) -> None:
        if self._stopped() or self._cleared() is not None:
            for access in self._accesses:
                access.give_up()
        with self._changed:
            self._changed.notify_all()

    def _await_turn(self) -> None:
        """Until every drive is free for this copy: they serve copies and commands in the order of their arrival. Then,
        holding them, until there is memory for its buffers, which no copy has that still waits for a drive."""
        self._await(lambda: all(access.granted for access in self._accesses))
        SLOTS.claim(self._slot)
        self._await(lambda: self._slot.granted)

    def _await(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped() or self._cleared() or condition())
        if self._stopped():
            raise CopyCancelled
        if (cleared := self._clearing()) is not None:
            raise cleared

    def _cleared(self) -> Access | None:
        return next((access for access in self._accesses if access.cleared is not None), None)

    def _clearing(self) -> CopyFailed | None:
        """How a copy fails of which a unit was reset, or its commands aborted."""
        if (access := self._cleared()) is None or access.cleared is None:
            return None
        return CopyFailed(*self._planner.first_use(access), CheckCondition(access.cleared), Tally())

    def _first_cause(self, failed: CopyFailed) -> CopyFailed:
        """What was given up since another unit was reset fails by that."""
        return (self._clearing() if isinstance(failed.cause, Unreachable) else None) or failed

    # ---- failures --------------------------------------------------------------------------------------------------

    def _report(self, failed: CopyFailed) -> CheckCondition:
        ends = self._planner.ends[failed.segment]
        reason = _in_words(failed.cause)
        log.warning("copy failed", segment=failed.segment, side=failed.side.value, reason=reason)
        self._record.failed_segment, self._record.reason = failed.segment, f"{failed.side.value}: {reason}"
        cscd = ends.of(failed.side)
        if isinstance(failed.cause, NoDevice | Unreachable) and cscd is not None:
            return unreachable(cscd, failed.segment)
        information = None
        if failed.written_bytes and ends.destination is not None:
            information = failed.residual_bytes // ends.destination.counted_in
        if isinstance(failed.cause, InexactSegment):
            code = sense.UNEXPECTED_INEXACT_SEGMENT
        elif isinstance(failed.cause, WrongLength):
            code = failed.cause.code
        elif cscd is None or cscd.access is None:  # inline data cannot fail, so this is a fault of ours
            code = sense.COPY_SEGMENT_FAILED
        else:
            by_destination = failed.side is Side.DESTINATION
            answer, data = cscd.access.answer_to(failed.cause, writes=by_destination)
            runs_off = isinstance(failed, RunsOffDisk)
            return CheckCondition(
                sense.COPY_ABORTED_WITHOUT_ADDITIONAL_SENSE if runs_off else sense.THIRD_PARTY_DEVICE_FAILURE,
                information=information,
                command_specific=failed.segment,
                segment_pointer=(cscd.offset, False, -1) if cscd.offset is not None else None,
                forwarded=ForwardedSense(by_destination, answer, data),
            )
        return CheckCondition(code, information=information, command_specific=failed.segment)


def _in_words(cause: BaseException) -> str:
    """Why a segment failed, for an operator."""
    if isinstance(cause, CheckCondition | CommandFailed) and cause.sense is not None:
        return "INCORRECT LENGTH" if cause.sense.incorrect_length else sense.name_of(cause.sense.code)
    return "RESERVATION CONFLICT" if isinstance(cause, Conflict) else str(cause)
