"""What initiators ask about the elements: READ ELEMENT STATUS, the volume tag search, INITIALIZE ELEMENT STATUS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING

from scsi_targets.devices.changer.search import VolumeTagSearch
from scsi_targets.devices.changer.status import ElementStatus, Page, element_status, pick, select
from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sense, smc
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.elements import ElementType

if TYPE_CHECKING:
    from scsi_targets.devices.changer.base import ChangerBase
    from scsi_targets.devices.changer.search import Search
    from scsi_targets.devices.unit.identity import Identity
    from scsi_targets.devices.unit.task import Nexus, Response, Task
    from scsi_targets.t10.fields import Bits
    from vlib_images.library.partition import Partition

# A library that scans its labels takes minutes.
SCAN_TIMEOUT_SECONDS = 900


class InventoryCommands(Part):
    """It reads the inventory only, and so waits for no move."""

    def __init__(self, changer: ChangerBase) -> None:
        self._changer = changer
        self._search = VolumeTagSearch()

    # Counts only, so no lock is held while the store keeps the count.
    @handles(
        smc.InitializeElementStatus, permission=Permission.MOVE, concurrent=True, timeout_seconds=SCAN_TIMEOUT_SECONDS
    )
    def initialize_element_status(self, cdb: smc.InitializeElementStatus, task: Task) -> None:
        # The inventory is always current: there is no door through which a cartridge could come unseen.
        self._changer.statistics.scanned()

    @handles(
        smc.InitializeElementStatusWithRange,
        permission=Permission.MOVE,
        concurrent=True,
        timeout_seconds=SCAN_TIMEOUT_SECONDS,
    )
    @handles(
        smc.InitializeElementStatusWithRangeVendor,
        permission=Permission.MOVE,
        concurrent=True,
        timeout_seconds=SCAN_TIMEOUT_SECONDS,
    )
    def initialize_element_status_with_range(
        self, cdb: smc.InitializeElementStatusWithRange | smc.InitializeElementStatusWithRangeVendor, task: Task
    ) -> None:
        if cdb.range:
            self._changer.inside(cdb.starting_element_address, type(cdb).starting_element_address)
        self._changer.statistics.scanned()

    # Allowed whoever holds the reservation when it neither moves anything nor asks a drive (SMC-3 table 8). It takes
    # long in a large library, so it holds nobody up, and waits for no move.
    @handles(smc.ReadElementStatus, reservation=ALLOWED, concurrent=True, while_busy=True)
    def read_element_status(self, cdb: smc.ReadElementStatus, task: Task) -> Response:
        if not cdb.current_data or cdb.device_identifier:
            self._changer.check_reservation(task.nexus, CONFLICTS)
        _check_type(cdb.element_type_code, smc.ReadElementStatus.element_type_code)
        data = self._changer.robot.steadily(lambda: self._status(self._changer.partition, cdb))
        return reply(data, cdb.allocation_length)

    def _status(self, partition: Partition, cdb: smc.ReadElementStatus) -> bytes:
        return element_status(
            select(partition.layout, cdb.element_type_code, cdb.starting_element_address, cdb.number_of_elements),
            cdb.allocation_length,
            lambda page: self._describe(partition, page),
            volume_tag=bool(cdb.volume_tag),
            identifier=self._changer.model.drive_identifier if cdb.device_identifier else None,
            identities=lambda page: self._identities(partition, page),
        )

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
        data = self._changer.robot.steadily(lambda: self._found(self._changer.partition, search, cdb))
        return reply(data, cdb.allocation_length)

    def _found(self, partition: Partition, search: Search, cdb: smc.RequestVolumeElementAddress) -> bytes:
        return element_status(
            pick(
                partition.layout,
                search.find(partition, self._changer.robot.inventory),
                cdb.element_type_code,
                cdb.starting_element_address,
                cdb.number_of_elements,
            ),
            cdb.allocation_length,
            lambda page: self._describe(partition, page),
            volume_tag=bool(cdb.volume_tag),
            send_action_code=search.action,
        )

    def _describe(self, partition: Partition, page: Page) -> Iterator[ElementStatus]:
        """The elements of a page as they are now; a source outside the partition is unknown here."""
        robot = self._changer.robot
        elements = partition.look(robot.inventory, *page)
        accessible: Iterable[bool] = repeat(True)
        if page.kind is ElementType.DRIVE:
            accessible = [robot.accessible(element.address) for element in elements]
        faults = robot.faults
        for address, element, reachable in zip(page.addresses, elements, accessible, strict=False):
            source = element.source
            yield ElementStatus(
                address,
                element.barcode,
                None if source is None else partition.outside(source),
                element.placed_by_operator,
                reachable,
                faults.get(element.address) if faults else None,
            )

    def _identities(self, partition: Partition, page: Page) -> list[Identity]:
        members = partition.members(*page)
        return [self._changer.robot.drives[address].identity for address in members]

    def on_reset(self) -> None:
        self._search.clear()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._search.forget(nexus)


def _check_type(code: int, field: Bits) -> None:
    if code > smc.DATA_TRANSFER:
        raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
