"""The library's one robot: cartridges between slots and drives, durably.

What a move does, in this order: the drive it takes from lets go (rewound, everything on stable storage), the inventory
is changed in one durable step, the drive it goes to loads. A crash before the inventory's step means that the move did
not happen, a crash after it that it did: at the next start every drive is loaded with what the inventory says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import structlog

from scsi_targets.devices.unit.identity import Identity
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition, SenseCode
from vlib_images.library.inventory import Element, ElementEmpty, ElementFull, ElementType, Inventory, NoSuchElement

log = structlog.get_logger(__name__)

Cartridge = Any  # an open vlib_images cartridge; the robot only carries it and, on the way to a slot, closes it
Move = tuple[int, int]  # source and destination element address
Moved = TypeVar("Moved")


class DriveBay(Protocol):
    """What the robot asks of a tape drive. Both hands raise CheckCondition, and then the cartridge is where it was."""

    identity: Identity

    @property
    def accessible(self) -> bool:
        """Empty, or with a cartridge that a host has unloaded: the robot's hand can go in (SMC-3's ACCESS bit)."""

    @property
    def removal_prevented(self) -> bool:
        """A host's PREVENT ALLOW MEDIUM REMOVAL is in force."""

    def accepts(self, cartridge: Cartridge, /) -> bool:
        """Whether the drive can read such a medium at all."""

    def load(self, cartridge: Cartridge, /) -> None:
        """Puts an open cartridge in: it is threaded, and every nexus learns that the drive became ready."""

    def unload(self) -> Cartridge:
        """Takes the cartridge out, still open. The drive finishes what it does, synchronizes, rewinds and unloads."""


class RobotError(Exception):
    """A move that failed or is not allowed; the inventory has not changed unless the subclass says so."""


class RemovalPrevented(RobotError):
    """PREVENT ALLOW MEDIUM REMOVAL forbids it, or the drive must be unloaded by a host first."""


class Incompatible(RobotError):
    """The drive cannot read such a medium."""


class DriveFailed(RobotError):
    """A drive could not let go of its cartridge (nothing moved), or not load its new one (which is in the drive)."""


