"""What disks and tape drives of other iSCSI targets have in common as copy sources and destinations.

A copy logs in when its turn has come and out when it ends; what stands at the address must still be what was added.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import structlog

from datamover.initiator import Credentials, InitiatorError, InitiatorSession
from datamover.libiscsi import LibraryUnavailable
from scsi_targets.client.disk import Disk
from scsi_targets.client.unit import CHECK_CONDITION, AnySession, CommandFailed, NoSuchAnswer, Unit
from scsi_targets.devices.copying.access import Access, Designator, Unreachable
from scsi_targets.devices.copying.remote_session import RemoteSession
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.sense import CheckCondition, SenseCode

log = structlog.get_logger(__name__)

LOGIN_SECONDS = 10.0
COMMAND_SECONDS = 60.0
LIMIT_BLOCK_BYTES = 64 << 10  # of a disk; part of one goes through a block of our own


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """Where a logical unit is. portal: HOST:PORT. initiator_name: who we are there."""

    portal: str
    target_name: str
    lun: int
    initiator_name: str
    credentials: Credentials | None = None

    def log_in(self) -> InitiatorSession:
        """There and nowhere else: where it would send us on to no operator has added. Raises InitiatorError."""
        return InitiatorSession(
            self.portal, self.target_name, initiator_name=self.initiator_name, credentials=self.credentials,
            timeout_seconds=LOGIN_SECONDS, redirections=0,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"iscsi://{self.portal}/{self.target_name}/{self.lun}"


@dataclass(frozen=True, slots=True)
class Description:
    """What stood at an address when it was added. block_length: a disk's, in bytes; 0 for a tape drive."""

    device_type: int
    designators: frozenset[Designator]
    block_length: int

    @classmethod
    def of(cls, session: AnySession, lun: int) -> Description:
        """Raises InitiatorError, CommandFailed, NoSuchAnswer; ValueError for what is neither a disk nor a tape drive,
        or has no name."""
        unit = Unit(session, lun)
        device_type = unit.device_type()
        if device_type == vpd.NO_DEVICE:
            raise ValueError(f"there is no LUN {lun}")
        if device_type not in (vpd.DIRECT_ACCESS, vpd.SEQUENTIAL_ACCESS):
            raise ValueError(f"LUN {lun} is neither a disk nor a tape drive (device type {device_type:02X}h)")
        names = frozenset(Designator(*found) for found in unit.designations())
        if not names:
            raise ValueError(f"LUN {lun} has no designator in VPD page 83h, by which a copy could name it")
        block_length = Disk(session, lun).capacity.block_length if device_type == vpd.DIRECT_ACCESS else 0
        if block_length > LIMIT_BLOCK_BYTES:
            raise ValueError(f"LUN {lun} has blocks of {block_length} bytes, more than {LIMIT_BLOCK_BYTES}")
        return cls(device_type, names, block_length)

    def is_again(self, other: Description) -> bool:
        """Whether the other one is the same logical unit, still good for the same copies."""
        kind = self.device_type, self.block_length
        return kind == (other.device_type, other.block_length) and bool(self.designators & other.designators)


class Line:
    """Copies that want a tape drive for themselves, in the order of their arrival."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[RemoteAccess] = deque()

    def enter(self, access: RemoteAccess) -> None:
        """At its end."""
        with self._lock:
            self._waiting.append(access)

    def first(self) -> RemoteAccess | None:
        """Whose turn it is."""
        with self._lock:
            return self._waiting[0] if self._waiting else None

    def leave(self, access: RemoteAccess) -> None:
        """From wherever it stands; who is first then is told."""
        with self._lock:
            if access in self._waiting:
                self._waiting.remove(access)
        if (first := self.first()) is not None:
            first.changed()


class RemoteAccess(Access):
    """alone: one copy at a time."""

    alone: ClassVar[bool]

    def __init__(self, address: RemoteAddress, description: Description, line: Line) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._address = address
        self._description = description
        self._line = line
        self._lock = threading.Lock()  # the reader and the writer of a copy may come at once
        self._session: RemoteSession | None = None
        self._given_up = threading.Event()

    # ---- taking part -----------------------------------------------------------------------------------------------

    def begin(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        if self.alone:
            self._line.enter(self)

    def end(self) -> None:
        self._line.leave(self)
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def give_up(self) -> None:
        self._given_up.set()

    @property
    def granted(self) -> bool:
        return not self.alone or self._line.first() is self

    @property
    def cleared(self) -> SenseCode | None:
        return None  # what aborts our commands there is a unit attention of the next one

    # ---- the session -----------------------------------------------------------------------------------------------

    def session(self) -> RemoteSession:
        """Logged in, to the logical unit that was added. Raises Unreachable."""
        with self._lock:
            try:
                if self._session is None:
                    self._session = self._log_in()
            except (InitiatorError, LibraryUnavailable, CommandFailed, NoSuchAnswer, ValueError) as error:
                raise Unreachable(f"{self._address}: {error}") from error
            return self._session

    def _log_in(self) -> RemoteSession:
        session = RemoteSession(self._address.log_in(), self._given_up.is_set)
        try:
            found = Description.of(session, self._address.lun)  # which takes the unit attentions of the login
            if not self._description.is_again(found):
                raise ValueError("this is not the logical unit that was added")
        except BaseException:
            session.close()
            raise
        return session

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """A session that is lost is a logical unit that cannot be reached, and so is one whose answers are none."""
        try:
            yield
        except (InitiatorError, NoSuchAnswer) as error:
            raise Unreachable(f"{self._address}: {error}") from error

    # ---- checks ----------------------------------------------------------------------------------------------------

    def check(self, *, writes: bool) -> None:
        self.test_unit_ready()
        if writes:
            with self.reaching():
                protected = self._unit().write_protected()
            if protected:
                raise CheckCondition(sense.WRITE_PROTECTED)

    def test_unit_ready(self) -> None:
        with self.reaching():
            self._unit().test_unit_ready()

    def _unit(self) -> Unit:
        return Unit(self.session(), self._address.lun, timeout_seconds=COMMAND_SECONDS)

    def answer_to(self, error: BaseException, *, writes: bool) -> tuple[int, bytes]:
        if isinstance(error, CommandFailed):
            return error.status, error.raw_sense
        if not isinstance(error, CheckCondition):
            log.error("a copy with a remote unit failed inside", unit=str(self._address), exc_info=error)
            error = CheckCondition(sense.INTERNAL_TARGET_FAILURE)
        return CHECK_CONDITION, error.sense.encode()
