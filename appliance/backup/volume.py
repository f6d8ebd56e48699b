"""A drive that a backup has for itself, and the cartridges that go through it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

import structlog

from appliance.backup.archive import ONE_WRITE, TAPE_BLOCK, ArchiveWriter
from appliance.backup.faults import DriveUnfit, words_of
from appliance.backup.house import BackupLibrary
from appliance.failures import Failure, OperatorError
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.tape_stream import TapeStream
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.changer.robot import Manner, RobotError
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.local_session import Aborted, LocalSession
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import spc, ssc
from vlib_images.library.elements import InventoryError

log = structlog.get_logger(__name__)

DRIVE_LUN: Final = 0
LIST_IDENTIFIER: Final = 1
_END_OF_DATA: Final = 3  # SPACE


class MountedDrive:
    """A drive and its session; use it in a `with` block. units: what is copied from, in the order of their numbers.

    Raises DriveUnfit when the drive cannot be had."""

    def __init__(
        self, house: BackupLibrary, name: str, units: Sequence[BlockDevice], initiator: str, stopped: Callable[[], bool]
    ) -> None:
        self.name = name
        self._house = house
        self._drive = house.drives[name]
        nexus = Nexus(initiator, secrets.token_bytes(6), "iqn.2026-01.io.tapebay:within")
        view = View(
            nexus.principal, nexus.target_name, dict(enumerate([self._drive, *units])),
            copy_bytes_per_second=house.copy_rate,
        )  # fmt: skip
        self._nexus = nexus
        self._session = LocalSession(view, nexus, stopped=stopped)
        self._count = len(units)
        self.barcode: str | None = None  # what was brought here
        self.tape = Tape(self._session, DRIVE_LUN)

    def __enter__(self) -> Self:
        self._session.__enter__()
        try:
            self.tape.run(spc.Reserve6.encode())
        except CommandFailed as error:
            self._session.__exit__(None, None, None)
            raise DriveUnfit(f"drive {self.name} is reserved by an initiator: {words_of(error)}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._session.abort_submitted()
            self.dismount()
        finally:
            self._session.__exit__(kind, error, trace)  # and with it goes the reservation

    def writer(self) -> ArchiveWriter:
        """What an archive is written with."""
        manager = CopyingUnit(self._session, DRIVE_LUN)
        disks = [Disk(self._session, 1 + number) for number in range(self._count)]
        return ArchiveWriter(self.tape, manager, disks, self.checksums)

    def checksums(self) -> Sequence[tuple[int, int]]:
        """(bytes, CRC32C) of each segment of the last copy. Raises Aborted: a reset has taken its results away."""
        record = self._drive.copy_manager.record(self._nexus, LIST_IDENTIFIER)
        if record is None:
            raise Aborted("the results of the last copy are gone: another initiator has reset the unit")
        return list(record.checksums)

    # ---- cartridges ------------------------------------------------------------------------------------------------

    def mount(self, barcode: str) -> None:
        """Brings a cartridge, at the beginning of its tape; the one before goes home. Raises OperatorError,
        DriveUnfit."""
        if self.barcode == barcode:
            self.tape.rewind()
            return
        self.dismount()
        here = self._house.drive_addresses()[self.name]
        try:
            element = self._house.inventory.find(barcode)
            if element is None:
                raise OperatorError(Failure.REFUSED, f"cartridge {barcode} is on the shelf; put it into a slot")
            if element.address != here:
                self._house.robot.move(element.address, here, manner=Manner.OPERATOR)
        except (RobotError, InventoryError) as error:
            raise DriveUnfit(f"cartridge {barcode} cannot be loaded into {self.name}: {error}") from error
        self.barcode = barcode
        self.tape.load()
        self.tape.use_variable_blocks()

    def still_has(self, barcode: str) -> bool:
        """Whether a cartridge that was brought is here, and the drive this session's, after a time without commands."""
        element, here = self._house.inventory.find(barcode), self._house.drive_addresses().get(self.name)
        if self.barcode != barcode or element is None or element.address != here:
            return False
        try:
            self.tape.reserve()  # again: a reset ends it, and what was selected
            self.tape.use_variable_blocks()
        except CommandFailed:
            return False
        return True

    def dismount(self) -> None:
        """What was brought goes home. A drive that will not let go keeps it, and the log says so."""
        barcode, self.barcode = self.barcode, None
        if barcode is None:
            return
        for last in (False, True):  # what a drive could not make durable it tells once, and then lets go
            element = self._house.inventory.find(barcode)
            home = self._house.robot.home_of(element.address) if element is not None else None
            if element is None or home is None or element.address != self._house.drive_addresses().get(self.name):
                return
            try:
                self._house.robot.move(element.address, home, manner=Manner.HOST)
                return
            except (RobotError, InventoryError) as error:
                if last:
                    log.warning("a backup's cartridge stays in its drive", cartridge=barcode, reason=str(error))

    def is_blank(self) -> bool:
        """Whether nothing is on the tape, which is at its beginning again afterwards."""
        self.tape.run(ssc.Space6.encode(code=_END_OF_DATA))
        blank = self.tape.position().logical_object_number == 0
        self.tape.rewind()
        return blank

    def begins_with(self, words: bytes) -> bool:
        """Whether the first block of the tape holds these bytes; the tape is at its beginning again afterwards."""
        block = bytearray(TAPE_BLOCK)
        try:
            length = self.tape.read_block(block)
        except CommandFailed:
            length = 0
        self.tape.rewind()
        return words in block[: min(length, TAPE_BLOCK)]

    def write_file(self, pieces: Iterable[bytes]) -> None:
        """Bytes of this program's from here on, and a filemark; past early warning, too. Raises StreamFailed."""
        writer = self.writer()
        stream = TapeStream(
            writer.manager, writer.tape, [], block_length=TAPE_BLOCK, command_bytes=ONE_WRITE, past_warning=True
        )
        for piece in pieces:
            stream.add_data(piece)
        stream.end()
        stream.write_filemarks()
