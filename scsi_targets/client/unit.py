"""One logical unit of an iSCSI session, and what all of them answer.

with AnySession("127.0.0.1:3260", "iqn.2026-01.org.example:library") as session:
    print(Disk(session, 3).capacity)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from datamover.initiator import CommandResult
from scsi_targets.t10 import sense, sense_data, spc
from scsi_targets.t10.sense import Sense

if TYPE_CHECKING:
    from typing_extensions import Buffer

GOOD, CHECK_CONDITION = 0x00, 0x02
NAA = 3
ALL_PAGES, MODE_HEADER_BYTES, WP_BIT = 0x3F, 4, 0x80
PAGE_BYTES = 0x3FC  # what looks at the low byte only (SPC-2) sees FCh
# A unit that has more to say than this keeps saying the same.
LIMIT_UNIT_ATTENTIONS = 32
QUEUE_DEPTH = 8


class AnySession(Protocol):
    """What commands are sent through: an InitiatorSession, or a session within the process of the units."""

    def command(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None,
        timeout_seconds: float | None = None,
    ) -> CommandResult: ...  # fmt: skip

    def submit(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None
    ) -> Any: ...
    def wait(self, command: Any, timeout_seconds: float | None = None) -> CommandResult: ...
    def ended(self, command: Any, seconds: float) -> bool: ...


class CommandFailed(Exception):
    """A command did not end GOOD; str() names it and what it answered. `sense`: decoded, None when there was none."""

    def __init__(self, lun: int, cdb: bytes, result: CommandResult) -> None:
        self.status = result.status
        self.raw_sense = result.sense
        self.sense: Sense | None = sense_data.decode(result.sense)
        self.residual = result.residual
        self.transferred = 0  # bytes that commands before it have moved, where it was one of several
        self.data = result.data
        super().__init__(
            f"LUN {lun}: CDB {cdb.hex()} ended with status {result.status:02X}h, sense {result.sense.hex() or 'none'}"
        )


def is_unit_attention(failed: CommandFailed) -> bool:
    """Whether the command was not done, since the unit had to tell of something that happened before."""
    found = failed.sense
    return found is not None and found.code.key == sense.UNIT_ATTENTION and not found.deferred


class NoSuchAnswer(Exception):
    """A logical unit answered, but not what was needed of it: `answer` says what; str() names the unit, too."""

    def __init__(self, lun: int, answer: str) -> None:
        super().__init__(f"LUN {lun}: {answer}")
        self.answer = answer


class Designation(NamedTuple):
    """A designator of the logical unit, from its Device Identification VPD page (SPC-5 7.8.6)."""

    code_set: int
    designator_type: int
    name: bytes


class Unit:
    """A logical unit. Every method raises CommandFailed and datamover.initiator.InitiatorError.

    timeout_seconds: for each command that gives none of its own."""

    def __init__(self, session: AnySession, lun: int, *, timeout_seconds: float = 60.0) -> None:
        self.session = session
        self.lun = lun
        self.timeout_seconds = timeout_seconds

    # ---- commands --------------------------------------------------------------------------------------------------

    def run(
        self, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None, least: int = 0,
        timeout_seconds: float | None = None,
    ) -> memoryview:  # fmt: skip
        """A command that must end GOOD; its Data-In, of `least` bytes or more. Unit attentions tell of what happened
        before: they are passed over, and the command is sent again. Raises NoSuchAnswer, too, for fewer bytes."""
        for _ in range(LIMIT_UNIT_ATTENTIONS):
            result = self.session.command(
                self.lun, cdb, data_out, data_in_length, data_in=data_in,
                timeout_seconds=timeout_seconds or self.timeout_seconds,
            )  # fmt: skip
            if result.status == GOOD and len(result.data) < least:
                message = f"CDB {cdb.hex()} was answered with {len(result.data)} bytes, of at least {least}"
                raise NoSuchAnswer(self.lun, message)
            if result.status == GOOD:
                return result.data
            if not is_unit_attention(failed := CommandFailed(self.lun, cdb, result)):
                break
        raise failed

    def once(self, cdb: bytes, data_out: Any = None, *, data_in: Any = None) -> CommandResult:
        """As run(), for whom a unit attention is a failure like any other, and how much was moved matters."""
        result = self.session.command(self.lun, cdb, data_out, data_in=data_in, timeout_seconds=self.timeout_seconds)
        if result.status != GOOD:
            raise CommandFailed(self.lun, cdb, result)
        return result

    def stream(self, cdbs: Iterator[bytes], length: int) -> Iterator[Buffer]:
        """The Data-In of many commands that read `length` bytes each, in order, several of them under way at once."""
        waiting: deque[tuple[bytes, Any]] = deque()
        while True:
            while len(waiting) < QUEUE_DEPTH and (cdb := next(cdbs, None)) is not None:
                waiting.append((cdb, self.session.submit(self.lun, cdb, data_in_length=length)))
            if not waiting:
                return
            cdb, command = waiting.popleft()
            result = self.session.wait(command, self.timeout_seconds)
            if result.status != GOOD or result.residual:
                raise CommandFailed(self.lun, cdb, result)
            yield result.data

    # ---- what every unit answers -----------------------------------------------------------------------------------

    def device_type(self) -> int:
        """PERIPHERAL DEVICE TYPE of standard INQUIRY data."""
        return self.run(spc.Inquiry.encode(allocation_length=36), data_in_length=36, least=1)[0] & 0x1F

    def test_unit_ready(self) -> None:
        """TEST UNIT READY."""
        self.run(spc.TestUnitReady.encode())

    def take_unit_attentions(self) -> None:
        """TEST UNIT READY until no unit attention is left, whether it is ready or not."""
        with suppress(CommandFailed):
            self.test_unit_ready()

    def write_protected(self) -> bool:
        """WP in the header of MODE SENSE(6); False for a unit that does not know the command."""
        cdb = spc.ModeSense6.encode(page_code=ALL_PAGES, allocation_length=MODE_HEADER_BYTES)
        try:
            return bool(self.run(cdb, data_in_length=MODE_HEADER_BYTES, least=3)[2] & WP_BIT)
        except CommandFailed as failed:
            if failed.sense is None or failed.sense.code.key != sense.ILLEGAL_REQUEST:
                raise
            return False

    def vpd_page(self, page_code: int) -> bytes:
        """The body of a VPD page."""
        cdb = spc.Inquiry.encode(enable_vital_product_data=1, page_code=page_code, allocation_length=PAGE_BYTES)
        page = bytes(self.run(cdb, data_in_length=PAGE_BYTES, least=4))
        if page[1] != page_code:
            raise NoSuchAnswer(self.lun, f"VPD page {page_code:02X}h was asked for, and {page[1]:02X}h came")
        return page[4 : 4 + int.from_bytes(page[2:4], "big")]

    def designations(self) -> list[Designation]:
        """The names of the logical unit itself, not those of its ports and target."""
        page, at, found = self.vpd_page(0x83), 0, []
        while at + 4 <= len(page):
            end = at + 4 + page[at + 3]
            if not page[at + 1] >> 4 & 3:
                found.append(Designation(page[at] & 0x0F, page[at + 1] & 0x0F, page[at + 4 : end]))
            at = end
        return found

    def naa(self) -> bytes:
        """The NAA designator. Raises NoSuchAnswer."""
        for found in self.designations():
            if found.designator_type == NAA:
                return found.name
        raise NoSuchAnswer(self.lun, "there is no NAA designator in VPD page 83h")
