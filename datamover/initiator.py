"""An iSCSI initiator: sends SCSI commands to logical units of any target. A small typed wrapper over libiscsi.

It knows iSCSI and nothing of SCSI: a CDB is bytes, sense data is bytes, a status is SAM's one-byte code.

    with InitiatorSession("127.0.0.1:3260", "iqn.2026-01.org.example:library") as session:
        inquiry = session.command(0, bytes([0x12, 0, 0, 0, 96, 0]), data_in_length=96)

Threads: a session is one TCP connection and runs one call at a time; its lock makes a second thread wait. Use a
session for each thread where calls should overlap. Every wait happens in poll() or in libiscsi, both without the GIL.
Command queueing needs no threads: `submit()` several commands, then `wait()` for each. An idle session does not
answer the target's NOP-In: `ping()` now and then keeps it alive.
"""

import ctypes
import enum
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from datamover import libiscsi
from datamover.libiscsi import CompletionStatus
from datamover.libiscsi_connection import (
    CommandResult,
    Connection,
    Credentials,
    InitiatorError,
    PendingCommand,
    Redirected,
    on_completion,
)

__all__ = [
    "DEFAULT_INITIATOR_NAME",
    "CommandResult",
    "Credentials",
    "DiscoveredTarget",
    "InitiatorError",
    "InitiatorSession",
    "PendingCommand",
    "TaskManagementFunction",
    "TaskManagementOutcome",
    "discover",
]

DEFAULT_INITIATOR_NAME = "iqn.2026-01.io.tapebay:initiator"
DEFAULT_TIMEOUT_SECONDS = 60.0
LIMIT_REDIRECTIONS = 4
_CRC32C = 3  # ISCSI_HEADER_DIGEST_CRC32C: demanded, None is not offered
_NO_TASK_TAG = 0xFFFFFFFF


class TaskManagementFunction(enum.IntEnum):
    """RFC 7143 11.5.1."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7


class TaskManagementOutcome(enum.IntEnum):
    """RFC 7143 11.6.1."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    TASK_ALLEGIANCE_REASSIGNMENT_NOT_SUPPORTED = 4
    TASK_MANAGEMENT_FUNCTION_NOT_SUPPORTED = 5
    FUNCTION_AUTHORIZATION_FAILED = 6
    FUNCTION_REJECTED = 255


@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """One target of a SendTargets answer.

    The addresses are HOST:PORT,TPGT as the target wrote them (RFC 7143 appendix C).
    """

    name: str
    addresses: tuple[str, ...]


