"""The task set of a logical unit: the queue, the one worker, tasks on threads of their own, guests (SAM-5 8).

Everything here happens under the logical unit's lock, which is given to the constructor. A command whose row says
`slow` runs on the worker thread; until it ends, every other command queues behind it in order, except those whose row
says `while_busy`. A guest that wants the unit for itself queues like a command; while a copy's guest has it, only
commands whose row says `exclusive` queue behind it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable
from contextlib import suppress

import structlog

from scsi_targets.devices.unit import task as status
from scsi_targets.devices.unit.dispatch import Row
from scsi_targets.devices.unit.guest import Guest
from scsi_targets.devices.unit.task import DEFERRED, Deferred, Nexus, Response, Task
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import SenseCode

log = structlog.get_logger(__name__)

# A queue behind a slow command longer than this answers TASK SET FULL.
MAX_QUEUED_TASKS = 1024
# Tasks that run on threads of their own at one time; one more answers TASK SET FULL.
MAX_DEFERRED_TASKS = 64
# How long a task management function waits for what it has aborted to stop transferring data.
ABORT_PATIENCE_SECONDS = 5.0


class TaskSet:
    """`running` is what the rest of the `queue` waits for. perform: checks and runs a command; None when it has been
    deferred. failed: the response to a command that not even its failure could be told of. name: of the unit, for its
    threads."""

    def __init__(
        self,
        name: str,
        lock: threading.RLock,
        *,
        perform: Callable[[Row, Task], Response | None],
        failed: Callable[[], Response],
    ) -> None:
        self.queue: deque[tuple[Row, Task] | Guest] = deque()
        self.running: Task | Guest | None = None
        self.abort_patience_seconds = ABORT_PATIENCE_SECONDS
        self._name, self._lock, self._perform, self._failed = name, lock, perform, failed
        self._deferred: dict[Task, threading.Thread] = {}
        self._guests: list[Guest] = []
        self._changed = threading.Condition(lock)
        self._worker: threading.Thread | None = None
        self._closing = False

    # ---- the worker ------------------------------------------------------------------------------------------------

    def must_wait(self, row: Row) -> bool:
        """Whether a command queues, when there is something to queue behind or its row says slow."""
        if row.while_busy:
            return False
        copying = isinstance(self.running, Guest) and self.running.nexus is not None
        return row.exclusive if copying else True

    def enqueue(self, row: Row, task: Task) -> Response | None:
        """Queues a command; None when it will be run."""
        if len(self.queue) >= MAX_QUEUED_TASKS or self._closing:
            return Response(status.TASK_SET_FULL)
        if not self._have_worker():
            return Response(status.BUSY)
        self.queue.append((row, task))
        self._advance()
        return None

    def _have_worker(self) -> bool:
        """Starts the worker, where there is none. False: the system has no thread now; the next command tries again."""
        if self._worker is None or not self._worker.is_alive():
            worker = threading.Thread(target=self._work, name=f"worker {self._name}", daemon=True)
            if not started(worker):
                return False
            self._worker = worker
        return True

    def _advance(self) -> None:
        """After the queue or what runs has changed: a guest whose turn it is gets it, a command gets the worker."""
        if self.running is None and self.queue and isinstance(first := self.queue[0], Guest):
            self.queue.popleft()
            self.running = first
            first.grant()
        self._changed.notify_all()

    def _work(self) -> None:
        """The worker's life. Whatever befalls a command, the next one is served."""
        while (found := self._next()) is not None:
            row, task = found
            try:
                if not task.aborted and (response := self._perform(row, task)) is not None:
                    finish(task, response)
            except Exception as error:  # noqa: BLE001 - whatever it was, even a log that cannot be written
                self._give_up(task, error)
            finally:
                with self._lock:
                    self.running = None
                    self._advance()

    def _give_up(self, task: Task, error: Exception) -> None:
        finish(task, self._failed())
        with suppress(Exception):  # when the log itself is what failed, there is nobody to tell
            log.error("command failed inside the target", cdb=task.cdb.hex(), lun=task.lun, exc_info=error)

    def _next(self) -> tuple[Row, Task] | None:
        """Waits for a command that is the worker's; None: the unit is closing."""
        with self._lock:
            while self.running is not None or not self.queue or isinstance(self.queue[0], Guest):
                if self._closing:
                    return None
                self._changed.wait()
            found = self.queue.popleft()
            assert not isinstance(found, Guest)
            self.running = found[1]
            return found

    # ---- tasks on threads of their own -------------------------------------------------------------------------------

    def defer(self, task: Task, name: str, work: Callable[[], Response]) -> Response | Deferred:
        """Runs `work` on a thread of its own and ends the task with what it returns. Returns DEFERRED, TASK SET
        FULL, or BUSY when the system has no thread now."""
        name = f"{name} {self._name}"
        thread = threading.Thread(target=self._run_deferred, args=(task, work), name=name, daemon=True)
        with self._lock:
            if len(self._deferred) >= MAX_DEFERRED_TASKS or self._closing:
                return Response(status.TASK_SET_FULL)
            if not started(thread):
                return Response(status.BUSY)
            self._deferred[task] = thread
        return DEFERRED

    def _run_deferred(self, task: Task, work: Callable[[], Response]) -> None:
        response = None
        try:
            response = work()
        except Exception as error:  # noqa: BLE001 - as in _work
            self._give_up(task, error)
        with self._lock:
            del self._deferred[task]
            self._changed.notify_all()
        if response is not None:
            finish(task, response)

    # ---- guests ----------------------------------------------------------------------------------------------------

    def welcome(self, guest: Guest) -> None:
        """A guest begins. One that waits for its turn queues up; dismiss() ends it."""
        with self._lock:
            self._guests.append(guest)
            if self._closing:
                guest.clear(sense.LOGICAL_UNIT_NOT_SUPPORTED)
            elif guest.waits:
                self.queue.append(guest)
                self._advance()

    def dismiss(self, guest: Guest) -> None:
        """Ends what welcome() began, if something else has not done so."""
        with self._lock:
            if guest in self._guests:
                self._guests.remove(guest)
            if guest in self.queue:
                self.queue.remove(guest)
            if self.running is guest:
                self.running = None
            self._advance()

    def occupy(self, robot: Guest, timeout_seconds: float) -> bool:
        """Waits for a guest's turn; False when it did not come in time, and then the guest is gone."""
        with self._lock:
            self.welcome(robot)
            if self._changed.wait_for(lambda: robot.granted, timeout_seconds):
                return True
            self.dismiss(robot)
            return False

    def vacate(self) -> None:
        """The guest whose turn it is leaves."""
        with self._lock:
            if isinstance(self.running, Guest):
                self.dismiss(self.running)

    def forget_robot(self) -> None:
        """The robot's thread was ended: it neither waits nor has its turn."""
        with self._lock:
            for entry in [*self._guests, *self.queue, self.running]:
                if isinstance(entry, Guest) and entry.nexus is None:
                    self.dismiss(entry)

    def serves(self, nexus: Nexus) -> bool:
        """Whether a command of that nexus is queued or runs, or a copy works here for it."""
        waiting = [entry[1] for entry in self.queue if not isinstance(entry, Guest)]
        running = [self.running] if isinstance(self.running, Task) else []
        copies = any(guest.nexus == nexus for guest in self._guests)
        return copies or any(task.nexus == nexus for task in (*waiting, *running, *self._deferred))

    # ---- ending ----------------------------------------------------------------------------------------------------

    def interrupt(self, code: SenseCode) -> None:
        """Ends what needs the medium, each with an answer, as nobody has asked for its abortion (SAM-5 5.6): what is
        queued does not begin, a command that runs ends when it looks, and copies at their next transfer here."""
        waiting = [entry[1] for entry in self.queue if not isinstance(entry, Guest)]
        for task in [*waiting, self.running]:
            if isinstance(task, Task):
                task.interrupted = code
        self.clear_guests(code)

    def abort(self, which: Callable[[Task], bool]) -> list[Task]:
        """Aborts tasks and returns them."""
        hit = [entry[1] for entry in self.queue if not isinstance(entry, Guest) and which(entry[1])]
        ended = set(hit)
        self.queue = deque(entry for entry in self.queue if isinstance(entry, Guest) or entry[1] not in ended)
        if isinstance(running := self.running, Task) and which(running) and not running.aborted:
            hit.append(running)
        hit += [task for task in self._deferred if which(task) and not task.aborted]
        for task in hit:
            task.abort()
        self._advance()
        return hit

    def clear_guests(self, code: SenseCode, of: Container[Nexus | None] | None = None) -> list[Guest]:
        """Aborts what copy managers have under way here: all of them, or those that work for some nexuses."""
        cleared = [guest for guest in self._guests if guest.nexus is not None and (of is None or guest.nexus in of)]
        for guest in cleared:
            guest.clear(code)
            if not guest.active:
                self.dismiss(guest)
        return cleared

    def await_end(self, tasks: Iterable[Task], guests: Iterable[Guest] = ()) -> None:
        """Waits until what was aborted transfers no data any more, as a copy must before the function that ended it is
        complete (SPC-2 7.2.4); but not for ever for a device that hangs. The lock is free meanwhile."""
        self._changed.wait_for(
            lambda: not any(task in self._deferred for task in tasks) and not any(guest.active for guest in guests),
            self.abort_patience_seconds,
        )

    def close(self) -> None:
        """Ends the worker after the command it runs; queued commands are aborted."""
        with self._lock:
            self._closing = True
            self.abort(lambda task: True)
            self.clear_guests(sense.LOGICAL_UNIT_NOT_SUPPORTED)
            self._changed.notify_all()
            threads = [self._worker, *self._deferred.values()]
        for thread in threads:
            if thread is not None and thread is not threading.current_thread():
                thread.join()


def finish(task: Task, response: Response) -> None:
    """Ends a task that its session waits for, unless it was aborted."""
    if task.aborted:
        return
    try:
        task.complete(response)
    except Exception as error:  # noqa: BLE001 - the session is gone; the worker serves the others
        log.info("response could not be delivered", lun=task.lun, reason=str(error))


def started(thread: threading.Thread) -> bool:
    """Starts a thread. False, and a line in the log, when the system has none to give."""
    try:
        thread.start()
    except RuntimeError as error:
        log.warning("no thread to be had", thread=thread.name, reason=str(error))
        return False
    return True
