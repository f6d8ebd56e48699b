"""The media changer (SMC-3): a library's robot, its elements and its inventory as a logical unit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from scsi_targets.devices.changer.models import ChangerModel
from scsi_targets.devices.changer.robot import (
    Cartridge,
    DriveBay,
    Incompatible,
    RemovalPrevented,
    Robot,
    RobotError,
)
from scsi_targets.devices.changer.search import VolumeTagSearch
from scsi_targets.devices.changer.statistics import ChangerStatistics
from scsi_targets.devices.changer.status import ElementStatus, element_status, select
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, handles
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.logical_unit import StateStore
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import log_page
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense, smc, spc, vpd
from scsi_targets.t10.fields import Bits
from scsi_targets.t10.log_pages import LogParameter
from scsi_targets.t10.mode_pages import ControlModePage, InformationalExceptionsModePage, ModePage
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.inventory import (
    Element,
    ElementEmpty,
    ElementFull,
    ElementType,
    Inventory,
    InventoryError,
    NoSuchElement,
)

# A drive is NOT READY with such a medium; the changer refuses to move it there.
INCOMPATIBLE_MEDIUM = sense.INCOMPATIBLE_MEDIUM._replace(key=sense.ILLEGAL_REQUEST)
# A real library's slowest move takes minutes: rewind, unload, robot, load.
MOVE_TIMEOUT_SECONDS = 900


class MediaChanger(Device):
    """A library as `model` says. `drives` maps element address to tape drive (see DriveBay).

    open_cartridge: opens a cartridge by barcode for a drive; the changer closes what comes back from a drive.
    Drives that hold a cartridge according to the inventory are loaded by the constructor.
    """

    device_type = vpd.MEDIA_CHANGER
    removable = True
    version_descriptors = (vpd.SAM_5, vpd.SPC_4, vpd.ISCSI, vpd.SMC_3)

    def __init__(
        self,
        model: ChangerModel,
        serial_number: str,
        inventory: Inventory,
        drives: Mapping[int, DriveBay],
        open_cartridge: Callable[[str], Cartridge],
        *,
        store: StateStore | None = None,
        state_key: str = "changer",
    ) -> None:
        """ValueError: `drives` are not at the addresses of the inventory's layout, or a malformed serial number."""
        self.model = model
        self.inventory = inventory
        identity = Identity(model.vendor, model.product, model.revision, serial_number)
        super().__init__(identity, store=store, state_key=state_key)
        self.robot = Robot(
            inventory,
            drives,
            open_cartridge,
            unloads_drives=model.unloads_drives,
        )
        self.statistics = ChangerStatistics(self.store, f"{state_key}/statistics")
        self._search = VolumeTagSearch()
        self._prevented_by: set[Nexus] = set()
        self.attach()

    # ---- for the library's operator --------------------------------------------------------------------------------

    def move(self, source: int, destination: int) -> str:
        """Moves a cartridge between elements and returns its barcode. Raises InventoryError, RobotError, OSError."""
        barcode = self.robot.move(source, destination)
        self.statistics.moved(1)
        return barcode

    def exchange(self, source: int, first_destination: int, second_destination: int) -> tuple[str, str]:
        """Moves source to first_destination and what was there to second_destination. Raises as move() does."""
        barcodes = self.robot.exchange(source, first_destination, second_destination)
        self.statistics.moved(2)
        return barcodes

    def insert(self, barcode: str, address: int) -> None:
        """The operator puts a cartridge from the shelf into a slot or import/export element; initiators learn of it.

        Raises InventoryError, OSError, RemovalPrevented (a host locked these elements, or it is a drive)."""
        code = self._operator_access(address)
        self.inventory.insert(barcode, address)
        self._accessed(code)

    def add_all(self, cartridges: Collection[tuple[str, int | None]]) -> Iterator[int]:
        """The operator puts new cartridges in, each into a slot or import/export element or (None) on the shelf; yields
        how many are in, batch by batch. Initiators learn of it once. Raises as insert() does."""
        codes = {self._operator_access(address) for _, address in cartridges if address is not None}
        yield from self.inventory.add_all(cartridges)
        for code in codes:
            self._accessed(code)

    def remove(self, address: int) -> str:
        """The operator takes a cartridge out of a slot or import/export element, to the shelf; returns its barcode.
        Raises as insert() does."""
        code = self._operator_access(address)
        barcode = self.inventory.remove(address)
        self._accessed(code)
        return barcode

    def _operator_access(self, address: int) -> sense.SenseCode:
        kind = self.inventory.element(address).type
        if kind in (ElementType.DRIVE, ElementType.TRANSPORT):
            raise RemovalPrevented(f"element {address} is a {kind.name.lower()}: only the robot reaches it")
        if kind is ElementType.STORAGE:
            return sense.MEDIUM_MAY_HAVE_CHANGED
        if self._prevented_by:
            raise RemovalPrevented("a host has locked the import/export elements (PREVENT ALLOW MEDIUM REMOVAL)")
        return sense.IMPORT_OR_EXPORT_ELEMENT_ACCESSED

    def _accessed(self, code: sense.SenseCode) -> None:
        self.statistics.opened(import_export=code is sense.IMPORT_OR_EXPORT_ELEMENT_ACCESSED)
        self.tell_others(None, code)

    # ---- element status --------------------------------------------------------------------------------------------

    @handles(smc.InitializeElementStatus, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def initialize_element_status(self, cdb: smc.InitializeElementStatus, task: Task) -> None:
        # The inventory is always current: there is no door through which a cartridge could come unseen.
        self.statistics.scanned()

    @handles(smc.InitializeElementStatusWithRange, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    @handles(smc.InitializeElementStatusWithRangeVendor, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def initialize_element_status_with_range(
        self, cdb: smc.InitializeElementStatusWithRange | smc.InitializeElementStatusWithRangeVendor, task: Task
    ) -> None:
        if cdb.range:
            self._element(cdb.starting_element_address, type(cdb).starting_element_address)
        self.statistics.scanned()

    # Allowed whoever holds the reservation when it neither moves anything nor asks a drive (SMC-3 table 8).
    @handles(smc.ReadElementStatus, reservation=ALLOWED)
    def read_element_status(self, cdb: smc.ReadElementStatus, task: Task) -> Response:
        if not cdb.current_data or cdb.device_identifier:
            self.check_reservation(task.nexus, CONFLICTS)
        _check_type(cdb.element_type_code, smc.ReadElementStatus.element_type_code)
        chosen = select(
            self.inventory.elements(), cdb.element_type_code, cdb.starting_element_address, cdb.number_of_elements
        )
        data = element_status(
            self._statuses(chosen),
            cdb.allocation_length,
            volume_tag=bool(cdb.volume_tag),
            identifier=self.model.drive_identifier if cdb.device_identifier else None,
        )
        return reply(data, cdb.allocation_length)

    @handles(smc.SendVolumeTag)
    def send_volume_tag(self, cdb: smc.SendVolumeTag, task: Task) -> None:
        _check_type(cdb.element_type_code, smc.SendVolumeTag.element_type_code)
        field = smc.SendVolumeTag.parameter_list_length
        template = parameter_list(task, cdb.parameter_list_length, field, minimum=smc.VolumeTagTemplate.length)
        self._search.start(task.nexus, cdb, template)

    @handles(smc.RequestVolumeElementAddress)
    def request_volume_element_address(self, cdb: smc.RequestVolumeElementAddress, task: Task) -> Response:
        _check_type(cdb.element_type_code, smc.RequestVolumeElementAddress.element_type_code)
        action, found = self._search.find(task.nexus, self.inventory.elements())
        chosen = select(found, cdb.element_type_code, cdb.starting_element_address, cdb.number_of_elements)
        data = element_status(
            self._statuses(chosen),
            cdb.allocation_length,
            volume_tag=bool(cdb.volume_tag),
            identifier=None,
            send_action_code=action,
        )
        return reply(data, cdb.allocation_length)

    def _statuses(self, elements: list[Element]) -> list[ElementStatus]:
        drives, faults = self.robot.drives, self.robot.faults
        return [
            ElementStatus(
                element,
                self.robot.accessible(element),
                faults.get(element.address),
                drives[element.address].identity if element.address in drives else None,
            )
            for element in elements
        ]

    # ---- moving ----------------------------------------------------------------------------------------------------

    @handles(smc.MoveMedium, slow=True, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def move_medium(self, cdb: smc.MoveMedium, task: Task) -> None:
        self._check_transport(cdb.transport_element_address, smc.MoveMedium.transport_element_address)
        for field in (smc.MoveMedium.source_element_address, smc.MoveMedium.destination_element_address):
            self._element(getattr(cdb, field.name), field)
        _refuse_inverting(cdb, smc.MoveMedium.invert)
        with self._refusals():
            self.move(cdb.source_element_address, cdb.destination_element_address)

    @handles(smc.ExchangeMedium, slow=True, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def exchange_medium(self, cdb: smc.ExchangeMedium, task: Task) -> None:
        self._check_transport(cdb.transport_element_address, smc.ExchangeMedium.transport_element_address)
        for field in (
            smc.ExchangeMedium.source_element_address,
            smc.ExchangeMedium.first_destination_element_address,
            smc.ExchangeMedium.second_destination_element_address,
        ):
            self._element(getattr(cdb, field.name), field)
        _refuse_inverting(cdb, smc.ExchangeMedium.invert_1, smc.ExchangeMedium.invert_2)
        with self._refusals():
            self.exchange(
                cdb.source_element_address,
                cdb.first_destination_element_address,
                cdb.second_destination_element_address,
            )

    @handles(smc.PositionToElement, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def position_to_element(self, cdb: smc.PositionToElement, task: Task) -> None:
        # Nothing has a position that a later command would depend on; the addresses are checked as a library does.
        self._check_transport(cdb.transport_element_address, smc.PositionToElement.transport_element_address)
        self._element(cdb.destination_element_address, smc.PositionToElement.destination_element_address)
        _refuse_inverting(cdb, smc.PositionToElement.invert)

    def _element(self, address: int, field: Bits) -> Element:
        try:
            element = self.inventory.element(address)
        except NoSuchElement:
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS, field) from None
        if element.type is ElementType.TRANSPORT:  # which stores nothing, as mode page 1Fh says
            raise CheckCondition(sense.INVALID_ELEMENT_ADDRESS, field)
        return element

    def _check_transport(self, address: int, field: Bits) -> None:
        if address and address not in self.inventory.layout.transport:  # 0: the default transport (SMC-3 6.8)
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

    # ---- preventing the operator's access ----------------------------------------------------------------------------

    @handles(spc.PreventAllowMediumRemoval, reservation=ALLOWED)
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
        return {
            ControlModePage: {},
            InformationalExceptionsModePage: {},
            smc.ElementAddressAssignmentModePage: self._element_addresses(),
            smc.TransportGeometryModePage: {},
            smc.DeviceCapabilitiesModePage: self._capabilities(),
        }

    def _element_addresses(self) -> dict[str, int]:
        names = {
            ElementType.TRANSPORT: "transport",
            ElementType.STORAGE: "storage",
            ElementType.IMPORT_EXPORT: "import_export",
            ElementType.DRIVE: "data_transfer",
        }
        values: dict[str, int] = {}
        for kind, addresses in self.inventory.layout.ranges():
            values[f"first_{names[kind]}_element_address"] = addresses.start if addresses else 0
            values[f"number_of_{names[kind]}_elements"] = len(addresses)
        return values

    def _capabilities(self) -> dict[str, int]:
        layout = self.inventory.layout
        present = {"data_transfer": layout.drives, "import_export": layout.import_export, "storage": layout.storage}
        reach = sum(bit for bit, name in ((8, "data_transfer"), (4, "import_export"), (2, "storage")) if present[name])
        values: dict[str, int] = {}
        for name in (name for name, addresses in present.items() if addresses):
            values |= {f"store_{name}": 1, f"move_from_{name}": reach, f"exchange_from_{name}": reach}
        return values

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
