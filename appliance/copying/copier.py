"""Carries out `tapebay copy`: finds both ends, sends EXTENDED COPY commands until all is copied, watches them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from appliance.copying.ends import End, EndKind, TapePosition, Where
from appliance.copying.lists import (
    BlockSide,
    ByteRun,
    CommandList,
    StreamSide,
    after,
    beginning,
    command_lists,
    overlap,
)
from appliance.copying.sides import CopySide, put, runs_of, taking_part, talking_to
from appliance.copying.words import at_end_of_medium, naming, told
from appliance.failures import Failure, OperatorError
from appliance.progress import Progress
from datamover.engine import crc32c_combine
from datamover.initiator import InitiatorError
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.tape import Tape
from scsi_targets.client.unit import CommandFailed, NoSuchAnswer
from scsi_targets.devices.copying.manager import COPY_TIMEOUT_SECONDS
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.local_session import LocalSession
from scsi_targets.devices.unit.task import ISID_BYTES, Nexus
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import copy_descriptors as copy

if TYPE_CHECKING:
    from appliance.library.library import Library
    from scsi_targets.devices.copying.records import CopyRecord

COMMAND_BYTES = 64 << 30
SEGMENTS = 1024  # of one command, or what the copy manager takes
MOST_EXTENTS_TOLD = 8
LISTS = 255  # list identifiers, from 1 on
INITIATOR_NAME = "iqn.2026-11.io.tapebay:operator"
TARGET_NAME = "iqn.2026-11.io.tapebay:library"

Answered = TypeVar("Answered")


class Copied(NamedTuple):
    """What was copied. crc32c: of all of it, in order."""

    bytes_copied: int
    commands: int
    segments: int
    crc32c: int


def copy_ends(
    library: Library,
    source: End,
    destination: End,
    *,
    block_length: int,
    filemarks: int,
    bytes_per_second: int,
    progress: Progress,
) -> Copied:
    """block_length: of a tape that is written from a disk or file, in bytes. filemarks: written after the data.
    bytes_per_second: how fast it may go; 0: as fast as can be. Raises OperatorError for what cannot be
    done or has failed, and what `progress` raises."""
    with ExitStack() as stack:
        sides = [
            stack.enter_context(taking_part(library, end, writes=writes))
            for end, writes in ((source, False), (destination, True))
        ]
        manager = _manager_unit(library, sides)
        units = list(dict.fromkeys([manager, *(side.unit for side in sides if side.unit is not None)]))
        elsewhere = [side.elsewhere for side in sides if side.elsewhere is not None]
        session = stack.enter_context(_session(units, elsewhere, bytes_per_second))
        luns = [units.index(side.unit) if side.unit is not None else -1 for side in sides]
        work = _Copy(sides, luns, session, manager, progress)
        try:
            return work.run(block_length, filemarks)
        except (CommandFailed, NoSuchAnswer, InitiatorError, ValueError) as error:
            raise OperatorError(Failure.REFUSED, told(error)) from error


def _session(
    units: Iterable[BlockDevice | TapeDrive], elsewhere: Iterable[object], bytes_per_second: int
) -> LocalSession:
    """With what takes part and nothing else: others do not find themselves in use. Reservations of initiators hold for
    it as for any host."""
    nexus = Nexus(INITIATOR_NAME, secrets.token_bytes(ISID_BYTES), TARGET_NAME)
    view = View(
        nexus.principal, TARGET_NAME, dict(enumerate(units)), remote_units=tuple(elsewhere),
        copy_bytes_per_second=bytes_per_second,
    )  # fmt: skip
    return LocalSession(view, nexus)


def _manager_unit(library: Library, sides: list[CopySide]) -> BlockDevice | TapeDrive:
    """Any device of this library will do; one that takes part shows the copy where it is looked for."""
    for unit in (*(side.unit for side in sides), *library.units.values()):
        if isinstance(unit, BlockDevice | TapeDrive):
            return unit
    raise OperatorError(Failure.REFUSED, "the library has neither a disk nor a drive, so nothing that could copy")


class _Copy:
    """One copy, between two sides. luns: theirs in the session, -1 for what is elsewhere."""

    def __init__(
        self, sides: list[CopySide], luns: list[int], session: LocalSession, unit: BlockDevice | TapeDrive,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._source, self._destination = sides
        self._luns = luns
        self._session = session
        self._unit = unit
        self._progress = progress
        self._manager = CopyingUnit(session, 0, timeout_seconds=COPY_TIMEOUT_SECONDS)
        self._from: BlockSide | StreamSide | None = None
        self._done = 0
        self._crc32c = 0

    def run(self, block_length: int, filemarks: int) -> Copied:
        self._refuse_itself()
        with naming(self._source.end):
            source, total, length = self._source_side()
        self._from = source
        with naming(self._destination.end):
            destination = self._destination_side(length or block_length, total)
        self._refuse_overlap(source, destination, total)
        limits = self._manager.operating_parameters()
        most = min(SEGMENTS, limits.maximum_segment_descriptor_count // 2)
        lists = command_lists(source, destination, total, most_segments=most, most_bytes=COMMAND_BYTES)
        commands = segments = 0
        for commands, made in enumerate(lists, 1):
            self._send(made, total, commands)
            segments += len(made.pieces)
        if self._destination.is_tape:
            self._mark(filemarks)
        return Copied(self._done, commands, segments, self._crc32c)

    def _refuse_itself(self) -> None:
        """A tape has one position, and a file that is emptied holds nothing to copy."""
        source, destination = self._source, self._destination
        same_tape = source.is_tape and bool(source.names & destination.names)
        files = [os.fstat(side.file.descriptor) for side in (source, destination) if side.file is not None]
        if same_tape or (len(files) > 1 and os.path.samestat(*files)):
            raise OperatorError(Failure.REFUSED, f"{source.end} cannot be copied to itself")

    def _refuse_overlap(self, source: BlockSide | StreamSide, destination: BlockSide | StreamSide, total: int) -> None:
        """What is written first is what would be read afterwards."""
        if not isinstance(source, BlockSide) or not isinstance(destination, BlockSide):
            return
        same_disk = self._source.names & self._destination.names
        if same_disk and overlap(source.runs, beginning(destination.runs, total)):
            ends = f"{self._source.end} and {self._destination.end}"
            message = f"{ends} overlap: blocks may be written over before they are read; copy them elsewhere first"
            raise OperatorError(Failure.REFUSED, message)

    # ---- the ends --------------------------------------------------------------------------------------------------

    def _source_side(self) -> tuple[BlockSide | StreamSide, int, int]:
        """With how many bytes it has, and a tape's block length."""
        if self._source.is_tape:
            found = self._at(self._source, self._luns[0], Where.START, Tape.file_ahead)
            return StreamSide(found.block_length or 1), found.size_bytes, found.block_length
        runs, sector = runs_of(self._source, self._session, self._luns[0])
        return BlockSide(_not_empty(runs), sector), sum(run.length for run in runs), 0

    def _destination_side(self, block_length: int, total: int) -> BlockSide | StreamSide:
        side, lun = self._destination, self._luns[1]
        if side.is_tape:
            self._at(side, lun, Where.END, lambda tape: None)
            return StreamSide(block_length)
        if side.file is not None:
            os.ftruncate(side.file.descriptor, 0)
        runs, sector = runs_of(side, self._session, lun)
        room = sum(run.length for run in runs)
        if side.file is not None:
            runs = (ByteRun(0, total),)
        elif total > room:
            message = f"{side.end} has room for {room} bytes, and {self._source.end} has {total}"
            raise OperatorError(Failure.REFUSED, message)
        return BlockSide(_not_empty(runs), sector)

    def _at(self, side: CopySide, lun: int, cartridge_at: Where, look: Callable[[Tape], Answered]) -> Answered:
        """Puts a tape to its position, and looks at it. A drive of this library is reserved until the copy ends."""
        position = side.end.position()
        if position.where is Where.HERE and side.end.kind is EndKind.CARTRIDGE:
            position = TapePosition(cartridge_at)
        with talking_to(side, self._session, lun) as (session, number):
            tape = Tape(session, number, timeout_seconds=COPY_TIMEOUT_SECONDS)
            if side.unit is not None:
                tape.reserve()
            tape.test_unit_ready()
            put(tape, position)
            return look(tape)

    def _mark(self, filemarks: int) -> None:
        """Everything is durable then, without a filemark, too."""
        mark = copy.WriteFilemarks.encode(destination=1, filemark_count=filemarks)
        self._manager.extended_copy([self._source.cscd, self._destination.cscd], [mark], list_identifier=1)

    # ---- commands --------------------------------------------------------------------------------------------------

    def _send(self, made: CommandList, total: int, number: int) -> None:
        identifier = 1 + number % LISTS
        before = made.pieces[0].start
        self._progress(before, total)

        def watch(status: copy.CopyStatus) -> None:
            self._progress(before + (status.transfer_count << 10 * status.transfer_count_units), total)

        try:
            cscds = [self._source.cscd, self._destination.cscd]
            self._manager.extended_copy(cscds, made.segments, list_identifier=identifier, watch=watch)
        except CommandFailed as failed:
            done = before + self._record().progress.bytes_written
            raise OperatorError(Failure.REFUSED, self._report(made, number, failed, done)) from failed
        self._done = made.end
        self._progress(self._done, total)
        self._crc32c = crc32c_combine(self._crc32c, self._record().progress.crc32c, made.end - before)

    def _record(self) -> CopyRecord:
        """Of the last command."""
        records = self._unit.copy_manager.recent()
        return next(record for record in reversed(records) if record.nexus is self._session.nexus)

    def _report(self, made: CommandList, number: int, failed: CommandFailed, done: int) -> str:
        where = ""
        segment = (failed.sense.command_specific or 0) & 0xFFFF if failed.sense is not None else len(made.pieces)
        if segment < len(made.pieces):
            piece = made.pieces[segment]
            where = f", in segment {segment} of command {number} (bytes {piece.start} to {piece.start + piece.length})"
        ends = f"{self._source.end} to {self._destination.end}"
        why = f"{told(failed)}{self._why()}{self._left(failed, done)}"
        return f"the copy of {ends} failed after {done} bytes{where}: {why}"

    def _why(self) -> str:
        """What a file or a unit elsewhere gave for a reason, which sense data does not hold."""
        which, _, reason = self._record().reason.partition(": ")
        side = {"source": self._source, "destination": self._destination}.get(which)
        return f": {reason}" if side is not None and side.unit is None else ""

    def _left(self, failed: CommandFailed, done: int) -> str:
        """How to write what of a disk is not on the tape yet, where the tape is full."""
        side = self._from
        if not self._destination.is_tape or self._source.file is not None or not isinstance(side, BlockSide):
            return ""
        if not at_end_of_medium(failed):
            return ""
        runs = list(after(side.runs, done))
        if done % side.sector or len(runs) > MOST_EXTENTS_TOLD:
            return ""
        extents = ",".join(f"{run.offset // side.sector}+{run.length // side.sector}" for run in runs)
        return f"; what is left is {self._source.end._replace(within=extents)}"


def _not_empty(runs: tuple[ByteRun, ...]) -> tuple[ByteRun, ...]:
    return tuple(run for run in runs if run.length)
