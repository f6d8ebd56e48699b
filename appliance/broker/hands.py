"""What a grant does to the library's devices: lends its drives, has volumes brought, and takes all of it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from appliance.broker.requests import Request, RequestedUnit
from appliance.broker.selection import Stock
from scsi_targets.devices.changer.robot import Incompatible, Manner, Robot, RobotError
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Principal
from vlib_images.library.elements import Element
from vlib_images.library.inventory import Inventory


class ServedLibrary(Stock, Protocol):
    """What the broker asks of the library that is served."""

    robot: Robot

    def gate_units(self) -> Mapping[str, LogicalUnit]:
        """What stands behind the gate, by name."""

    def look_again(self) -> None:
        """Every session is to ask anew what it sees."""


class Hands:
    """Every step can be done again: what is done already is passed over."""

    def __init__(self, house: ServedLibrary, inventory: Inventory) -> None:
        self._house, self._inventory = house, inventory

    def lend(self, name: str, units: Iterable[RequestedUnit]) -> bool:
        """The drives of these units are a grant's alone from now on; False, and nothing changed: not all can be had."""
        principal, lent = Principal.key(name), list[LogicalUnit]()
        for unit in units:
            drive = self._house.drives.get(unit.device)
            if drive is not None and not drive.lend(principal):
                for other in lent:
                    other.take_back()
                return False
            if drive is not None:
                lent.append(drive)
        return True

    def lend_again(self, holding: Iterable[Request]) -> None:
        """After a restart, before anybody logs in, or when it is not known what was begun: the drives of these requests
        are theirs, and nobody else's grant has one. Whatever is reserved is the grant's own."""
        names, lent_to = set[str](), dict[str, Principal]()
        for request in holding:
            names.add(request.name)
            lent_to |= {unit.device: Principal.key(request.name) for unit in request.units}
        for name, drive in self._house.drives.items():
            if name in lent_to:
                drive.lent_to = lent_to[name]
            elif drive.lent_to is not None and drive.lent_to.name not in names:  # else the gate has chosen it just now
                drive.take_back()

    def take_back(self, name: str) -> None:
        """Ends what lend() began, and what the gate chose for a request."""
        for drive in self._house.drives.values():
            if drive.lent_to == Principal.key(name):
                drive.take_back()

    def bring(self, unit: RequestedUnit) -> None:
        """The volume into its drive, unless it is there. Raises RobotError, InventoryError, CartridgeError."""
        if unit.device not in self._house.gate_luns():
            raise Incompatible(f"{unit.device} is no longer in the library")
        if unit.volume is None:
            return
        element = self._inventory.find(unit.volume)
        if element is None:
            raise Incompatible(f"{unit.volume} is no longer in the library")
        self._house.robot.move(element.address, self._house.drive_addresses()[unit.device], manner=Manner.LENT)

    def give_back(self, name: str, unit: RequestedUnit, manner: Manner) -> bool:
        """Whether nobody uses the device any more, what was reserved is forgotten and the volume is home. A device that
        is gone has nothing to be given back. Raises as bring(), and CheckCondition."""
        device = self._house.gate_units().get(unit.device)
        if device is None:
            return True
        principal = Principal.key(name)
        if manner is not Manner.FORCE and any(nexus.principal == principal for nexus in device.nexuses.copy()):
            return False
        device.forget_reservations(principal)
        address = self._house.drive_addresses().get(unit.device)
        if unit.volume is not None and address is not None:
            self._carry_home(unit.volume, self._inventory.element(address), manner)
        return True

    def _carry_home(self, volume: str, element: Element, manner: Manner) -> None:
        """A cartridge that the robot never brought, or that somebody took, stays where it is."""
        if element.barcode != volume:
            return
        home = self._house.robot.home_of(element.address)
        if home is None:
            raise RobotError("no slot is free for its cartridge")
        self._house.robot.move(element.address, home, manner=manner)
