"""What an operator may do to a library: the methods behind the command line and the control socket.

Most work on the library's files alone, and so without a daemon too. With a daemon, cartridges move by the robot, so
that drives load and unload and initiators learn of it.
"""

import threading
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import structlog

from appliance.failures import Failure, OperatorError
from appliance.library.cartridges import LEAST_CAPACITY_BYTES, medium_of, new_cartridge, numbered_on
from appliance.library.files import LibraryFiles
from appliance.operations.places import SHELF, format_place, parse_place
from appliance.settings.units import parse_size_of_at_least
from scsi_targets.devices.changer.robot import RobotError
from vlib_images.errors import CartridgeError
from vlib_images.library.homes import free_slots
from vlib_images.library.inventory import (
    BadBarcode,
    Element,
    ElementType,
    InventoryError,
    NoSuchCartridge,
    NoSuchElement,
)

log = structlog.get_logger(__name__)

CREATED_TOGETHER = 100  # cartridges that wait for the disk together
Progress = tuple[int, int]  # done, total


class Mover(Protocol):
    """What brings cartridges in and out: the robot, or the inventory alone when no device is there."""

    def insert(self, barcode: str, address: int) -> None: ...
    def remove(self, address: int) -> str: ...
    def add_all(self, cartridges: Collection[tuple[str, int | None]]) -> Iterator[int]: ...


@contextmanager
def translated() -> Iterator[None]:
    """What the rooms below refuse, in an operator's terms."""
    try:
        yield
    except (NoSuchCartridge, NoSuchElement) as error:
        raise OperatorError(Failure.NOT_FOUND, str(error)) from error
    except BadBarcode as error:
        raise OperatorError(Failure.USAGE, str(error)) from error
    except (InventoryError, RobotError, CartridgeError, OSError) as error:
        raise OperatorError(Failure.REFUSED, str(error)) from error


class Operations:
    """The methods that need no device. `mover` moves cartridges. Call them within translated()."""

    def __init__(self, files: LibraryFiles, mover: Mover | None = None) -> None:
        self._files = files
        self._inventory = files.inventory
        self._mover: Mover = mover or files.inventory
        self._lock = threading.Lock()  # one operator at a time makes or deletes cartridges
        self._drives = {
            drive.name: element.address
            for drive, element in zip(files.settings.drives, self._inventory.elements(ElementType.DRIVE), strict=True)
        }

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Control methods by name."""
        return {
            "cartridge.create": self.cartridge_create,
            "cartridge.list": self.cartridge_list,
            "cartridge.show": self.cartridge_show,
            "cartridge.adopt": self.cartridge_adopt,
            "cartridge.protect": self.cartridge_protect,
            "cartridge.delete": self.cartridge_delete,
        }

    def cartridge_create(
        self,
        barcode: str,
        count: int = 1,
        medium: str | None = None,
        capacity: str | None = None,
        worm: bool = False,
        place: str | None = None,
    ) -> Generator[Progress, None, list[dict[str, Any]]]:
        """New cartridges in the first free slots, or at `place` (one cartridge, or any number on the shelf)."""
        barcodes = numbered_on(barcode, count)
        capacity_bytes = capacity_of(capacity)
        media = [medium_of(new, medium, worm) for new in barcodes]
        with self._lock:
            places = self._places_for(barcodes, place)
            for new in barcodes:  # all of them, before any is made
                self._inventory.check_new(new)
            for first in range(0, count, CREATED_TOGETHER):
                batch = range(first, min(first + CREATED_TOGETHER, count))
                self._files.cartridges.create_all({barcodes[n]: media[n] for n in batch}, capacity_bytes)
                told = first
                for done in self._mover.add_all([(barcodes[n], places[n]) for n in batch]):
                    yield from ((number, count) for number in range(told + 1, first + done + 1))
                    told = first + done
            log.info("cartridges made", first=barcodes[0], last=barcodes[-1], count=count, medium=media[0].name)
        return [
            {
                "barcode": new,
                "place": format_place(self._inventory.find(new)),
                **new_cartridge(new, kind, capacity_bytes),
            }
            for new, kind in zip(barcodes, media, strict=True)
        ]

    def _places_for(self, barcodes: list[str], place: str | None) -> list[int | None]:
        if place == SHELF:
            return [None] * len(barcodes)
        if place is not None:
            element = self._place(place)
            if len(barcodes) > 1 or element is None:
                raise OperatorError(Failure.USAGE, f"{len(barcodes)} cartridges do not fit into {place}")
            if element.type not in (ElementType.STORAGE, ElementType.IMPORT_EXPORT):
                raise OperatorError(Failure.REFUSED, f"only the robot puts cartridges into {place}; give a slot")
            if element.barcode is not None:
                raise OperatorError(Failure.REFUSED, f"{place} holds cartridge {element.barcode}")
            return [element.address]
        free = list(free_slots(self._inventory))
        if len(free) < len(barcodes):
            message = f"{len(free)} slots are free, {len(barcodes)} are needed; make the cartridges --to shelf"
            raise OperatorError(Failure.REFUSED, message)
        return list(free[: len(barcodes)])

    def cartridge_list(self) -> list[dict[str, Any]]:
        """Every cartridge, those in the library by element, then the shelf."""
        inside = [element.barcode for element in self._inventory.elements() if element.barcode is not None]
        return [self.cartridge_show(barcode) for barcode in [*inside, *self._inventory.shelf()]]

    def cartridge_show(self, barcode: str) -> dict[str, Any]:
        """One cartridge: where it is and what it is."""
        place = format_place(self._inventory.find(barcode))
        return {"barcode": barcode, "place": place, **self._files.cartridges.describe(barcode)}

    def cartridge_adopt(self, barcode: str) -> dict[str, Any]:
        """Put a cartridge whose directory has appeared on the shelf; one that has a place keeps it."""
        if not self._files.cartridges.has(barcode):
            raise OperatorError(Failure.NOT_FOUND, f"there is no directory of a cartridge {barcode}")
        with self._lock:
            if barcode not in self._inventory:
                self._inventory.add(barcode)
                log.info("cartridge adopted", barcode=barcode)
        return self.cartridge_show(barcode)

    def cartridge_protect(self, barcode: str, protected: bool) -> dict[str, Any]:
        """Set the write-protect tab of a cartridge that is in no drive."""
        self._refuse_loaded(barcode)
        self._files.cartridges.protect(barcode, protected)
        return self.cartridge_show(barcode)

    def cartridge_delete(self, barcode: str) -> None:
        """Delete a cartridge that is in a slot or on the shelf."""
        with self._lock:
            element = self._refuse_loaded(barcode)
            if element is not None:
                self._mover.remove(element.address)
            self._files.cartridges.delete(barcode, self._inventory)
        log.info("cartridge deleted", barcode=barcode)

    def _refuse_loaded(self, barcode: str) -> Element | None:
        """Where a cartridge is; None: on the shelf. OperatorError when that is a drive."""
        element = self._inventory.find(barcode)
        if element is not None and element.type is ElementType.DRIVE:
            raise OperatorError(Failure.REFUSED, f"cartridge {barcode} is in {format_place(element)}; unload it first")
        return element

    def _place(self, text: str) -> Element | None:
        return parse_place(self._inventory, self._drives, text)


def capacity_of(text: str | None) -> int | None:
    """What --capacity says in bytes; None: what the medium holds. Raises OperatorError USAGE."""
    try:
        return None if text is None else parse_size_of_at_least(text, LEAST_CAPACITY_BYTES)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, f"--capacity: {error}") from None
