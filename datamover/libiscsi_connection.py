"""The part of the initiator that lives beside libiscsi: its context, the loop that drives it, commands and the memory
they hold.

Private to `datamover.initiator`, which re-exports what callers need.
"""

import ctypes
import itertools
import secrets
import select
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from datamover import libiscsi
from datamover.libiscsi import CompletionStatus, LibraryUnavailable, SessionType, TransferDirection

MAX_CDB_LENGTH = 16
NO_RECONNECTION = "Can not reconnect right now"  # what libiscsi says instead of why there is no connection
LIMIT_DATA_BYTES = 0x7FFFFFFF  # libiscsi counts in int


class InitiatorError(Exception):
    """The session could not be made, was lost, or the library is missing.

    The text says which, with the portal and target.
    """


class Redirected(Exception):
    """A login answered 01h 01h/02h, "target moved" (RFC 7143 11.13.5); carries the new address."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """CHAP names and secrets (RFC 7143 12.1). With the mutual pair the target has to prove itself too."""

    user: str
    secret: str = field(repr=False)
    mutual_user: str | None = None
    mutual_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended.

    data: the Data-In that arrived, a view of the caller's buffer where one was given.
    residual: bytes; positive when the target moved less than expected (underflow), negative when it had more
    (overflow), RFC 7143 11.4.5.
    """

    status: int
    sense: bytes
    data: memoryview
    residual: int


class Completion:
    """Something libiscsi will call back about."""

    def __init__(self, on_data: Callable[[int], Any] | None = None) -> None:
        self.done = False
        self.status: int = CompletionStatus.CANCELLED
        self.value: Any = None
        self._on_data = on_data

    def finish(self, status: int, command_data: int | None) -> None:
        self.status = status
        # What command_data points at is valid during the callback only.
        if status == 0 and command_data and self._on_data:
            self.value = self._on_data(command_data)
        self.done = True


# Completions by the token that libiscsi carries as private_data. Being held here keeps every buffer that libiscsi may
# still write into alive until it has called back, whatever became of the session object.
_outstanding: dict[int, Completion] = {}
_tokens = itertools.count(1)


def _finish(_context: int, status: int, command_data: int | None, token: int) -> None:
    completion = _outstanding.pop(token, None)
    if completion is not None:
        completion.finish(status, command_data)


# One for all, never freed: libiscsi may call back as late as it likes.
on_completion = libiscsi.Callback(_finish)


