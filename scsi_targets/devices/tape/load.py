"""The cartridge comes and goes: LOAD UNLOAD, and the robot's hand (SSC-3 7.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from scsi_targets.devices.tape.base import MEDIUM_ACCESS_SECONDS, LoadState, TapeBase
from scsi_targets.devices.unit.dispatch import handles
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sense, ssc
from scsi_targets.t10.sense import CheckCondition
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import can_read
from vlib_images.errors import CartridgeError

if TYPE_CHECKING:
    from scsi_targets.devices.tape.base import Loadable
    from scsi_targets.devices.unit.task import Nexus, Task

log = structlog.get_logger(__name__)

# A drive that is busy is refused to the robot at once: the others wait for it meanwhile. This is for a command that has
# been answered and not yet quite ended.
ROBOT_PATIENCE_SECONDS = 0.5
# How long what an operator ends by force may take to end.
FORCE_PATIENCE_SECONDS = 30.0


class TapeLoader(TapeBase):
    """For the robot: load(), removing(), in_use(), `accessible`, `removal_prevented`, `load_state`."""

    # ---- the robot's side ----------------------------------------------------------------------------------------

    @property
    def accessible(self) -> bool:
        """ACCESS of READ ELEMENT STATUS: an empty drive can be given a cartridge, an unloaded one taken from it
        (SMC-3 6.10.3)."""
        return self.load_state in (LoadState.EMPTY, LoadState.EJECTED)

    def accepts(self, cartridge: Loadable) -> bool:
        """Whether the cartridge can be put into this drive: one that its generation reads, or a cleaning cartridge."""
        return not isinstance(cartridge, Cartridge) or can_read(self.model.generation, cartridge.medium)

    def load(self, cartridge: Loadable) -> None:
        """Puts a cartridge into the drive and makes it ready; every nexus learns of it (28/00). A cleaning cartridge
        cleans and waits to be taken out again.

        Raises CheckCondition, with the cartridge still the caller's: MEDIUM DESTINATION ELEMENT FULL, or INCOMPATIBLE
        MEDIUM INSTALLED for one that this generation cannot read."""
        with self.lock:
            if self.cartridge is not None:
                raise CheckCondition(sense.MEDIUM_DESTINATION_ELEMENT_FULL)
            if not self.accepts(cartridge):
                raise CheckCondition(sense.INCOMPATIBLE_MEDIUM)
            self.cartridge = cartridge
            if isinstance(cartridge, Cartridge):
                self._make_ready(cartridge, told=None)
            else:
                self.load_state = LoadState.EJECTED
                for part in self.tape_parts:
                    part.on_cleaned()
        log.info("cartridge loaded", drive=self.identity.serial_number, barcode=cartridge.barcode)

    def in_use(self) -> str | None:
        """Why an operator should leave the cartridge in the drive, None when nobody uses it."""
        if self.lent_to is not None:
            return f"it is granted to {self.lent_to.name} alone"
        if self.buffered_from is not None:
            return "it is being written, and what was written last has no filemark behind it yet"
        if (holder := self.reservations.held_by()) is not None:
            return holder
        if self.removal_prevented:
            names = ", ".join(sorted({nexus.initiator_name for nexus in self.prevention.preventing()}))
            return f"{names} has locked it (PREVENT ALLOW MEDIUM REMOVAL)"
        if self.load_state is LoadState.LOADED and self.nexuses and self.medium and any(self.medium.position):
            names = ", ".join(sorted({nexus.initiator_name for nexus in self.nexuses}))
            return f"the tape is in the middle of its work: not at its beginning, and {names} is logged in"
        return None

    @contextmanager
    def removing(self, check: Callable[[], None] = lambda: None, *, force: bool = False) -> Iterator[Loadable]:
        """Holds the drive with everything on stable storage. The cartridge, still open, leaves the drive when the block
        ends well; when the block raises it stays as it was, at its position.

        check: asked once no command can come between, and raises what forbids it. force: ends the commands and
        copies that need the medium, which are told MEDIUM NOT PRESENT, and goes past PREVENT ALLOW MEDIUM REMOVAL.

        Raises CheckCondition, with the cartridge still in the drive: MEDIUM SOURCE ELEMENT EMPTY, MEDIUM REMOVAL
        PREVENTED (also by a command or copy that runs), or the write error of blocks that could not be made durable
        (then a second attempt succeeds)."""
        if not self._hold_for_robot(force=force):
            raise CheckCondition(sense.MEDIUM_REMOVAL_PREVENTED)
        try:
            with self.lock:
                cartridge = self.cartridge
                if cartridge is None:
                    raise CheckCondition(sense.MEDIUM_SOURCE_ELEMENT_EMPTY)
                check()
                if not force:
                    self._refuse_prevented_removal()
                self.synchronize(deferred=True)
            yield cartridge
            with self.lock:
                self._let_go()
        finally:
            self.vacate()
        log.info("cartridge unloaded", drive=self.identity.serial_number, barcode=cartridge.barcode)

    def unload(self) -> Loadable:
        """Takes the cartridge out, unloading it first when it is still loaded, and hands it to the caller, who closes
        or moves it. Raises as removing() does."""
        with self.removing() as cartridge:
            return cartridge

    def forget_robot(self, *, empty: bool) -> Loadable | None:
        """The robot's thread was ended in the middle of a move: it does not hold this drive any longer. empty: nor does
        the drive hold anything, whatever it was about to; answers the open cartridge that it had."""
        while self.lock._is_owned():  # type: ignore[attr-defined] # it was ended in _hold_within()
            self.lock.release()
        self.tasks.forget_robot()
        with self.lock:
            cartridge = self.cartridge
            if empty:
                self._let_go()
        return cartridge if empty else None

    def _hold_for_robot(self, *, force: bool) -> bool:
        if self._hold_within(ROBOT_PATIENCE_SECONDS):
            return True
        if not force:
            return False
        log.warning("the operator ends what runs in the drive", drive=self.identity.serial_number)
        return self._hold_within(FORCE_PATIENCE_SECONDS, interrupt=True)

    def _hold_within(self, seconds: float, *, interrupt: bool = False) -> bool:
        if not self.lock.acquire(timeout=seconds):  # a command that waits for the storage
            return False
        try:
            if interrupt:
                self.tasks.interrupt(sense.MEDIUM_NOT_PRESENT)
            return self.occupy(seconds)
        finally:
            self.lock.release()

    def _let_go(self) -> None:
        """The cartridge is elsewhere already, as far as the library knows: nothing keeps it here."""
        try:
            self._leave_ready(LoadState.EJECTED)
        except Exception as error:  # noqa: BLE001 - what was written is durable; only what was to be counted is lost
            log.error("unloading failed", drive=self.identity.serial_number, reason=str(error))
        self.cartridge = self.medium = None
        self.load_state = LoadState.EMPTY
        self.decide_legality()
        self.prevention.override()

    # ---- LOAD UNLOAD ---------------------------------------------------------------------------------------------

    @handles(ssc.LoadUnload, permission=Permission.READ_DATA, exclusive=True, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def load_unload(self, cdb: ssc.LoadUnload, task: Task) -> None:
        if cdb.load and cdb.end_of_tape:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.LoadUnload.end_of_tape)
        if cdb.load:
            self._load_command(task.nexus, hold=bool(cdb.hold))
        elif self.cartridge is not None:
            self._unload_command(hold=bool(cdb.hold))

    def _load_command(self, nexus: Nexus, *, hold: bool) -> None:
        cartridge = self.cartridge
        if not isinstance(cartridge, Cartridge):
            raise CheckCondition(self.not_ready_code())
        if hold:
            self._leave_ready(LoadState.HELD)
        elif self.medium is None:
            self._make_ready(cartridge, told=nexus)
        else:  # loaded already: the position goes to the beginning of partition 0 (SSC-3 7.2)
            self.synchronize(deferred=True)
            self.medium.locate_block(0, 0)
            self.on_moved()

    def _unload_command(self, *, hold: bool) -> None:
        if not hold:
            self._refuse_prevented_removal()
        self._leave_ready(LoadState.HELD if hold else LoadState.EJECTED)

    def _refuse_prevented_removal(self) -> None:
        if self.removal_prevented:
            for part in self.tape_parts:
                part.on_removal_refused()
            raise CheckCondition(sense.MEDIUM_REMOVAL_PREVENTED)

    def _make_ready(self, cartridge: Cartridge, told: Nexus | None) -> None:
        try:
            cartridge.loaded(self.identity.vendor, self.identity.serial_number)
        except CartridgeError as error:  # what is on it can be read all the same
            log.warning("a load could not be counted", barcode=cartridge.barcode, reason=str(error))
        self.medium, self.load_state = cartridge, LoadState.LOADED
        for part in self.tape_parts:
            part.on_loaded()
        self.decide_legality()
        self.on_moved()
        self.tell_others(told, sense.NOT_READY_TO_READY_CHANGE)

    def _leave_ready(self, state: LoadState) -> None:
        if self.medium is not None:
            self.synchronize(deferred=True)
            for part in self.tape_parts:
                part.on_unloaded()
            self.medium = None
        self.load_state = state
        self.decide_legality()
