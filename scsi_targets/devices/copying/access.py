"""What a copy asks of a logical unit, wherever that is: the only seam between the two.

A device implements Copyable, and its kind of Access lies beside it. What a method raises is what the logical unit would
have answered a command: CheckCondition, Conflict, or an error of the storage below it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.sense import SenseCode

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from datamover.file_run import FileRun, FileSpan
    from scsi_targets.devices.unit.task import Task


class Unreachable(Exception):
    """A logical unit could not be reached, or did not answer: COPY TARGET DEVICE NOT REACHABLE, not what it said."""


class WrongLength(Exception):
    """A logical unit elsewhere said that all was well, and did not move as many bytes as it was asked to.

    code: COPY TARGET DEVICE DATA UNDERRUN or OVERRUN. transferred: bytes that commands before it have moved."""

    def __init__(self, residual: int, transferred: int = 0) -> None:
        """residual: as a session's; positive where bytes are missing."""
        count = f"{abs(residual)} bytes {'fewer' if residual > 0 else 'more'}"
        super().__init__(f"{count} than it was asked to move, and no word of it")
        self.code = sense.COPY_TARGET_DATA_UNDERRUN if residual > 0 else sense.COPY_TARGET_DATA_OVERRUN
        self.transferred = transferred


class Designator(NamedTuple):
    """A name of a logical unit, as its Device Identification VPD page has it (SPC-5 7.8.6)."""

    code_set: int
    designator_type: int
    name: bytes


@runtime_checkable
class Copyable(Protocol):
    """A logical unit that can be a copy source or destination."""

    def designators(self, task: Task) -> Iterable[Designator]:
        """The names of the logical unit itself, as that command's nexus sees them."""

    def copy_access(self, task: Task) -> Access:
        """The logical unit on behalf of whoever sent that command."""


class Access(ABC):
    """One logical unit, on behalf of the nexus that asked for a copy."""

    device_type: ClassVar[int]

    # ---- taking part -----------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, changed: Callable[[], None]) -> None:
        """The copy takes part in the unit's life from now on; `changed` is called when `granted` or `cleared` change,
        and must not call back."""

    @abstractmethod
    def end(self) -> None:
        """The opposite; without effect when begin() was not called."""

    @abstractmethod
    def give_up(self) -> None:
        """The copy was told to stop: what the unit does not answer soon is not waited for. Only passes the word on."""

    @property
    @abstractmethod
    def granted(self) -> bool:
        """Whether the copy may use the unit: a tape drive serves one after another."""

    @property
    @abstractmethod
    def cleared(self) -> SenseCode | None:
        """What the unit says when a task management function has aborted the copy's commands."""

    # ---- checks ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, *, writes: bool) -> None:
        """Raises what a read or a write would be refused with now."""

    @abstractmethod
    def test_unit_ready(self) -> None:
        """TEST UNIT READY."""

    @abstractmethod
    def answer_to(self, error: BaseException, *, writes: bool) -> tuple[int, bytes]:
        """Status and sense data of the command that ended with `error`."""


class DiskAccess(Access):
    """A direct access block device, as datamover.endpoints.DiskEndpoint."""

    device_type = vpd.DIRECT_ACCESS
    block_length: int

    @property
    def measured(self) -> bool:
        """Whether it is known how many blocks there are; False: not before something else was asked of the disk."""
        return True

    @abstractmethod
    def holds(self, address: int) -> bool:
        """Whether there is such a logical block, as far as that is known now."""

    @abstractmethod
    def check_range(self, address: int, count: int, *, writes: bool) -> None:
        """Raises what a read or a write of so many logical blocks would be refused with because of where they are. Says
        nothing while the medium cannot be accessed: check() does."""

    @abstractmethod
    def read_into(self, buffer: Buffer, offset: int, /) -> None:
        """Reads from a byte offset on, which may be within a logical block."""

    @abstractmethod
    def write(self, buffer: Buffer, offset: int, /) -> None:
        """Writes from a byte offset on; the rest of a logical block stays as it is."""

    def file_span(self, offset: int, length: int, /) -> AbstractContextManager[FileSpan | None]:
        return nullcontext()


class TapeAccess(Access):
    """A sequential access device, as datamover.endpoints.TapeEndpoint, in the partition that it was put to last."""

    device_type = vpd.SEQUENTIAL_ACCESS

    @abstractmethod
    def read_blocks(self, into: Buffer, block_length: int, fixed: bool, /) -> Buffer | None: ...

    @abstractmethod
    def write_blocks(self, data: Buffer, block_length: int, fixed: bool, checksums: Buffer, /) -> None: ...

    def writes_files(self) -> bool:
        return False

    def write_file(self, run: FileRun, /) -> int:
        return 0

    @abstractmethod
    def write_filemarks(self, count: int, *, immediate: bool) -> None:
        """WRITE FILEMARKS. Without `immediate` all that was written is durable afterwards, count 0 included."""

    @abstractmethod
    def space(self, code: int, count: int) -> None:
        """SPACE; `count` may be negative."""

    @abstractmethod
    def locate(self, logical_object_identifier: int) -> None:
        """LOCATE in the current partition."""