class _BufferView(ctypes.Structure):
    """Py_buffer, part of the stable ABI since 3.11: the way to the address of a read-only buffer."""

    _fields_ = [
        ("address", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("length", ctypes.c_ssize_t),
        ("item_size", ctypes.c_ssize_t),
        ("read_only", ctypes.c_int),
        ("dimensions", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


class _PinnedBuffer:
    """Holds a C-contiguous buffer in place, without a copy, and knows where that is."""

    def __init__(self, data: Any, *, writable: bool) -> None:
        self._view = _BufferView()
        flags = 1 if writable else 0  # PyBUF_WRITABLE, PyBUF_SIMPLE
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(self._view), flags)
        self.length: int = self._view.length
        self.vector = libiscsi.IoVector(self._view.address, self.length)
        self._release = weakref.finalize(self, ctypes.pythonapi.PyBuffer_Release, ctypes.byref(self._view))

    def release(self) -> None:
        self._release()


class PendingCommand(Completion):
    """A command that was submitted; `Session.wait()` gives its result."""

    def __init__(self, library: ctypes.CDLL, lun: int, cdb: bytes, data_out: Any, data_in: Any) -> None:
        super().__init__()
        self.lun = lun
        self.result: CommandResult | None = None
        self._library = library
        self._data_in = memoryview(data_in).cast("B") if data_in is not None else memoryview(b"")
        self._pinned = _PinnedBuffer(data_out if data_out is not None else self._data_in, writable=data_in is not None)
        self._task = self._make_task(cdb, data_out is not None, data_in is not None)

    def _make_task(self, cdb: bytes, writes: bool, reads: bool) -> Any:
        length = self._pinned.length
        if not 0 < len(cdb) <= MAX_CDB_LENGTH:
            raise ValueError(f"a CDB of {len(cdb)} bytes: libiscsi sends 1 to {MAX_CDB_LENGTH}")
        if length > LIMIT_DATA_BYTES:
            raise ValueError(f"{length} bytes in one command: the limit is {LIMIT_DATA_BYTES}")
        direction = TransferDirection.NONE
        if length:
            direction = TransferDirection.WRITE if writes else TransferDirection.READ
        task = self._library.scsi_create_task(len(cdb), bytes(cdb), direction, length)
        if not task:
            raise MemoryError("scsi_create_task")
        if length and writes:
            self._library.scsi_task_set_iov_out(task, ctypes.pointer(self._pinned.vector), 1)
        elif length and reads:
            self._library.scsi_task_set_iov_in(task, ctypes.pointer(self._pinned.vector), 1)
        return task

    @property
    def task(self) -> Any:
        return self._task

    def finish(self, status: int, command_data: int | None) -> None:
        if status <= 0xFF:  # one of SAM's, not one of libiscsi's own
            self.result = self._read_result(status)
        self.discard()
        super().finish(status, None)

    def discard(self) -> None:
        """Give the task and the hold on the buffers back."""
        if self._task is not None:
            self._library.scsi_free_scsi_task(self._task)
            self._task = None
        self._pinned.release()

    def _read_result(self, status: int) -> CommandResult:
        task = self._task.contents
        residual = 0
        if task.residual_status == libiscsi.Residual.UNDERFLOW:
            residual = int(task.residual)
        elif task.residual_status == libiscsi.Residual.OVERFLOW:
            residual = -int(task.residual)
        sense = b""
        if task.data_in.bytes and task.data_in.size > 2:
            # The data segment of a SCSI Response starts with SenseLength (RFC 7143 11.4.7.2).
            segment = ctypes.string_at(task.data_in.bytes, task.data_in.size)
            sense = segment[2 : 2 + int.from_bytes(segment[:2], "big")]
        received = len(self._data_in) - min(max(residual, 0), len(self._data_in))
        return CommandResult(status, sense, self._data_in[:received], residual)


class Connection:
    """A libiscsi context and the loop that drives it. Not for use by two threads at once."""

    def __init__(
        self,
        portal: str,
        target_name: str | None,
        initiator_name: str,
        timeout_seconds: float,
        isid: tuple[int, int] | None = None,
    ) -> None:
        try:
            self.library = libiscsi.load()
        except LibraryUnavailable as error:
            raise InitiatorError(str(error)) from error
        self.portal = portal.partition(",")[0]
        self.peer = f"{target_name} at {self.portal}" if target_name else self.portal
        self.timeout_seconds = timeout_seconds
        self.context = self.library.iscsi_create_context(initiator_name.encode())
        if not self.context:
            raise InitiatorError(f"libiscsi does not take the initiator name {initiator_name!r}")
        self._close = weakref.finalize(self, self.library.iscsi_destroy_context, self.context)
        self._pending: dict[int, Completion] = {}
        self.library.iscsi_set_noautoreconnect(self.context, 1)
        self.library.iscsi_set_session_type(self.context, SessionType.NORMAL if target_name else SessionType.DISCOVERY)
        # libiscsi seeds its ISID from the second and its own address: two sessions of one process can get the same
        # and throw each other out.
        number, qualifier = isid or (secrets.randbits(24), secrets.randbits(16))
        self.library.iscsi_set_isid_random(self.context, number, qualifier)
        if target_name:
            self.library.iscsi_set_targetname(self.context, target_name.encode())

    @property
    def closed(self) -> bool:
        return not self._close.alive

    def commands(self) -> list[PendingCommand]:
        """The commands that have not ended."""
        return [
            waiting for waiting in self._pending.values() if isinstance(waiting, PendingCommand) and not waiting.done
        ]

    def set_credentials(self, credentials: Credentials | None) -> None:
        if credentials is None:
            return
        self.library.iscsi_set_initiator_username_pwd(
            self.context, credentials.user.encode(), credentials.secret.encode()
        )
        if credentials.mutual_user is not None:
            self.library.iscsi_set_target_username_pwd(
                self.context, credentials.mutual_user.encode(), (credentials.mutual_secret or "").encode()
            )

    def establish(self) -> None:
        """Connect and log in; raise InitiatorError, or Redirected."""
        library = self.library
        self.run("connect", lambda token: library.iscsi_connect_async(
            self.context, self.portal.encode(), on_completion, token
        ))  # fmt: skip
        completion = self.start("login", lambda token: library.iscsi_login_async(self.context, on_completion, token))
        self.drive("login", completion)
        if completion.status == CompletionStatus.REDIRECT:
            raise Redirected((library.iscsi_get_target_address(self.context) or b"").decode())
        self.require_good("login", completion)

    def start(self, what: str, call: Callable[[int], int], completion: Completion | None = None) -> Completion:
        """Make a call that takes a callback's token. Raise InitiatorError when it does not even start."""
        if self.closed:
            raise InitiatorError(f"{what}: the session with {self.peer} is closed")
        completion = completion or Completion()
        token = next(_tokens)
        _outstanding[token] = self._pending[token] = completion
        if call(token) != 0:
            del _outstanding[token], self._pending[token]
            raise self.failure(what)
        return completion

    def run(
        self,
        what: str,
        call: Callable[[int], int],
        on_data: Callable[[int], Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Make such a call and wait for its end; return what on_data made of the callback's data."""
        completion = self.start(what, call, Completion(on_data))
        self.drive(what, completion, timeout_seconds)
        self.require_good(what, completion)
        return completion.value

    def require_good(self, what: str, completion: Completion) -> None:
        if completion.status != 0:
            error = self.failure(what)
            self.close()
            raise error

    def drive(self, what: str, completion: Completion, timeout_seconds: float | None = None) -> None:
        """Serve the socket until the completion is done.

        A timeout closes the session: an answer that came later would be written into memory that its owner has back.
        """
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        if not self.serve(what, completion, limit):
            self.close()
            raise InitiatorError(f"{what}: no answer from {self.peer} within {limit:g} s")
        self._pending = {token: waiting for token, waiting in self._pending.items() if not waiting.done}

    def serve(self, what: str, completion: Completion, seconds: float) -> bool:
        """Serve the socket for so long, or until the completion is done; whether it is."""
        deadline = time.monotonic() + seconds
        while not completion.done:
            if self.closed:
                raise InitiatorError(f"{what}: the session with {self.peer} is closed")
            events = self._poll(deadline - time.monotonic())
            if events is None:
                return False
            if self.library.iscsi_service(self.context, events) < 0 and not completion.done:
                error = self.failure(what)
                self.close()
                raise error
        return True

    def _poll(self, seconds: float) -> int | None:
        poller = select.poll()
        poller.register(self.library.iscsi_get_fd(self.context), self.library.iscsi_which_events(self.context))
        ready = poller.poll(max(0.0, seconds) * 1000)
        return ready[0][1] if ready else None

    def failure(self, what: str) -> InitiatorError:
        said = (self.library.iscsi_get_error(self.context) or b"").decode(errors="backslashreplace").strip()
        if NO_RECONNECTION in said:
            said = "the connection was refused, or lost"
        return InitiatorError(f"{what}: {self.peer}: {said or 'failed'}")

    def close(self) -> None:
        """Close the socket. Whatever was outstanding ends as cancelled."""
        self._close()
        for token, completion in self._pending.items():
            # The callbacks of a session that never logged in are not made.
            if _outstanding.pop(token, None) is not None:
                completion.finish(CompletionStatus.CANCELLED, None)
        self._pending.clear()
