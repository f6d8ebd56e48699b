"""The library's one robot: cartridges between slots and drives, durably, whoever asks.

It belongs to the library, not to a SCSI device: the media changer of each partition and the operator use the same one,
and all its addresses are the inventory's. What a move does, in this order: the drive it takes from is held and makes
everything durable, the inventory is changed in one durable step, the drive lets go, the drive it goes to loads. What
fails before the inventory's step leaves the drives as they were. A crash before that step means that the move did not
happen, a crash after it that it did: at the next start every drive is loaded with what the inventory says, and at
once where only the thread that moves was ended.

Locks: the robot's own is taken first, then those of the drives, then the inventory's. Whoever watches is told without
any of them held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import TypeVar

import structlog

from scsi_targets.devices.changer.fitting import Fitting
from scsi_targets.devices.changer.robot_terms import (
    AnyCartridge,
    Asker,
    BetweenPartitions,
    DriveBay,
    DriveFailed,
    Incompatible,
    Manner,
    Move,
    RemovalPrevented,
    RobotError,
    Watcher,
    WrongBarcode,
)
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.elements import Element, ElementEmpty, ElementFull, ElementType, NoSuchElement
from vlib_images.library.inventory import Inventory

log = structlog.get_logger(__name__)

__all__ = [
    "Asker", "BetweenPartitions", "DriveBay", "DriveFailed", "Incompatible", "Manner", "Move", "RemovalPrevented",
    "Robot", "RobotError", "Watcher", "WrongBarcode",
]  # fmt: skip

MoveResult = TypeVar("MoveResult")


class Robot(Fitting):
    """Moves cartridges. Thread-safe: one move at a time.

    open_cartridge: opens a cartridge by barcode; whatever it raises makes the move fail before anything changed.
    """

    def __init__(
        self, inventory: Inventory, drives: Mapping[int, DriveBay], open_cartridge: Callable[[str], AnyCartridge]
    ) -> None:
        """Loads every drive with the cartridge that the inventory has in it. ValueError: `drives` and the inventory's
        layout do not have the same addresses."""
        super().__init__(inventory, drives)
        self._open_cartridge = open_cartridge
        self._in_hand: list[AnyCartridge | None] = []  # while a move is neither here nor there
        for address in self.drives:
            self._load_drive(address)

    # ---- moves ---------------------------------------------------------------------------------------------------

    def move(
        self,
        source: int,
        destination: int,
        *,
        manner: Manner = Manner.OPERATOR,
        by: Asker | None = None,
        between_partitions: bool = False,
    ) -> str:
        """Moves one cartridge and returns its barcode. To the drive that it is in: it is loaded again when it had been
        unloaded, else nothing happens. by: the media changer that asks, None for the operator. between_partitions: also
        from one partition to another, which the audit record names.

        Raises NoSuchElement, ElementEmpty, ElementFull, RobotError, OSError."""

        def commit() -> str:
            return self.inventory.move(source, destination, self._crossing(source, destination))

        return self._perform([Move(source, destination)], commit, manner, by, between_partitions)

    def exchange(
        self,
        source: int,
        first_destination: int,
        second_destination: int,
        *,
        manner: Manner = Manner.OPERATOR,
        by: Asker | None = None,
    ) -> tuple[str, str]:
        """Moves source to first_destination and what was there to second_destination. Raises as move() does."""
        return self._perform(
            [Move(source, first_destination), Move(first_destination, second_destination)],
            lambda: self.inventory.exchange(source, first_destination, second_destination),
            manner,
            by,
        )

    def insert(self, barcode: str, address: int, *, manner: Manner = Manner.OPERATOR) -> None:
        """The operator puts a cartridge from the shelf into a slot or import/export element; initiators learn of it.

        Raises InventoryError, OSError, RemovalPrevented (a host locked these elements, or it is a drive)."""
        with self.turn:
            self._check_access(address, manner)
            self._check_arrival(barcode, address)
            self.inventory.insert(barcode, address)
        self._tell(lambda watcher: watcher.accessed([address]))

    def add_all(self, cartridges: Collection[tuple[str, int | None]]) -> Iterator[int]:
        """The operator puts new cartridges in, each into a slot or import/export element or (None) on the shelf; yields
        how many are in, batch by batch. Initiators learn of it once. Raises as insert() does."""
        addresses = [address for _, address in cartridges if address is not None]
        for barcode, address in cartridges:
            if address is not None:
                self._check_access(address, Manner.OPERATOR)
                self._check_arrival(barcode, address)
        try:
            yield from self.inventory.add_all(cartridges)
        finally:  # also of the part that is in when the rest fails, or is no longer wanted
            if addresses:
                self._tell(lambda watcher: watcher.accessed(addresses))

    def remove(self, address: int, *, manner: Manner = Manner.OPERATOR) -> str:
        """The operator takes a cartridge out of a slot or import/export element, to the shelf; returns its barcode.
        Raises as insert() does."""
        with self.turn:
            self._check_access(address, manner)
            barcode = self.inventory.remove(address)
        self._tell(lambda watcher: watcher.accessed([address]))
        return barcode

    def accessible(self, address: int) -> bool:
        """Whether the transport can reach the element's cartridge (SMC-3's ACCESS bit): not while it is threaded."""
        drive = self.drives.get(address)
        return drive is None or address in self.faults or drive.accessible

    # ---- what is refused -----------------------------------------------------------------------------------------

    def _check(self, moves: list[Move], manner: Manner, between_partitions: bool) -> None:
        """Refuses what the inventory would refuse, before a drive is held up."""
        sources = [move.source for move in moves]
        for source, destination in moves:
            ends = self.inventory.element(source), self.inventory.element(destination)
            for end in ends:
                if end.type is ElementType.TRANSPORT:
                    raise NoSuchElement(f"element {end.address} is the transport: it stores nothing")
            if ends[0].barcode is None:
                raise ElementEmpty(f"element {source} is empty")
            if ends[1].barcode is not None and destination not in sources:
                raise ElementFull(f"element {destination} holds cartridge {ends[1].barcode}")
            if manner not in (Manner.LENT, Manner.FORCE):
                self._check_lent(source, destination)
            if manner is Manner.OPERATOR:
                self._check_reserved(source, destination)
            self._check_arrival(ends[0].barcode, destination)
            if not between_partitions and (crossing := self._crossing(source, destination)):
                here, there = map(_named, crossing)
                where = f"cartridge {ends[0].barcode} is in {here}, the other end in {there}"
                raise BetweenPartitions(f"{where}; an operator moves it from one to the other: tapebay move")

    def _check_lent(self, *addresses: int) -> None:
        for address in addresses:
            drive = self.drives.get(address)
            if drive is not None and drive.lent_to is not None:
                index = self.inventory.element(address).index
                raise RemovalPrevented(f"drive {index} is granted to {drive.lent_to.name} alone")

    def _check_reserved(self, *addresses: int) -> None:
        holders = (watcher.reserved(address) for watcher in self._watchers for address in addresses)
        if (holder := next(filter(None, holders), None)) is not None:
            raise RemovalPrevented(f"the media changer is in use: {holder}")

    def _check_arrival(self, barcode: str, destination: int) -> None:
        if not all(watcher.admits(barcode, destination) for watcher in self._watchers):
            where = f"of partition {self.partition_of(destination)}"
            raise WrongBarcode(f"cartridge {barcode} does not fit the barcode rule {where}")

    def _check_removal(self, element: Element, drive: DriveBay, manner: Manner) -> None:
        if manner is Manner.FORCE:
            return
        if manner is Manner.OPERATOR and (reason := drive.in_use()) is not None:
            raise RemovalPrevented(f"cartridge {element.barcode} is in use in drive {element.index}: {reason}")
        if drive.removal_prevented:
            raise RemovalPrevented(f"a host prevents medium removal from drive {element.index}")
        if manner is Manner.UNLOADED and not drive.accessible:
            raise RemovalPrevented(f"drive {element.index} has not been unloaded")

    def _stays(self, source: int, destination: int) -> bool:
        """The cartridge is where it is to go: it must not be rewound under whoever uses it."""
        drive = self.drives.get(source)
        return source == destination and (drive is None or not (drive.accessible or source in self.faults))

    def _check_access(self, address: int, manner: Manner) -> None:
        element = self.inventory.element(address)
        if element.type in (ElementType.DRIVE, ElementType.TRANSPORT):
            raise RemovalPrevented(f"element {address} is a {element.type.name.lower()}: only the robot reaches it")
        locked = element.type is ElementType.IMPORT_EXPORT and any(each.locks(address) for each in self._watchers)
        if locked and manner is not Manner.FORCE:
            raise RemovalPrevented("a host has locked the import/export elements (PREVENT ALLOW MEDIUM REMOVAL)")
        if manner is not Manner.FORCE:
            self._check_reserved(address)

    # ---- the parts of a move -------------------------------------------------------------------------------------

    def _perform(
        self,
        moves: list[Move],
        commit: Callable[[], MoveResult],
        manner: Manner,
        by: Asker | None,
        between_partitions: bool = False,
    ) -> MoveResult:
        try:
            with self.turn:
                if by is not None and (by.changer.partition is not by.partition or by.changer not in self._watchers):
                    raise NoSuchElement("the partition has changed meanwhile")
                self._check(moves, manner, between_partitions)
                if len(moves) == 1 and self._stays(*moves[0]):
                    return commit()  # the inventory says what is there, and changes nothing
                moved, failure = self._transfer(moves, commit, manner)
        except Exception:
            raise
        except BaseException:  # the thread is being ended, who knows where in the move
            self._settle(moves)
            raise
        if manner is Manner.FORCE:
            log.warning("the operator insisted on a move", moved=moved, moves=moves)
        self._tell(lambda watcher: watcher.moved(moves, None if by is None else by.changer))
        if failure is not None:
            raise failure
        return moved

    def _transfer(
        self, moves: list[Move], commit: Callable[[], MoveResult], manner: Manner
    ) -> tuple[MoveResult, DriveFailed | None]:
        self._in_hand = []
        with ExitStack() as held, ExitStack() as opened:  # what was opened is closed, drives stay as they were, unless
            carried = [self._pick(move, manner, held, opened) for move in moves]
            for (_, destination), cartridge in zip(moves, carried, strict=True):
                self._check_medium(destination, cartridge)
            self._in_hand = carried
            moved = commit()
            opened.pop_all()
        # A drive that had a fault has another cartridge now, or none.
        for source, _ in moves:
            self.faults.pop(source, None)
        failures = [
            self._place(destination, cartridge) for (_, destination), cartridge in zip(moves, carried, strict=True)
        ]
        self._in_hand = []
        return moved, next(filter(None, failures), None)

    def _pick(self, move: Move, manner: Manner, held: ExitStack, opened: ExitStack) -> AnyCartridge | None:
        """The open cartridge when a drive is at either end; None between slots."""
        drive = self.drives.get(move.source)
        if drive is None or move.source in self.faults:
            if move.destination not in self.drives:
                return None
            cartridge = self._open(move.source)
            opened.callback(cartridge.close)
            return cartridge
        element = self.inventory.element(move.source)
        index = element.index

        def check() -> None:
            self._check_removal(element, drive, manner)

        try:
            return held.enter_context(drive.removing(check, force=manner is Manner.FORCE))
        except CheckCondition as error:
            if error.sense.code == sense.MEDIUM_REMOVAL_PREVENTED:  # by a host since the check, or a command that runs
                raise RemovalPrevented(f"drive {index} is in use: a command or a copy runs in it") from error
            raise DriveFailed(f"drive {index} could not unload: {error}") from error

    def _open(self, address: int) -> AnyCartridge:
        barcode = self.inventory.element(address).barcode or ""
        try:
            return self._open_cartridge(barcode)
        except Exception as error:
            raise DriveFailed(f"cartridge {barcode} of element {address} could not be opened: {error}") from error

    def _check_medium(self, destination: int, cartridge: AnyCartridge | None) -> None:
        drive = self.drives.get(destination)
        if drive is not None and not drive.accepts(cartridge):
            raise Incompatible(f"drive {self.inventory.element(destination).index} cannot read such a medium")

    def _place(self, destination: int, cartridge: AnyCartridge | None) -> DriveFailed | None:
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

    def _give_up(self, destination: int, cartridge: AnyCartridge) -> None:
        """A drive that did not load a cartridge does not keep it open."""
        if destination not in self.drives:
            return
        self._close(destination, cartridge)

    def _close(self, element: int, cartridge: AnyCartridge) -> None:
        try:
            cartridge.close()
        except Exception as error:  # noqa: BLE001 - the failure that matters has been noted
            log.error("cartridge could not be closed", element=element, reason=str(error))

    def _load_drive(self, address: int) -> None:
        """With what the inventory has in it."""
        barcode = self.inventory.element(address).barcode
        if barcode is None:
            return
        try:
            cartridge = self._open_cartridge(barcode)
        except Exception as error:  # noqa: BLE001 - one bad cartridge does not keep the library from starting
            self.faults[address] = sense.MEDIA_LOAD_OR_EJECT_FAILED
            log.error("cartridge could not be opened", element=address, barcode=barcode, reason=str(error))
        else:
            self._place(address, cartridge)

    def _settle(self, moves: list[Move]) -> None:
        """As after a crash in the middle of a move; what it never touched stays as it is."""
        with self.turn:
            touched = [address for address in {*chain(*moves)} if address in self.drives]
            in_hand, self._in_hand = self._in_hand, []
            held = [self.drives[address].forget_robot(empty=bool(in_hand)) for address in touched]
            for cartridge in filter(None, [*held, *in_hand]):
                self._close(moves[0].source, cartridge)
            for address in touched if in_hand else ():
                self.faults.pop(address, None)
                self._load_drive(address)
        self._tell(lambda watcher: watcher.moved(moves, None))

    def _tell(self, what: Callable[[Watcher], None]) -> None:
        for watcher in self._watchers:
            what(watcher)


def _named(partition: str | None) -> str:
    return "no partition" if partition is None else f"partition {partition}"
