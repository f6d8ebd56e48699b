"""Which volumes and which devices a request gets: all that it asks for, in one decision, or nothing and why.

No clock, no thread, and nothing is changed here. A scratch volume is a blank cartridge in a storage slot, so nothing is
ever overwritten unasked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

from appliance.access.keys import DriveGroup, group_number
from appliance.broker.requests import Request, RequestedUnit, Wanted
from scsi_targets.devices.unit.principal import Permission
from vlib_images.cartridge.medium import MEDIA, can_read, can_write
from vlib_images.library.elements import Element, ElementType
from vlib_images.library.inventory import Inventory

if TYPE_CHECKING:
    from scsi_targets.devices.tape.tape_drive import TapeDrive

LOOK_SECONDS: Final = 0.05
STILL_LOOKING: Final = "the library still looks which of its cartridges are blank"
NO_BLANK: Final = "no blank cartridge that fits a free drive is in a storage slot"
IN_NO_POOL: Final = f"{NO_BLANK} and in no pool; cartridges of a pool are had by its name"


class Stock(Protocol):
    """What there is to choose from."""

    drives: dict[str, TapeDrive]

    def drive_addresses(self) -> dict[str, int]:
        """The drives by name, with their element addresses."""

    def gate_luns(self) -> dict[str, int]:
        """What stands behind the gate by name, with its LUN there: drives, and devices that only grants show."""

    def groups(self) -> Mapping[str, Sequence[str]]:
        """The groups of drives by name; "all" among them."""

    def for_grants(self, address: int, /) -> bool:
        """Whether an element is at the disposal of grants: in no partition, where the library is cut into such."""

    def pool_of(self, barcode: str, /) -> str | None:
        """The pool that a cartridge is in; None: in none."""

    def look_at(self, barcodes: Sequence[str], seconds: float, /) -> bool:
        """Finds out which cartridges are blank, in so much time; whether all of them are known."""

    def blank(self, barcode: str, /) -> str | None:
        """The medium of a cartridge that is known to be blank."""

    def look_again_at(self, barcode: str, /) -> bool:
        """Whether a cartridge is blank, from its own files."""

    def medium(self, barcode: str, /) -> str | None:
        """What kind of medium a cartridge is; None: it cannot be read."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a request gets nothing now, for an operator. kept: free drives that it will take together with others once
    those are given back, so that nobody who came later takes them away."""

    reason: str
    kept: frozenset[str] = frozenset()


class Selection:
    """For decisions that follow each other until something is granted or given back: what is held and what is free is
    looked up once, however many requests wait."""

    def __init__(self, stock: Stock, inventory: Inventory, requests: Iterable[Request]) -> None:
        self._stock, self._inventory = stock, inventory
        self._luns, self._looked_at = stock.gate_luns(), dict[str, bool]()
        self.looking = False  # whether not all cartridges are known yet
        held = [unit for request in requests if request.state.holds for unit in request.units]
        self._volumes = {unit.volume for unit in held}
        self._taken = {unit.device for unit in held}
        self._written = {unit.device for unit in held if Permission.WRITE_DATA in unit.permissions}
        behind = [name for name in stock.drive_addresses() if name in self._luns]
        self._free = [name for name in behind if self._is_free(name)]
        self._empty = [name for name in self._free if self._holds(name) is None]
        self._granted = [name for name in behind if name in self._taken]

    def keep(self, drives: Collection[str]) -> None:
        """For the request at hand, whoever asks after it."""
        self._free = [name for name in self._free if name not in drives]
        self._empty = [name for name in self._empty if name not in drives]

    def _is_free(self, name: str) -> bool:
        """Nobody else's, and used by nobody without a grant; what it holds is looked at elsewhere."""
        drive = self._stock.drives.get(name)
        return name not in self._taken and drive is not None and drive.in_use() is None

    def choose(self, wanted: Sequence[Wanted]) -> tuple[RequestedUnit, ...] | Wait:
        """The units in the order of what is wanted, each with its device; or why there is nothing to be chosen now."""
        for each in wanted:
            if (reason := self._missing(each)) is not None:
                return Wait(reason)
        devices = matched([self._devices(each, self._empty) for each in wanted])
        return self._units(wanted, devices) if devices is not None else self._wait_for_drives(wanted)

    def _wait_for_drives(self, wanted: Sequence[Wanted]) -> Wait:
        one = "no drive that fits is free" if len(wanted) == 1 else f"no {len(wanted)} drives that fit are free at once"
        if not self._empty:
            return Wait(one)
        later = [self._devices(each, [*self._empty, *self._granted]) for each in wanted]
        if matched(later) is None:  # not even when all grants end
            return Wait(one)
        return Wait(one, frozenset(name for names in later for name in names if name in self._empty))

    def volumes_only(self, wanted: Sequence[Wanted], priority: int) -> tuple[RequestedUnit, ...] | Wait:
        """The same, but the gate is to choose the drives: volumes that some drive of the group takes. What is no drive
        has its LUN."""
        units: list[RequestedUnit] = []
        for place, each in enumerate(wanted):
            if (reason := self._missing(each, by_gate=True)) is not None:
                return Wait(reason)
            if each.device is not None:
                units.append(RequestedUnit(self._luns[each.device], each.device, each.permissions))
                continue
            volume = self._volume(each, {*self._volumes, *(unit.volume for unit in units)})
            if volume is None:
                return Wait(self._no_blank(each) if each.volume is None else f"no drive takes cartridge {each.volume}")
            lun = DriveGroup(group_number(each.group), priority, place).lun
            units.append(RequestedUnit(lun, "", each.permissions, volume, lun))
        return tuple(units)

    def candidates(self, unit: RequestedUnit, group: str) -> list[str]:
        """The drives that the gate may choose from, the best first: the one that holds the volume, then those that the
        volume fits."""
        assert unit.volume is not None
        write = Permission.WRITE_DATA in unit.permissions
        element = self._inventory.find(unit.volume) if unit.volume in self._inventory else None
        names = self._group(group)
        if element is not None and element.type is ElementType.DRIVE:
            addresses = self._stock.drive_addresses()
            return [name for name in names if addresses.get(name) == element.address]
        return [name for name in names if self._fits(name, unit.volume, write=write)]

    def _volume(self, wanted: Wanted, taken: Collection[str | None]) -> str | None:
        names = self._group(wanted.group)
        if wanted.volume is None:
            blanks = (self._blank_for(name, taken, wanted.pool) for name in names)
            return next((found for found in blanks if found is not None), None)
        known = wanted.volume not in taken and wanted.volume in self._inventory
        fits = known and any(self._fits(name, wanted.volume, write=wanted.write) for name in names)
        return wanted.volume if fits and self._inventory.find(wanted.volume) is not None else None

    def _group(self, name: str) -> list[str]:
        """The drives of a group that are there."""
        members = self._stock.groups().get(name, ())
        return [drive for drive in self._stock.drive_addresses() if drive in members]

    def _units(self, wanted: Sequence[Wanted], devices: Sequence[str]) -> tuple[RequestedUnit, ...] | Wait:
        units: list[RequestedUnit] = []
        for each, device in zip(wanted, devices, strict=True):
            volume = each.volume
            if volume is None and each.device is None:
                volume = self._blank_for(device, {*self._volumes, *(unit.volume for unit in units)}, each.pool)
                if volume is None:
                    return Wait(self._no_blank(each))
            units.append(RequestedUnit(self._luns[device], device, each.permissions, volume))
        return tuple(units)

    def _missing(self, wanted: Wanted, *, by_gate: bool = False) -> str | None:
        """Why one of those wanted cannot be had whatever drive is free."""
        if wanted.device is not None:
            if wanted.device not in self._luns:
                return f"there is no device {wanted.device} just now"
            others = self._taken if wanted.write else self._written
            return f"{wanted.device} is granted to somebody else" if wanted.device in others else None
        if wanted.volume is None:
            if not self._empty and not by_gate:
                return None  # no drive is free: that is what it waits for
            names = self._group(wanted.group)
            able = any(self._blank_for(name, self._volumes, wanted.pool) is not None for name in names)
            return None if able else self._no_blank(wanted)
        if wanted.volume in self._volumes:
            return f"cartridge {wanted.volume} is granted to somebody else"
        element = self._inventory.find(wanted.volume) if wanted.volume in self._inventory else None
        if element is None:
            return f"cartridge {wanted.volume} is not in the library"
        if wanted.pool is not None and self._stock.pool_of(wanted.volume) != wanted.pool:
            return f"cartridge {wanted.volume} is not in pool {wanted.pool}"
        if not self._stock.for_grants(element.address):
            return f"cartridge {wanted.volume} is in a partition of the library"
        return self._missing_in(element, wanted) if element.type is ElementType.DRIVE else None

    def _missing_in(self, element: Element, wanted: Wanted) -> str | None:
        name = self._drive_at(element)
        if name in self._free and name in self._group(wanted.group):
            return None
        reason = None if name is None else self._stock.drives[name].in_use()
        return f"cartridge {wanted.volume} is in use in drive {element.index}" + (f": {reason}" if reason else "")

    def _devices(self, wanted: Wanted, empty: Sequence[str]) -> list[str]:
        """Which devices one of those wanted could be, of drives that are empty or will be."""
        if wanted.device is not None:
            return [wanted.device]
        among = [name for name in self._group(wanted.group) if name in empty]
        if wanted.volume is None:
            return [name for name in among if self._blank_for(name, self._volumes, wanted.pool) is not None]
        element = self._inventory.find(wanted.volume)
        if element is not None and element.type is ElementType.DRIVE:
            return [name] if (name := self._drive_at(element)) is not None else []
        return [name for name in among if self._fits(name, wanted.volume, write=wanted.write)]

    def _drive_at(self, element: Element) -> str | None:
        names = {address: name for name, address in self._stock.drive_addresses().items()}
        return names.get(element.address)

    def _holds(self, drive: str) -> str | None:
        """The barcode of what is in a drive."""
        return self._inventory.element(self._stock.drive_addresses()[drive]).barcode

    def _blank_for(self, drive: str, taken: Collection[str | None], pool: str | None) -> str | None:
        """The first blank cartridge of a pool (None: in no pool) in a slot that a drive can write: found in memory,
        then looked at itself."""
        generation = self._stock.drives[drive].model.generation
        for barcode, medium in self._blanks.get(pool, ()):
            if barcode in taken or not can_write(generation, MEDIA[medium]):
                continue
            if barcode not in self._looked_at:
                self._looked_at[barcode] = self._stock.look_again_at(barcode)
            if self._looked_at[barcode]:
                return barcode
        return None

    @cached_property
    def _blanks(self) -> dict[str | None, list[tuple[str, str]]]:
        """By pool (None: in none), in the order of the slots. A library that has just started looks at its cartridges
        bit by bit, so that nobody waits for all of them."""
        slots = self._inventory.elements(ElementType.STORAGE)
        there = [each.barcode for each in slots if each.barcode is not None and self._stock.for_grants(each.address)]
        self.looking = not self._stock.look_at(there, LOOK_SECONDS)
        found: dict[str | None, list[tuple[str, str]]] = {}
        for barcode in there:
            if (medium := self._stock.blank(barcode)) is not None:
                found.setdefault(self._stock.pool_of(barcode), []).append((barcode, medium))
        return found

    def _no_blank(self, wanted: Wanted) -> str:
        if self.looking:
            return STILL_LOOKING
        if wanted.pool is not None:
            return f"{NO_BLANK} and in pool {wanted.pool}"
        return IN_NO_POOL if self._blanks.keys() - {None} else NO_BLANK

    def _fits(self, drive: str, barcode: str, *, write: bool) -> bool:
        medium = MEDIA.get(self._stock.medium(barcode) or "")
        generation = self._stock.drives[drive].model.generation
        return medium is not None and (can_write if write else can_read)(generation, medium)


def matched(options: Sequence[Sequence[str]]) -> list[str] | None:
    """One device for each of the options, no device twice, the first that is free before others; None: there is no such
    choice. A device that was given is given to another when its first owner can have a different one (augmenting
    paths)."""
    owners: dict[str, int] = {}

    def place(number: int, seen: set[str]) -> bool:
        for device in sorted(options[number], key=owners.__contains__):
            if device in seen:
                continue
            seen.add(device)
            if device not in owners or place(owners[device], seen):
                owners[device] = number
                return True
        return False

    if not all(place(number, set()) for number in range(len(options))):
        return None
    return sorted(owners, key=owners.__getitem__)
