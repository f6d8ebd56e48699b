"""What an operator may do to a library that is being served: all of Operations, and what needs devices."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from appliance import __version__
from appliance.failures import Failure, OperatorError
from appliance.library.library import Library
from appliance.operations.offline_operations import Operations
from appliance.operations.places import SHELF, format_place
from scsi_targets.devices.changer.robot import Manner, RemovalPrevented, WrongBarcode
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.homes import home_of, homes
from vlib_images.library.inventory import Element, ElementType

log = structlog.get_logger(__name__)


class LiveOperations(Operations):
    """The methods of the control socket. `config` is the file that the library was made from."""

    def __init__(self, library: Library, config: Path) -> None:
        super().__init__(library.files, library.robot)
        self._robot = library.robot
        self._library = library
        self._config = config
        self._started = time.time()

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            **super().handlers(),
            "status": self.status,
            "health": self.health,
            "load": self.load,
            "unload": self.unload,
            "move": self.move,
            "disk.grow": self.disk_grow,
            "shutdown": self.shutdown,
        }

    def health(self) -> dict[str, Any]:
        """Answered at all, it says that the daemon lives; it fails when the portals are no longer served."""
        return {"portals": self._library.bound, "sessions": len(self._library.server.sessions())}

    def shutdown(self) -> None:
        """Stop as SIGTERM does, after this has been answered."""
        os.kill(os.getpid(), signal.SIGTERM)

    def load(self, cartridge: str, drive: str, force: bool = False) -> dict[str, str]:
        """Load a cartridge, given by barcode or place, into a drive; one that is loaded there already stays there."""
        self._drive(drive)
        return self.move(cartridge, drive, force)

    def unload(self, drive: str, to: str | None = None, force: bool = False) -> dict[str, str]:
        """Take the cartridge out of a drive: to `to`, or the slot it came from, or the first free one."""
        element = self._drive(drive)
        if element.barcode is None:
            raise OperatorError(Failure.REFUSED, f"{drive} is empty")
        return self.move(element.barcode, to or self._home_of(element), force)

    def _drive(self, name: str) -> Element:
        element = self._place(name)
        if element is None or element.type is not ElementType.DRIVE:
            raise OperatorError(Failure.USAGE, f"{name} is not a drive")
        return element

    def _home_of(self, drive: Element) -> str:
        home = home_of(self._inventory, drive)
        if home is None:
            raise OperatorError(Failure.REFUSED, "no slot is free; say where to put the cartridge")
        return format_place(self._inventory.element(home))

    def move(self, cartridge: str, to: str, force: bool = False) -> dict[str, str]:
        """Move a cartridge, given by barcode or place, to a place; the shelf is a place too. `force` also takes what is
        in use, reserved or locked by an initiator."""
        source = self._source(cartridge)
        destination = self._place(to)
        if destination is not None and destination.barcode is not None and destination != source:
            raise OperatorError(Failure.REFUSED, f"{to} holds cartridge {destination.barcode}")
        manner = Manner.FORCE if force else Manner.OPERATOR
        owner = homes(self._inventory).get(destination.address) if destination is not None else None
        try:
            barcode = self._carry(cartridge, source, destination, manner)
        except (RemovalPrevented, WrongBarcode) as error:
            raise OperatorError(Failure.REFUSED, f"{error} (--force insists)") from error
        moved = {"barcode": barcode, "from": format_place(source), "to": format_place(destination)}
        log.info("cartridge moved by the operator", force=force, **moved)
        if owner not in (None, barcode):
            log.warning("a slot was filled that a loaded cartridge came from", cartridge=owner, slot=moved["to"])
        return moved

    def _carry(self, cartridge: str, source: Element | None, destination: Element | None, manner: Manner) -> str:
        match source, destination:
            case None, None:
                raise OperatorError(Failure.REFUSED, f"cartridge {cartridge} is on the shelf already")
            case None, Element():
                self._robot.insert(cartridge, destination.address, manner=manner)
                return cartridge
            case Element(), None:
                return self._robot.remove(source.address, manner=manner)
            case Element(), Element():
                return self._robot.move(source.address, destination.address, manner=manner)
        raise AssertionError("the shelf or an element")

    def disk_grow(self, name: str, size_bytes: int) -> dict[str, Any]:
        """Lengthen the image of a served disk; initiators are told that its capacity has changed."""
        try:
            self._library.grow_disk(name, size_bytes)
        except KeyError:
            raise OperatorError(Failure.NOT_FOUND, f"there is no disk {name} in the running library") from None
        except (ValueError, CheckCondition) as error:
            raise OperatorError(Failure.REFUSED, f"disk {name} cannot grow now: {error}") from error
        return {"name": name, "size_bytes": size_bytes}

    def _source(self, cartridge: str) -> Element | None:
        """Where a cartridge is, by barcode or by place; None: the shelf, and then it is a barcode."""
        if cartridge in self._inventory:
            return self._inventory.find(cartridge)
        if ":" not in cartridge and not cartridge.isdecimal() and cartridge not in self._drives:
            raise OperatorError(Failure.NOT_FOUND, f"there is no cartridge {cartridge}; see: tapebay cartridge list")
        return self._place(cartridge)

    def status(self) -> dict[str, Any]:
        """Everything `tapebay status` shows."""
        settings = self._library.settings
        return {
            "library": settings.library.name,
            "version": __version__,
            "pid": os.getpid(),
            "config": str(self._config),
            "uptime_seconds": round(time.time() - self._started, 1),
            "portals": self._portals(),
            "targets": [
                {"iqn": target.iqn, "luns": {str(lun): name for lun, name in settings.lun_map(target).items()}}
                for target in settings.targets
            ],
            "devices": self._devices(),
            "elements": [self._element(element) for element in self._inventory.elements()],
            SHELF: self._inventory.shelf(),
            "sessions": self._sessions(),
        }

    def _portals(self) -> list[dict[str, Any]]:
        portals = self._library.directory.all_portals
        return [
            {"listen": bound, "advertised": portal.advertised, "group": portal.portal_group_tag}
            for bound, portal in zip(self._library.bound, portals, strict=True)
        ]

    def _devices(self) -> list[dict[str, Any]]:
        holds = {name: self._inventory.element(address).barcode for name, address in self._drives.items()}
        return [
            {
                "name": name,
                "type": type(unit).__name__,
                "model": f"{unit.identity.vendor} {unit.identity.product}",
                "serial": unit.identity.serial_number,
                "holds": holds.get(name),
                "problem": unit.unavailable if isinstance(unit, BlockDevice) else None,
            }
            for name, unit in self._library.units.items()
        ]

    def _element(self, element: Element) -> dict[str, Any]:
        source = None if element.source is None else format_place(self._inventory.element(element.source))
        return {
            "place": format_place(element),
            "address": element.address,
            "barcode": element.barcode,
            "source": source,
        }

    def _sessions(self) -> list[dict[str, Any]]:
        return [
            {
                "initiator": record.initiator_name,
                "target": record.target_name or "(discovery)",
                "address": record.peer,
                "state": record.state,
                "authentication": record.authentication,
                "header_digest": record.header_digest,
                "data_digest": record.data_digest,
                "since": record.since,
                "commands": record.commands,
                "bytes_in": record.bytes_in,
                "bytes_out": record.bytes_out,
            }
            for record in self._library.server.sessions()
        ]
