"""The media changer (SMC-3): a partition of the library as a logical unit, over the one robot."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from typing import Any

from scsi_targets.devices.changer.models import find_model
from scsi_targets.devices.changer.pages import mode_pages
from scsi_targets.devices.changer.robot import (
    Incompatible,
    Manner,
    Move,
    RemovalPrevented,
    Robot,
    RobotError,
)
from scsi_targets.devices.changer.search import VolumeTagSearch
from scsi_targets.devices.changer.statistics import ChangerStatistics
from scsi_targets.devices.changer.status import ElementStatus, Page, element_status, pick, select
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, Row, handles
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.logical_unit import StateStore
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import log_page
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense, smc, spc, vpd
from scsi_targets.t10.fields import Bits
from scsi_targets.t10.log_pages import LogParameter
from scsi_targets.t10.mode_pages import ModePage
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.elements import ElementEmpty, ElementFull, ElementType, InventoryError, NoSuchElement
from vlib_images.library.partition import Partition

# A drive is NOT READY with such a medium; the changer refuses to move it there.
INCOMPATIBLE_MEDIUM = sense.INCOMPATIBLE_MEDIUM._replace(key=sense.ILLEGAL_REQUEST)
# The file system that keeps the inventory is full: the library failed, not what the initiator asked for.
INVENTORY_FULL = sense.INSUFFICIENT_RESOURCES._replace(key=sense.HARDWARE_ERROR)
# A real library's slowest move takes minutes: rewind, unload, robot, load.
MOVE_TIMEOUT_SECONDS = 900


class MediaChanger(Device):
    """The media changer of a partition. Initiators see the partition's elements by the partition's own addresses, and
    nothing of the rest of the library. All that happens to its elements and was not asked for here they are told."""

    device_type = vpd.MEDIA_CHANGER
    removable = True
    version_descriptors = (vpd.SAM_5, vpd.SPC_4, vpd.ISCSI, vpd.SMC_3)

    def __init__(
        self, partition: Partition, robot: Robot, *, store: StateStore | None = None, state_key: str = "changer"
    ) -> None:
        """ValueError: a malformed serial number. KeyError: there is no such model."""
        self.partition = partition
        self.robot = robot
        self.model = find_model(partition.model)
        identity = Identity(self.model.vendor, self.model.product, self.model.revision, partition.serial_number)
        super().__init__(identity, store=store, state_key=state_key)
        self.statistics = ChangerStatistics(self.store, f"{state_key}/statistics")
        self._search = VolumeTagSearch()
        self._prevented_by: set[Nexus] = set()
        self._manner = Manner.HOST if self.model.unloads_drives else Manner.UNLOADED
        self.attach()
        robot.watch(self)

    def standard_inquiry_data(self, task: Task) -> bytes:
        """With the model's own bits."""
        data = bytearray(super().standard_inquiry_data(task))
        for byte, bits in self.model.inquiry_bits:
            data[byte] |= bits
        return bytes(data)

    # ---- what the robot tells (Watcher) ----------------------------------------------------------------------------

    def locks(self, address: int) -> bool:
        """Whether a host has locked this import/export element."""
        return bool(self._prevented_by) and self.partition.outside(address) is not None

    def admits(self, barcode: str, address: int) -> bool:
        """Whether the partition's barcode rule lets a cartridge into this element; of others it says nothing."""
        return self.partition.outside(address) is None or self.partition.admits(barcode)

    def moved(self, moves: list[Move], by: object) -> None:
        """Counts; and what its own initiators did not ask for, they are told."""
        ends = {address for move in moves for address in move if self.partition.outside(address) is not None}
        if not ends:
            return
        self.statistics.moved(len(moves))
        if by is not self:
            self._tell_of(ends)

    def accessed(self, addresses: Collection[int]) -> None:
        """The operator reached into the library."""
        own = {address for address in addresses if self.partition.outside(address) is not None}
        if own:
            code = self._tell_of(own)
            self.statistics.opened(import_export=code is sense.IMPORT_OR_EXPORT_ELEMENT_ACCESSED)

    def _tell_of(self, addresses: set[int]) -> sense.SenseCode:
        import_export = any(
            self.robot.inventory.element(address).type is ElementType.IMPORT_EXPORT for address in addresses
        )
        code = sense.IMPORT_OR_EXPORT_ELEMENT_ACCESSED if import_export else sense.MEDIUM_MAY_HAVE_CHANGED
        self.tell_others(None, code)
        return code

    # ---- element status --------------------------------------------------------------------------------------------

    @handles(smc.InitializeElementStatus, permission=Permission.MOVE, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def initialize_element_status(self, cdb: smc.InitializeElementStatus, task: Task) -> None:
        # The inventory is always current: there is no door through which a cartridge could come unseen.
        self.statistics.scanned()

    @handles(smc.InitializeElementStatusWithRange, permission=Permission.MOVE, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    @handles(
        smc.InitializeElementStatusWithRangeVendor, permission=Permission.MOVE, timeout_seconds=MOVE_TIMEOUT_SECONDS
    )
    def initialize_element_status_with_range(
        self, cdb: smc.InitializeElementStatusWithRange | smc.InitializeElementStatusWithRangeVendor, task: Task
    ) -> None:
        if cdb.range:
            self._inside(cdb.starting_element_address, type(cdb).starting_element_address)
        self.statistics.scanned()

    # Allowed whoever holds the reservation when it neither moves anything nor asks a drive (SMC-3 table 8). It takes
    # long in a large library, so it holds nobody up, and waits for no move.
    @handles(smc.ReadElementStatus, reservation=ALLOWED, concurrent=True, while_busy=True)
    def read_element_status(self, cdb: smc.ReadElementStatus, task: Task) -> Response:
        if not cdb.current_data or cdb.device_identifier:
            self.check_reservation(task.nexus, CONFLICTS)
        _check_type(cdb.element_type_code, smc.ReadElementStatus.element_type_code)
        data = element_status(
            select(
                self.partition.layout,
                cdb.element_type_code,
                cdb.starting_element_address,
                cdb.number_of_elements,
            ),
            cdb.allocation_length,
            self._describe,
            volume_tag=bool(cdb.volume_tag),
            identifier=self.model.drive_identifier if cdb.device_identifier else None,
            identities=self._identities,
        )
        return reply(data, cdb.allocation_length)

    @handles(smc.SendVolumeTag)
    def send_volume_tag(self, cdb: smc.SendVolumeTag, task: Task) -> None:
        _check_type(cdb.element_type_code, smc.SendVolumeTag.element_type_code)
        field = smc.SendVolumeTag.parameter_list_length
        template = parameter_list(task, cdb.parameter_list_length, field, minimum=smc.VolumeTagTemplate.length)
        self._search.start(task.nexus, cdb, template)

    @handles(smc.RequestVolumeElementAddress, concurrent=True)
    def request_volume_element_address(self, cdb: smc.RequestVolumeElementAddress, task: Task) -> Response:
        _check_type(cdb.element_type_code, smc.RequestVolumeElementAddress.element_type_code)
        search = self._search.of(task.nexus)
        found = search.find(self.partition, self.robot.inventory)
        data = element_status(
            pick(
                self.partition.layout,
                found,
                cdb.element_type_code,
                cdb.starting_element_address,
                cdb.number_of_elements,
            ),
            cdb.allocation_length,
            self._describe,
            volume_tag=bool(cdb.volume_tag),
            send_action_code=search.action,
        )
        return reply(data, cdb.allocation_length)

    def _describe(self, page: Page) -> Iterator[ElementStatus]:
        """The elements of a page as they are now; a source outside the partition is unknown here."""
        elements = self.partition.look(self.robot.inventory, *page)
        accessible: Iterable[bool] = repeat(True)
        if page.kind is ElementType.DRIVE:
            accessible = [self.robot.accessible(element.address) for element in elements]
        faults, outside = self.robot.faults, self.partition.outside
        for address, element, reachable in zip(page.addresses, elements, accessible, strict=False):
            yield ElementStatus(
                address,
                element.barcode,
                None if element.source is None else outside(element.source),
                element.placed_by_operator,
                reachable,
                faults.get(element.address) if faults else None,
            )

    def _identities(self, page: Page) -> list[Identity]:
        return [self.robot.drives[address].identity for address in self.partition.members(*page)]

    # ---- moving ----------------------------------------------------------------------------------------------------

    @handles(smc.MoveMedium, permission=Permission.MOVE, slow=True, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def move_medium(self, cdb: smc.MoveMedium, task: Task) -> None:
        self._check_transport(cdb.transport_element_address, smc.MoveMedium.transport_element_address)
        source, destination = (
            self._inside(getattr(cdb, field.name), field)
            for field in (smc.MoveMedium.source_element_address, smc.MoveMedium.destination_element_address)
        )
        _refuse_inverting(cdb, smc.MoveMedium.invert)
        with self._refusals():
            self.robot.move(source, destination, manner=self._manner, by=self)

    @handles(smc.ExchangeMedium, permission=Permission.MOVE, slow=True, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def exchange_medium(self, cdb: smc.ExchangeMedium, task: Task) -> None:
        self._check_transport(cdb.transport_element_address, smc.ExchangeMedium.transport_element_address)
        source, first, second = (
            self._inside(getattr(cdb, field.name), field)
            for field in (
                smc.ExchangeMedium.source_element_address,
                smc.ExchangeMedium.first_destination_element_address,
                smc.ExchangeMedium.second_destination_element_address,
            )
        )
        _refuse_inverting(cdb, smc.ExchangeMedium.invert_1, smc.ExchangeMedium.invert_2)
        with self._refusals():
            self.robot.exchange(source, first, second, manner=self._manner, by=self)

    @handles(smc.PositionToElement, permission=Permission.MOVE, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def position_to_element(self, cdb: smc.PositionToElement, task: Task) -> None:
        # Nothing has a position that a later command would depend on; the addresses are checked as a library does.
        self._check_transport(cdb.transport_element_address, smc.PositionToElement.transport_element_address)
        self._inside(cdb.destination_element_address, smc.PositionToElement.destination_element_address)
        _refuse_inverting(cdb, smc.PositionToElement.invert)

    def _inside(self, address: int, field: Bits) -> int:
        """The inventory's address of an element that an initiator names by the partition's."""
        try:
            inside = self.partition.inside(address)
        except NoSuchElement:
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS, field) from None
        if address in self.partition.layout.transport:  # which stores nothing, as mode page 1Fh says
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS, field)
        return inside

    def _check_transport(self, address: int, field: Bits) -> None:
        if address and address not in self.partition.layout.transport:  # 0: the default transport (SMC-3 6.8)
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS, field)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the inventory and the robot say, in SCSI's words."""
        try:
            yield
        except ElementEmpty as error:
            raise CheckCondition(sense.MEDIUM_SOURCE_ELEMENT_EMPTY) from error
        except ElementFull as error:
            raise CheckCondition(sense.MEDIUM_DESTINATION_ELEMENT_FULL) from error
        except InventoryError as error:
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS) from error
        except RemovalPrevented as error:
            raise CheckCondition(sense.MEDIUM_REMOVAL_PREVENTED) from error
        except Incompatible as error:
            raise CheckCondition(INCOMPATIBLE_MEDIUM) from error
        except RobotError as error:
            self.statistics.failed()
            raise CheckCondition(sense.MEDIA_LOAD_OR_EJECT_FAILED) from error

    def storage_failure(self, row: Row, error: Exception) -> CheckCondition | None:
        """The inventory could not be written: nothing has moved."""
        if not isinstance(error, OSError):
            return super().storage_failure(row, error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return CheckCondition(INVENTORY_FULL if full else sense.LOGICAL_UNIT_FAILURE)

    # ---- preventing the operator's access ----------------------------------------------------------------------------

    @handles(spc.PreventAllowMediumRemoval, permission=Permission.MOVE, reservation=ALLOWED)
    def prevent_allow_medium_removal(self, cdb: spc.PreventAllowMediumRemoval, task: Task) -> None:
        if cdb.prevent:
            self.check_reservation(task.nexus, CONFLICTS)  # allowing is allowed (SMC-3 table 8)
        if cdb.prevent > 1:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.PreventAllowMediumRemoval.prevent)
        if cdb.prevent:
            self._prevented_by.add(task.nexus)
        else:
            self._prevented_by.discard(task.nexus)

    def on_reset(self) -> None:
        super().on_reset()
        self._prevented_by.clear()
        self._search.clear()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        super().on_nexus_lost(nexus)
        self._prevented_by.discard(nexus)
        self._search.forget(nexus)

    # ---- mode and log pages ------------------------------------------------------------------------------------------

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        return mode_pages(self.partition.layout)

    @log_page(0x14)
    def media_changer_statistics(self, nexus: Nexus) -> list[LogParameter]:
        """Media changer statistics log page (SMC-3 7.2.2)."""
        return self.statistics.parameters()

    @log_page(0x2E)
    def tape_alert(self, nexus: Nexus) -> list[LogParameter]:
        """TapeAlert log page (SMC-3 7.2.3); reading it clears the flags."""
        return self.statistics.take_tape_alerts()

    def reset_log_page(self, page: int, subpage: int) -> None:
        """LOG SELECT with PCR."""
        if page == 0x14:
            self.statistics.reset()


def _check_type(code: int, field: Bits) -> None:
    if code > smc.DATA_TRANSFER:
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)


def _refuse_inverting(cdb: Any, *fields: Bits) -> None:
    for field in fields:  # ROTATE of mode page 1Eh is zero: the transport cannot turn a medium over
        if getattr(cdb, field.name):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
