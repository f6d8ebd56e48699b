"""The media changer's state that all its commands share: its partition, the one robot, what initiators are told."""

from __future__ import annotations

import errno
from collections.abc import Collection, Set

from scsi_targets.devices.changer.models import find_model
from scsi_targets.devices.changer.robot import Move, Robot
from scsi_targets.devices.changer.statistics import ChangerStatistics
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import Row
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.prevention import RemovalPrevention
from scsi_targets.devices.unit.state_store import StateStore
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.fields import Bits
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.elements import ElementType, NoSuchElement
from vlib_images.library.partition import Partition


class ChangerBase(Device):
    """Initiators see the partition's elements by the partition's own addresses, and nothing of the rest of the library.
    All that happens to its elements and was not asked for here they are told."""

    device_type = vpd.MEDIA_CHANGER
    removable = True
    version_descriptors = (vpd.SAM_5, vpd.SPC_4, vpd.ISCSI, vpd.SMC_3)
    prevention: RemovalPrevention  # of the finished media changer

    def __init__(self, partition: Partition, robot: Robot, *, store: StateStore | None, state_key: str) -> None:
        """ValueError: a malformed serial number. KeyError: there is no such model."""
        self.partition = partition
        self.robot = robot
        self.model = find_model(partition.model)
        identity = Identity(self.model.vendor, self.model.product, self.model.revision, partition.serial_number)
        super().__init__(identity, store=store, state_key=state_key)
        self.statistics = ChangerStatistics(self.store, f"{state_key}/statistics")

    def show(self, partition: Partition, changed: Set[ElementType]) -> None:
        """From now on this is its partition, where elements of the `changed` types are others or have other addresses;
        then initiators are told that elements (28/00 or 28/01) and mode pages (2A/01) have changed. ValueError: another
        model or serial number, which are a logical unit's for its life."""
        if (partition.model, partition.serial_number) != (self.partition.model, self.partition.serial_number):
            raise ValueError(f"partition {partition.name} is not what this media changer was made for")
        exits = ElementType.IMPORT_EXPORT in changed
        code = sense.IMPORT_OR_EXPORT_ELEMENT_ACCESSED if exits else sense.MEDIUM_MAY_HAVE_CHANGED
        with self.lock:
            self.partition = partition
            for each in (code, sense.MODE_PARAMETERS_CHANGED) if changed else ():
                self.tell_others(None, each)

    def inside(self, address: int, field: Bits) -> int:
        """The inventory's address of an element that stores cartridges, by the address that `field` of a CDB has.
        Raises CheckCondition: there is none in this partition; the transport stores nothing, as mode page 1Fh says."""
        try:
            inside = self.partition.inside(address)
        except NoSuchElement:
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS, field) from None
        if address in self.partition.layout.transport:
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS, field)
        return inside

    def storage_failure(self, row: Row, error: Exception) -> CheckCondition | None:
        """The inventory could not be written: nothing has moved."""
        if not isinstance(error, OSError):
            return super().storage_failure(row, error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return CheckCondition(sense.INSUFFICIENT_RESOURCES if full else sense.LOGICAL_UNIT_FAILURE)

    # ---- what the robot tells (Watcher) ----------------------------------------------------------------------------

    def locks(self, address: int) -> bool:
        """Whether a host has locked this import/export element."""
        return self.prevention.prevents and self.partition.outside(address) is not None

    def reserved(self, address: int) -> str | None:
        """Who has reserved this media changer, when the element is its own."""
        return self.reservations.held_by() if self.partition.outside(address) is not None else None

    def admits(self, barcode: str, address: int) -> bool:
        """Whether the partition's barcode rule lets a cartridge into this element; of others it says nothing."""
        return self.partition.outside(address) is None or self.partition.admits(barcode)

    def moved(self, moves: list[Move], by: object) -> None:
        """Counts; and what its own initiators did not ask for, they are told."""
        ends = self._own({address for move in moves for address in move})
        if ends:
            self.statistics.moved(len(moves))
            if by is not self:
                self._tell_of(ends)

    def accessed(self, addresses: Collection[int]) -> None:
        """The operator reached into the library."""
        if own := self._own(addresses):
            code = self._tell_of(own)
            self.statistics.opened(import_export=code is sense.IMPORT_OR_EXPORT_ELEMENT_ACCESSED)

    def _own(self, addresses: Collection[int]) -> list[int]:
        return [address for address in addresses if self.partition.outside(address) is not None]

    def _tell_of(self, addresses: list[int]) -> sense.SenseCode:
        exits = self.partition.elements[ElementType.IMPORT_EXPORT]
        import_export = any(address in exits for address in addresses)
        code = sense.IMPORT_OR_EXPORT_ELEMENT_ACCESSED if import_export else sense.MEDIUM_MAY_HAVE_CHANGED
        self.tell_others(None, code)
        return code