class InitiatorSession:
    """A logged-in normal session with one target. Leaving its `with` block logs out."""

    def __init__(
        self,
        portal: str,
        target_name: str,
        *,
        initiator_name: str = DEFAULT_INITIATOR_NAME,
        credentials: Credentials | None = None,
        header_digest: bool = False,
        data_digest: bool = False,
        immediate_data: bool = True,
        initial_r2t: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        isid: tuple[int, int] | None = None,
        redirections: int = LIMIT_REDIRECTIONS,
    ) -> None:
        """Log in at `portal` (HOST:PORT or [IPV6]:PORT; a ",TPGT" behind it is ignored), following redirections.

        header_digest, data_digest: demand CRC32C. timeout_seconds: for the login, and for each command that names
        none of its own. isid: number (24 bits) and qualifier (16 bits) of the initiator session id, for who comes back
        as the same initiator port; by default a new one. redirections: how many are followed at most. Raise
        InitiatorError.
        """
        self._lock = threading.RLock()
        for _attempt in range(redirections + 1):
            self._connection = Connection(portal, target_name, initiator_name, timeout_seconds, isid)
            self._connection.set_credentials(credentials)
            self._set_keys(header_digest, data_digest, immediate_data, initial_r2t)
            try:
                return self._connection.establish()
            except Redirected as moved:
                self._connection.close()
                portal = str(moved).partition(",")[0]
        followed = f"after {redirections} redirections" if redirections else "which is not followed"
        raise InitiatorError(f"login: {self._connection.peer} sends on to {portal}, {followed}")

    def _set_keys(self, header_digest: bool, data_digest: bool, immediate_data: bool, initial_r2t: bool) -> None:
        library, context = self._connection.library, self._connection.context
        library.iscsi_set_header_digest(context, _CRC32C if header_digest else 0)
        library.iscsi_set_immediate_data(context, int(immediate_data))
        library.iscsi_set_initial_r2t(context, int(initial_r2t))
        if data_digest:
            if not hasattr(library, "iscsi_set_data_digest"):
                raise InitiatorError(f"{library._name} has no data digest: libiscsi newer than 1.20 is needed for it")
            library.iscsi_set_data_digest(ctypes.c_void_p(context), _CRC32C)

    @property
    def closed(self) -> bool:
        """Whether the session has ended: by logout(), close(), a timeout or a lost connection."""
        return self._connection.closed

    @property
    def timeout_seconds(self) -> float:
        """For each command that names none of its own."""
        return self._connection.timeout_seconds

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
        """Send one command and wait for its end. As submit() and wait()."""
        with self._lock:
            return self.wait(self.submit(lun, cdb, data_out, data_in_length, data_in=data_in), timeout_seconds)

    def submit(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None
    ) -> PendingCommand:
        """Queue one command, to be sent in this order as the target's window allows; wait() for its result.

        lun: 0 to 16383. data_out: any C-contiguous buffer, sent as it is, not copied: leave it alone until the end.
        data_in: a writable one that the data is read straight into; or data_in_length, for one of our own of so many
        bytes. A command moves data one way. Raise InitiatorError when the session is closed, ValueError for what
        cannot be sent.
        """
        if data_in is None and data_in_length:
            data_in = bytearray(data_in_length)
        if data_out is not None and data_in is not None:
            raise ValueError("libiscsi has no bidirectional commands: give data_out or data_in")
        with self._lock:
            library, context = self._connection.library, self._connection.context
            command = PendingCommand(library, lun, cdb, data_out, data_in)
            try:
                self._connection.start(
                    "command",
                    lambda token: library.iscsi_scsi_command_async(
                        context, lun, command.task, on_completion, None, token
                    ),
                    command,
                )
            except InitiatorError:
                command.discard()
                raise
            return command

    def wait(self, command: PendingCommand, timeout_seconds: float | None = None) -> CommandResult:
        """Return the command's result.

        Raise InitiatorError when it was aborted or none came in time, which closes the session.
        """
        with self._lock:
            if not command.done:
                self._connection.drive("command", command, timeout_seconds)
            if command.result is not None:
                return command.result
            if command.status == CompletionStatus.CANCELLED and not self.closed:
                if self._is_alive():
                    raise InitiatorError(f"command: aborted before {self._connection.peer} answered")
                raise InitiatorError(f"command: the connection to {self._connection.peer} was lost")
            raise self._connection.failure("command")

    def ended(self, command: PendingCommand, seconds: float) -> bool:
        """Whether a command ends within so long; wait() for its result then. It goes on if not. Raise InitiatorError
        when the connection is lost."""
        with self._lock:
            return self._connection.serve("command", command, seconds)

    def _is_alive(self) -> bool:
        try:
            self.ping()
        except InitiatorError:
            return False
        return True

    def ping(self, timeout_seconds: float | None = None) -> None:
        """NOP-Out and wait for its NOP-In; answers a NOP-In of the target's on the way. Raise InitiatorError."""
        with self._lock:
            connection = self._connection
            connection.run(
                "NOP-Out",
                lambda token: connection.library.iscsi_nop_out_async(connection.context, on_completion, None, 0, token),
                timeout_seconds=timeout_seconds,
            )

    def abort_task(self, command: PendingCommand, timeout_seconds: float | None = None) -> TaskManagementOutcome:
        """ABORT TASK. FUNCTION_COMPLETE.

        Wait() for the command now says aborted; TASK_DOES_NOT_EXIST: it has its result.
        """
        with self._lock:
            if command.done:
                return TaskManagementOutcome.TASK_DOES_NOT_EXIST
            task = command.task.contents
            tags = (int(task.initiator_task_tag), int(task.cmd_sn))
            response = self._manage(TaskManagementFunction.ABORT_TASK, command.lun, tags, timeout_seconds)
            if response == TaskManagementOutcome.FUNCTION_COMPLETE:
                self._cancel([command])
            return response

    def abort_task_set(self, lun: int, timeout_seconds: float | None = None) -> TaskManagementOutcome:
        """ABORT TASK SET: this session's commands for the logical unit."""
        return self._reset(TaskManagementFunction.ABORT_TASK_SET, lun, timeout_seconds)

    def clear_task_set(self, lun: int, timeout_seconds: float | None = None) -> TaskManagementOutcome:
        """CLEAR TASK SET: every session's commands for the logical unit."""
        return self._reset(TaskManagementFunction.CLEAR_TASK_SET, lun, timeout_seconds)

    def logical_unit_reset(self, lun: int, timeout_seconds: float | None = None) -> TaskManagementOutcome:
        """LOGICAL UNIT RESET."""
        return self._reset(TaskManagementFunction.LOGICAL_UNIT_RESET, lun, timeout_seconds)

    def target_reset(self, *, cold: bool = False, timeout_seconds: float | None = None) -> TaskManagementOutcome:
        """TARGET WARM RESET; or COLD, after which the target ends every session, this one too (RFC 7143 11.5.1)."""
        function = TaskManagementFunction.TARGET_COLD_RESET if cold else TaskManagementFunction.TARGET_WARM_RESET
        return self._reset(function, None, timeout_seconds)

    def _reset(
        self, function: TaskManagementFunction, lun: int | None, timeout_seconds: float | None
    ) -> TaskManagementOutcome:
        with self._lock:
            response = self._manage(function, lun or 0, (_NO_TASK_TAG, 0), timeout_seconds)
            if response == TaskManagementOutcome.FUNCTION_COMPLETE:
                waiting = self._connection.commands()
                self._cancel([command for command in waiting if lun is None or command.lun == lun])
            return response

    def _manage(
        self, function: TaskManagementFunction, lun: int, tags: tuple[int, int], timeout_seconds: float | None
    ) -> TaskManagementOutcome:
        connection = self._connection
        response = connection.run(
            function.name,
            lambda token: connection.library.iscsi_task_mgmt_async(
                connection.context, lun, function, *tags, on_completion, token
            ),
            lambda pointer: ctypes.c_uint32.from_address(pointer).value,
            timeout_seconds,
        )
        return TaskManagementOutcome(response)

    def _cancel(self, commands: list[PendingCommand]) -> None:
        # The target sends no response for an aborted task (RFC 7143 4.2.2.1), so libiscsi has to be told to forget it.
        for command in commands:
            if not command.done:
                self._connection.library.iscsi_scsi_cancel_task(self._connection.context, command.task)

    def logout(self, timeout_seconds: float | None = None) -> None:
        """Log out ("close the session") and close the socket. Raise InitiatorError when the target does not answer."""
        with self._lock:
            connection = self._connection
            connection.run(
                "logout",
                lambda token: connection.library.iscsi_logout_async(connection.context, on_completion, token),
                timeout_seconds=timeout_seconds,
            )
            connection.close()

    def close(self) -> None:
        """Drop the connection without a logout, as a crash would."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.closed:
            return
        if error is None:
            self.logout()
        else:
            self.close()


def discover(
    portal: str,
    *,
    initiator_name: str = DEFAULT_INITIATOR_NAME,
    credentials: Credentials | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> list[DiscoveredTarget]:
    """Ask a portal with SendTargets=All in a discovery session. Raise InitiatorError."""
    connection = Connection(portal, None, initiator_name, timeout_seconds)
    connection.set_credentials(credentials)
    try:
        connection.establish()
        found = connection.run(
            "discovery",
            lambda token: connection.library.iscsi_discovery_async(connection.context, on_completion, token),
            _read_discovery,
        )
    finally:
        connection.close()
    return list(reversed(found or []))  # libiscsi puts each new record in front


def _read_discovery(pointer: int) -> list[DiscoveredTarget]:
    targets = []
    record = ctypes.cast(pointer, ctypes.POINTER(libiscsi.DiscoveryAddress))
    while record:
        addresses = []
        portal = record.contents.portals
        while portal:
            addresses.append(portal.contents.address.decode(errors="backslashreplace"))
            portal = portal.contents.next
        name = record.contents.target_name.decode(errors="backslashreplace")
        targets.append(DiscoveredTarget(name, tuple(reversed(addresses))))
        record = record.contents.next
    return targets
