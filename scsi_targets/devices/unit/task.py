"""What iSCSI hands to a logical unit and gets back: a nexus, a task, a response."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from scsi_targets.devices.unit.principal import Permission, Principal
from scsi_targets.t10.sense import CheckCondition, SenseCode

if TYPE_CHECKING:
    from typing_extensions import Buffer

GOOD = 0x00
CHECK_CONDITION = 0x02
BUSY = 0x08
RESERVATION_CONFLICT = 0x18
TASK_SET_FULL = 0x28
TASK_ABORTED = 0x40

MAX_NAME_BYTES = 223
ISID_BYTES = 6
# Stands for Principal.initiator(initiator_name) until a nexus has its name.
BY_NAME = Principal.initiator("")


@dataclass(frozen=True, slots=True)
class Nexus:
    """An I_T nexus (SAM-5 4.7.2, RFC 7143 4.4): the initiator port is name and ISID, the target port name and tag.

    It belongs to a principal: who logs in with the name and ISID of somebody else is another nexus and inherits
    nothing. Where none is given, the initiator proved nothing but its name."""

    initiator_name: str
    isid: bytes
    target_name: str
    portal_group_tag: int = 1
    session_id: int = field(default=0, compare=False)  # differs between logins; the nexus is the same
    principal: Principal = BY_NAME

    def __post_init__(self) -> None:
        if self.principal is BY_NAME:
            object.__setattr__(self, "principal", Principal.initiator(self.initiator_name))

    @property
    def possible(self) -> bool:
        """Whether any initiator port can have this name: an iSCSI name is at most 223 bytes long (RFC 7143 4.2.7.1) and
        an ISID has 6 (RFC 7143 11.12.5)."""
        return 0 < len(self.initiator_name.encode()) <= MAX_NAME_BYTES and len(self.isid) == ISID_BYTES

    def same_ports(self, other: Nexus) -> bool:
        """Whether both are between the same initiator port and target port, whoever stands behind them."""
        return (self.initiator_port, self.target_port) == (other.initiator_port, other.target_port)

    def reaches_as(self, initiator_name: str, other: Nexus) -> bool:
        """Whether an initiator of that name reaches by this nexus the target port that the other one reaches."""
        return (self.initiator_name, self.target_port) == (initiator_name, other.target_port)

    @property
    def initiator_port(self) -> str:
        """The SCSI initiator port name of RFC 7143 4.4.1: `iqn...,i,0x<ISID>`."""
        return f"{self.initiator_name},i,0x{self.isid.hex()}"

    @property
    def target_port(self) -> str:
        """The SCSI target port name of RFC 7143 4.4.1: `iqn...,t,0x<tag>`."""
        return f"{self.target_name},t,0x{self.portal_group_tag:04x}"


class BufferSource(Protocol):
    """Where Data-In buffers come from: the engine's BufferPool."""

    def acquire(self, length: int, /) -> Buffer: ...


class HeapBuffers:
    """A BufferSource for tests and tools: plain bytearrays."""

    def acquire(self, length: int, /) -> Buffer:
        return bytearray(length)


@dataclass(slots=True)
class Response:
    """The end of a command. `data_length` is what SCSI wanted to move, in either direction, before the initiator's
    expected length clips it: iSCSI derives the residual from it."""

    status: int = GOOD
    sense: bytes = b""
    data_in: Buffer | None = None
    data_length: int = 0


class Deferred(Enum):
    """What a handler returns that has left the rest of its command to a thread: task.complete() ends the task."""

    DEFERRED = "deferred"


DEFERRED: Final = Deferred.DEFERRED

# What handlers return; None: GOOD, and all that the CDB announced was taken.
Outcome: TypeAlias = Response | Deferred | None


def _no_worker(response: Response) -> None:
    raise RuntimeError("a task that a worker completes needs its complete= callable")


class Sight(Protocol):
    """What a logical unit asks of the view (unit/view.py) of the session that sent a command."""

    @property
    def logical_units(self) -> Mapping[int, Any]: ...
    @property
    def portal_group_tags(self) -> tuple[int, ...]: ...
    @property
    def permissions(self) -> Mapping[int, Permission]: ...
    @property
    def remote_units(self) -> tuple[Any, ...]: ...
    @property
    def copy_bytes_per_second(self) -> int: ...
    def units(self) -> Iterable[Any]: ...
    def check(self, lun: int, use: Permission) -> None: ...
    def check_with(self, unit: Any, use: Permission) -> None: ...


@dataclass(slots=True, eq=False)
class Task:
    """One SCSI command in flight."""

    nexus: Nexus
    lun: int
    cdb: bytes
    tag: int = 0
    task_attribute: int = 0
    data_out: Buffer | None = None
    data_in_limit: int = 0  # expected data transfer length of a read: what the initiator can take
    pool: BufferSource = field(default_factory=HeapBuffers)
    complete: Callable[[Response], None] = _no_worker
    on_abort: Callable[[], None] | None = None  # iSCSI frees the command's place in the window
    aborted: bool = False
    view: Sight | None = None  # what the session that sent the command sees; None: nothing but this logical unit
    interrupted: SenseCode | None = None  # what it is answered with if it needs the medium: it does not begin, or go on

    def data(self) -> memoryview:
        """The gathered Data-Out as bytes; empty when there was none."""
        return memoryview(b"") if self.data_out is None else memoryview(self.data_out)

    def abort(self) -> None:
        """Marks the task: no response will be sent. A long-running handler looks at `aborted` and stops."""
        if not self.aborted:
            self.aborted = True
            if self.on_abort is not None:
                self.on_abort()

    def check(self) -> None:
        """For a handler that takes long. Raises CheckCondition: it is to go on no longer, and is answered so."""
        if self.interrupted is not None:
            raise CheckCondition(self.interrupted)

    def when_aborted(self, call: Callable[[], None]) -> None:
        """Has `call` called when the task is aborted, after what iSCSI does then."""
        before = self.on_abort

        def both() -> None:
            if before is not None:
                before()
            call()

        self.on_abort = both
