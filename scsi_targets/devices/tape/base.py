"""The tape drive's state that all its commands share: the cartridge, what it is ready for, what is not yet durable."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from scsi_targets.devices.tape.events import MediumEvents
from scsi_targets.devices.tape.models import DriveModel
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import Row
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.prevention import RemovalPrevention
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.sense import CheckCondition, Sense, SenseCode
from vlib_images import errors
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import can_write

if TYPE_CHECKING:
    from scsi_targets.devices.unit.part import Part
    from scsi_targets.devices.unit.state_store import StateStore

log = structlog.get_logger(__name__)

# What the 24 bits of TRANSFER LENGTH and READ BLOCK LIMITS can say; LTO's own limit is half of it.
MAXIMUM_BLOCK_LENGTH = 0xFFFFFF
MINIMUM_BLOCK_LENGTH = 1

# Recommended to initiators (REPORT SUPPORTED OPERATION CODES) for commands that wait for the storage: what LTO drives
# ask for, since disks under a library can stall too.
MEDIUM_ACCESS_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class CleaningCartridge:
    """A cleaning cartridge: it holds no data and has no files, but the robot moves it like any other."""

    barcode: str

    def close(self) -> None:
        """Nothing to let go of."""


Loadable = Cartridge | CleaningCartridge


class LoadState(Enum):
    """Where the cartridge is (SSC-3 4.2.4 calls mounted what is LOADED here)."""

    EMPTY = "empty"
    LOADED = "loaded"  # ready
    HELD = "held"  # in the drive, not threaded: LOAD UNLOAD with HOLD
    EJECTED = "ejected"  # unloaded; the robot can take it


# TEST UNIT READY's answer in each state but LOADED.
NOT_READY: dict[LoadState, SenseCode] = {
    LoadState.EMPTY: sense.MEDIUM_NOT_PRESENT,
    LoadState.HELD: sense.INITIALIZING_COMMAND_REQUIRED,
    LoadState.EJECTED: sense.MEDIUM_NOT_PRESENT,
}


ENCRYPTION_PROBLEMS: dict[type[errors.EncryptionProblem], SenseCode] = {
    errors.KeyMissing: sense.UNABLE_TO_DECRYPT,
    errors.KeyWrong: sense.INCORRECT_DATA_ENCRYPTION_KEY,
    errors.NotEncrypted: sense.UNENCRYPTED_DATA_WHILE_DECRYPTING,
    errors.RawReadRefused: sense.NOT_RAW_READ_ENABLED,
    errors.OriginRefused: sense.ENCRYPTION_MODE_MISMATCH_ON_READ,
}

# What reading a block may raise.
READ_ERRORS = (errors.DamagedBlock, errors.EncryptionProblem, errors.StorageError)


class TapeBase(Device):
    """State and rules; the commands are in the classes that inherit it."""

    device_type = vpd.SEQUENTIAL_ACCESS
    removable = True
    version_descriptors = (vpd.SAM_5, vpd.SPC_4, vpd.ISCSI, vpd.SSC_4)

    def __init__(
        self, model: DriveModel, serial_number: str, *, store: StateStore | None = None, state_key: str = ""
    ) -> None:
        self.model = model
        self.cartridge: Loadable | None = None  # what is in the drive, in whatever state
        self.medium: Cartridge | None = None  # the same while it is loaded; commands use this one
        self.load_state = LoadState.EMPTY
        self.buffered_from: tuple[int, int] | None = None  # (partition, block): the first write that is not yet durable
        self.software_write_protected = False  # SWP of the Device Configuration mode page
        self.prevention = RemovalPrevention(self)
        self.tape_parts: list[MediumEvents] = []  # those of the parts that hear of the medium
        identity = Identity(model.vendor, model.product, model.revision, serial_number)
        super().__init__(identity, store=store, state_key=state_key)
        self.medium_usable = self.writable = False  # decide_legality() keeps them

    def attach(self, *parts: Part) -> None:
        super().attach(*parts)
        self.tape_parts = [part for part in parts if isinstance(part, MediumEvents)]

    # ---- legality ------------------------------------------------------------------------------------------------

    def decide_legality(self) -> None:
        """To be called when something changes that decides what may be done with the medium. While it may be written,
        WRITE does not ask again; an operator who protects it meanwhile is heard by the cartridge itself."""
        self.medium_usable = self.medium is not None
        self.writable = self.medium is not None and self.write_protection() is None

    def check_ready(self) -> None:
        """TEST UNIT READY."""
        if self.medium is None:
            raise CheckCondition(self.not_ready_code())

    def check_medium(self, row: Row) -> None:
        """The row's medium=REQUIRED."""
        if self.medium is None:
            raise CheckCondition(self.not_ready_code())

    def not_ready_code(self) -> SenseCode:
        """Why there is no medium to work with."""
        if isinstance(self.cartridge, CleaningCartridge):
            return sense.CLEANING_CARTRIDGE_INSTALLED
        return NOT_READY[self.load_state]

    def check_writable(self, row: Row) -> None:
        """The row's writes=True."""
        self.require_writable()

    def require_writable(self) -> None:
        """Raises CheckCondition: WRITE PROTECTED, or a medium that this generation only reads (SSC-3 4.2.13)."""
        if (code := self.write_protection()) is not None:
            self._write_refused(code)
            raise CheckCondition(code)

    def write_protection(self) -> SenseCode | None:
        """Why the loaded medium cannot be written, None when it can."""
        if self.medium is None:
            return None
        if self.medium.write_protected or self.medium.storage.read_only:
            return sense.WRITE_PROTECTED
        if self.software_write_protected:
            return sense.SOFTWARE_WRITE_PROTECTED
        if not can_write(self.model.generation, self.medium.medium):
            return sense.CANNOT_WRITE_MEDIUM_INCOMPATIBLE_FORMAT
        return None

    @property
    def loaded(self) -> Cartridge:
        """The medium, for handlers whose row says medium=REQUIRED."""
        if self.medium is None:
            raise CheckCondition(self.not_ready_code())
        return self.medium

    def current_sense(self) -> Sense:
        """REQUEST SENSE while a slow command runs says so; LTFS asks that way after a long erase."""
        return Sense(sense.OPERATION_IN_PROGRESS) if isinstance(self.tasks.running, Task) else super().current_sense()

    # ---- durability ----------------------------------------------------------------------------------------------

    def synchronize(self, *, deferred: bool) -> None:
        """Makes everything written durable. Raises CheckCondition: WRITE ERROR, `deferred` when commands answered GOOD
        before are what failed (SPC-5 4.4.5); such a failure is reported once. A command that asks for it is never
        answered GOOD before it is true, however often it failed before."""
        if self.medium is None or (deferred and self.buffered_from is None):
            return
        self.buffered_from = None
        try:
            self.medium.synchronize()
        except errors.CartridgeError as error:
            raise self.write_failure(error, deferred=deferred) from error

    # ---- storage errors as sense data ----------------------------------------------------------------------------

    def storage_failure(self, row: Row, error: Exception) -> CheckCondition | None:
        """The sense data for an error of the cartridge that a handler let through."""
        if isinstance(error, errors.DamagedBlock | errors.EncryptionProblem):
            return self.read_failure(error)
        if isinstance(error, errors.StorageError) and not row.writes:
            log.error("moving failed", drive=self.identity.serial_number, reason=str(error))
            return CheckCondition(sense.SEQUENTIAL_POSITIONING_ERROR)
        if isinstance(error, errors.CartridgeError):
            return self.write_failure(error)
        return super().storage_failure(row, error)

    def read_failure(self, error: errors.CartridgeError, information: int | None = None) -> CheckCondition:
        """UNRECOVERED READ ERROR, the position behind the block that could not be read; or why a block must not be
        given out (SSC-4 4.2.23), the position before it."""
        if isinstance(error, errors.EncryptionProblem):
            return CheckCondition(ENCRYPTION_PROBLEMS[type(error)], information=information)
        log.warning("a block cannot be read", drive=self.identity.serial_number, reason=str(error))
        for part in self.tape_parts:
            part.on_read_error()
        return CheckCondition(sense.UNRECOVERED_READ_ERROR, information=information)

    def write_failure(
        self, error: errors.CartridgeError, information: int | None = None, *, deferred: bool = False
    ) -> CheckCondition:
        """The sense data for a write that failed; `information` is what was not written, in the command's unit."""
        code, end_of_medium = self._write_code(error)
        if isinstance(error, errors.NotRawBlock):
            return CheckCondition(sense.INCORRECT_ENCRYPTION_PARAMETERS, information=information)
        if isinstance(
            error, errors.ProtectionFailed
        ):  # nothing is wrong with drive or medium: no alert, no error count
            log.warning("a block came damaged", drive=self.identity.serial_number, reason=str(error))
            return CheckCondition(sense.LOGICAL_BLOCK_GUARD_CHECK_FAILED, information=information)
        if code.key == sense.DATA_PROTECT:
            self._write_refused(code)
        elif code.key != sense.VOLUME_OVERFLOW:
            log.error("writing failed", drive=self.identity.serial_number, reason=str(error))
            for part in self.tape_parts:
                part.on_write_error()
        return CheckCondition(code, information=information, end_of_medium=end_of_medium, deferred=deferred)

    @staticmethod
    def _write_code(error: errors.CartridgeError) -> tuple[SenseCode, bool]:
        if isinstance(error, errors.EndOfPartition):
            return sense.WRITE_PAST_END_OF_PARTITION, True
        if isinstance(error, errors.WormViolation):
            return sense.WORM_MEDIUM_OVERWRITE_ATTEMPTED, False
        if isinstance(error, errors.WriteProtected):
            return sense.WRITE_PROTECTED, False
        if isinstance(error, errors.NoSpace):
            # The disk under the library is full: to the initiator the medium has ended, nothing is torn.
            return sense.WRITE_ERROR, True
        if isinstance(error, errors.CartridgeDamaged):
            return sense.MEDIUM_FORMAT_CORRUPTED, False
        return sense.WRITE_ERROR, False

    def _write_refused(self, code: SenseCode) -> None:
        for part in self.tape_parts:
            part.on_write_refused(code)

    @property
    def removal_prevented(self) -> bool:
        """Whether an initiator prevents removal: the robot must refuse to take the cartridge (53/02)."""
        return self.prevention.prevents

    def on_moved(self) -> None:
        """The position changed by something else than reading or writing on."""