class Robot:
    """Moves cartridges. Thread-safe: one move at a time. `drives` maps element address to drive.

    open_cartridge: opens a cartridge by barcode; whatever it raises makes the move fail before anything changed.
    faults: element address to sense code, for elements whose cartridge could not be loaded.
    """

    def __init__(
        self,
        inventory: Inventory,
        drives: Mapping[int, DriveBay],
        open_cartridge: Callable[[str], Cartridge],
        *,
        unloads_drives: bool = True,
    ) -> None:
        """Loads every drive with the cartridge that the inventory has in it. ValueError: `drives` and the inventory's
        layout do not have the same addresses."""
        if sorted(drives) != sorted(inventory.layout.drives):
            raise ValueError(f"drives at {sorted(drives)}, but the layout has them at {list(inventory.layout.drives)}")
        self.inventory = inventory
        self.drives = drives
        self.faults: dict[int, SenseCode] = {}
        self._open_cartridge = open_cartridge
        self._unloads_drives = unloads_drives
        self._lock = threading.Lock()
        self._load_drives()

    def move(self, source: int, destination: int) -> str:
        """Moves one cartridge and returns its barcode. Source and destination may be the same drive: it reloads.

        Raises NoSuchElement, ElementEmpty, ElementFull, RobotError, OSError."""
        with self._lock:
            self._check([(source, destination)])
            return self._transfer([(source, destination)], lambda: self.inventory.move(source, destination))

    def exchange(self, source: int, first_destination: int, second_destination: int) -> tuple[str, str]:
        """Moves source to first_destination and what was there to second_destination. Raises as move() does."""
        moves = [(source, first_destination), (first_destination, second_destination)]
        with self._lock:
            self._check(moves)
            return self._transfer(moves, lambda: self.inventory.exchange(source, first_destination, second_destination))

    def accessible(self, element: Element) -> bool:
        """Whether the transport can reach the element's cartridge (SMC-3's ACCESS bit): not while it is threaded."""
        drive = self.drives.get(element.address)
        return drive is None or element.address in self.faults or drive.accessible

    # ---- the parts of a move -------------------------------------------------------------------------------------

    def _check(self, moves: list[Move]) -> None:
        """Refuses what the inventory would refuse, before a drive lets go of anything."""
        sources = [source for source, _ in moves]
        for source, destination in moves:
            ends = self.inventory.element(source), self.inventory.element(destination)
            for end in ends:
                if end.type is ElementType.TRANSPORT:
                    raise NoSuchElement(f"element {end.address} is the transport: it stores nothing")
            if ends[0].barcode is None:
                raise ElementEmpty(f"element {source} is empty")
            if ends[1].barcode is not None and destination not in sources:
                raise ElementFull(f"element {destination} holds cartridge {ends[1].barcode}")

    def _transfer(self, moves: list[Move], commit: Callable[[], Moved]) -> Moved:
        carried: list[tuple[Move, Cartridge | None]] = []
        try:
            for move in moves:
                carried.append((move, self._pick(*move)))
            for (_, destination), cartridge in carried:
                self._check_medium(destination, cartridge)
            moved = commit()
        except Exception:
            for (source, _), cartridge in reversed(carried):
                self._place(source, cartridge)
            raise
        for source, _ in moves:
            self.faults.pop(source, None)
        failures = [self._place(destination, cartridge) for (_, destination), cartridge in carried]
        if failed := next(filter(None, failures), None):
            raise failed
        return moved

    def _pick(self, source: int, destination: int) -> Cartridge | None:
        """The open cartridge when a drive is at either end; None between slots."""
        drive = self.drives.get(source)
        if drive is None or source in self.faults:
            return self._open(source) if destination in self.drives else None
        self._check_removal(source, drive)
        try:
            return drive.unload()
        except CheckCondition as error:
            if error.sense.code == sense.MEDIUM_REMOVAL_PREVENTED:  # by a host since the check, or a command that runs
                raise RemovalPrevented(f"drive {source} is in use") from error
            raise DriveFailed(f"drive {source} could not unload: {error}") from error

    def _open(self, address: int) -> Cartridge:
        barcode = self.inventory.element(address).barcode or ""
        try:
            return self._open_cartridge(barcode)
        except Exception as error:
            raise DriveFailed(f"cartridge {barcode} of element {address} could not be opened: {error}") from error

    def _check_medium(self, destination: int, cartridge: Cartridge | None) -> None:
        drive = self.drives.get(destination)
        if drive is not None and not drive.accepts(cartridge):
            raise Incompatible(f"drive {destination} cannot read such a medium")

    def _check_removal(self, address: int, drive: DriveBay) -> None:
        if drive.removal_prevented:
            raise RemovalPrevented(f"a host prevents medium removal from drive {address}")
        if not self._unloads_drives and not drive.accessible:
            raise RemovalPrevented(f"drive {address} has not been unloaded")

    def _place(self, destination: int, cartridge: Cartridge | None) -> DriveFailed | None:
        """Loads a drive, or closes what came from one. A failure is noted at the element, logged and returned."""
        if cartridge is None:
            return None
        try:
            if destination in self.drives:
                self.drives[destination].load(cartridge)
            else:
                cartridge.close()
        except Exception as error:  # noqa: BLE001 - storage failed in its own words; the host is told, the log has them
            self.faults[destination] = sense.MEDIA_LOAD_OR_EJECT_FAILED
            log.error("cartridge could not be put down", element=destination, reason=str(error))
            self._give_up(destination, cartridge)
            return DriveFailed(f"element {destination}: {error}")
        return None

    def _give_up(self, destination: int, cartridge: Cartridge) -> None:
        """A drive that did not load a cartridge does not keep it open."""
        if destination not in self.drives:
            return
        try:
            cartridge.close()
        except Exception as error:  # noqa: BLE001 - the failure that matters has been noted
            log.error("cartridge could not be closed", element=destination, reason=str(error))

    def _load_drives(self) -> None:
        for address in self.drives:
            barcode = self.inventory.element(address).barcode
            if barcode is None:
                continue
            try:
                cartridge = self._open_cartridge(barcode)
            except Exception as error:  # noqa: BLE001 - one bad cartridge does not keep the library from starting
                self.faults[address] = sense.MEDIA_LOAD_OR_EJECT_FAILED
                log.error("cartridge could not be opened", element=address, barcode=barcode, reason=str(error))
            else:
                self._place(address, cartridge)
