"""What the robot works on: the elements, the drives, and the media changers that show them by partitions; and how that
changes while it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from scsi_targets.devices.changer.robot_terms import DriveBay, RobotError, Watcher
from scsi_targets.t10.sense import SenseCode
from vlib_images.library.elements import ElementType, Layout, NoSuchElement
from vlib_images.library.fair_lock import ReentrantFairLock
from vlib_images.library.homes import home_of
from vlib_images.library.inventory import Inventory
from vlib_images.library.partition import Partition

Drive = TypeVar("Drive")
LOOK_AGAIN_SECONDS = 0.0005


class Fitting:
    """`drives` maps the inventory's addresses to drives. faults: element address to sense code, for elements whose
    cartridge could not be loaded. turn: nobody else moves a cartridge while it is held."""

    def __init__(self, inventory: Inventory, drives: Mapping[int, DriveBay]) -> None:
        """ValueError: `drives` and the inventory's layout do not have the same addresses."""
        if sorted(drives) != sorted(inventory.layout.drives):
            raise ValueError(f"drives at {sorted(drives)}, but the layout has them at {list(inventory.layout.drives)}")
        self.inventory = inventory
        self.drives = dict(drives)
        self.faults: dict[int, SenseCode] = {}
        self.turn = ReentrantFairLock()  # no partition keeps another one waiting for more than a move
        self._watchers: list[Watcher] = []
        self._fits = 0  # odd while refit() changes elements

    def watch(self, watcher: Watcher) -> None:
        """From now on `watcher` is told what happens, and asked whether a host has locked an element; the drives of its
        partition are shown by it."""
        self._watchers.append(watcher)
        self._install_drives()

    def refit(
        self,
        layout: Layout,
        drives: Mapping[int, DriveBay],
        partitions: Sequence[tuple[Watcher, Partition]],
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        """The library has other elements and drives from now on, and these media changers with these partitions, all at
        once between two moves. A drive that holds a cartridge stays what it is, the second being the second still.
        keep: called before anything changes and when nothing else can object any more, to make it durable.

        Raises what keep() raises; InventoryError, RobotError: a cartridge would lose its element or its drive;
        ValueError as the constructor. Then nothing has changed."""
        if sorted(drives) != sorted(layout.drives):
            raise ValueError(f"drives at {sorted(drives)}, but the layout has them at {list(layout.drives)}")
        with self.turn:
            places = {address: self.inventory.layout.place_of(address) for address in [*self.drives, *self.faults]}
            moved = {address: layout.address_of(place) for address, place in places.items()}
            for address, drive in self.drives.items():
                held = self.inventory.element(address)
                if held.barcode is not None and drives.get(-1 if (new := moved[address]) is None else new) is not drive:
                    raise RobotError(f"drive {held.index} holds cartridge {held.barcode}; unload it first")
            self.inventory.check_refit(layout)
            keep()
            self._fits += 1
            try:
                self._fit(layout, drives, partitions, moved)
            finally:
                self._fits += 1

    def _fit(
        self,
        layout: Layout,
        drives: Mapping[int, DriveBay],
        partitions: Sequence[tuple[Watcher, Partition]],
        moved: Mapping[int, int | None],
    ) -> None:
        """moved: the addresses of drives and faults, and their new ones."""
        layout_before = self.inventory.layout
        self.inventory.refit(layout)
        for drive in self.drives.values():
            if drive not in drives.values():
                drive.installed("", None)
        self.drives = dict(drives)
        self.faults = {new: code for old, code in self.faults.items() if (new := moved[old]) is not None}
        self._watchers = [watcher for watcher, _ in partitions]
        for watcher, partition in partitions:
            if partition != (before := watcher.partition):
                watcher.show(partition, partition.changed_kinds(layout, before, layout_before))
        self._install_drives()

    def steadily(self, look: Callable[[], Drive]) -> Drive:
        """What look() finds of the elements, where no refit() changed them under it: then it looks again. It waits for
        no move, and for a refit only as long as memory takes."""
        while True:
            fits = self._fits
            if fits % 2:
                time.sleep(LOOK_AGAIN_SECONDS)
                continue
            try:
                found = look()
            except (NoSuchElement, LookupError):
                if fits == self._fits:
                    raise
                continue
            if fits == self._fits:
                return found

    def partition_of(self, address: int) -> str | None:
        """The partition that an element is in. None: in none, only operators reach it."""
        return next(iter(self._partitions_of(address)), None)

    def together(self, one: int, other: int) -> bool:
        """Whether a cartridge moves between two elements without leaving its partition, or both are in none."""
        return self._partitions_of(one) == self._partitions_of(other)

    def home_of(self, address: int) -> int | None:
        """Where the cartridge of a drive goes: where it came from, when that is free and in the drive's partition, else
        into a free slot of that. None: all are full."""
        own, others = self._split(address)
        layout = self.inventory.layout
        among = set(own) if own else {*layout.storage, *layout.import_export}.difference(others)
        return home_of(self.inventory, self.inventory.element(address), among)

    def _split(self, address: int) -> tuple[list[int], list[int]]:
        """The slots and import/export elements of the partition of an element, and those of all partitions."""
        own, all_ = list[int](), list[int]()
        for partition in (watcher.partition for watcher in self._watchers):
            members = [*partition.elements[ElementType.STORAGE], *partition.elements[ElementType.IMPORT_EXPORT]]
            all_ += members
            own += members if partition.outside(address) is not None else []
        return own, all_

    def _partitions_of(self, address: int) -> list[str]:
        """One at most; several where tests cut none."""
        names = ((watcher.partition.outside(address), watcher.partition.name) for watcher in self._watchers)
        return [name for outside, name in names if outside is not None]

    def _crossing(self, source: int, destination: int) -> tuple[str | None, str | None] | None:
        """The partitions of both ends where they are not the same."""
        if self._partitions_of(source) == self._partitions_of(destination):
            return None
        return self.partition_of(source), self.partition_of(destination)

    def _install_drives(self) -> None:
        """Tells each drive which media changer shows it now, and by which address."""
        shown: dict[int, tuple[str, int]] = {}
        for partition in (watcher.partition for watcher in self._watchers):
            for member, address in zip(partition.elements[ElementType.DRIVE], partition.layout.drives, strict=True):
                shown[member] = partition.serial_number, address
        for address, drive in self.drives.items():
            drive.installed(*shown.get(address, ("", None)))
