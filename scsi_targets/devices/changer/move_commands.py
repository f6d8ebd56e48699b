"""MOVE MEDIUM, EXCHANGE MEDIUM and POSITION TO ELEMENT (SMC-3 6.8, 6.3, 6.6): initiators use the robot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scsi_targets.devices.changer.robot import Asker, Incompatible, Manner, RemovalPrevented, RobotError
from scsi_targets.devices.unit.dispatch import ALLOWED, handles
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.prevention import RemovalPrevention
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sense, smc, spc
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.actor import acting_as
from vlib_images.library.elements import ElementEmpty, ElementFull, InventoryError

if TYPE_CHECKING:
    from scsi_targets.devices.changer.base import ChangerBase
    from scsi_targets.devices.unit.task import Task
    from scsi_targets.t10.fields import Bits

# A drive is NOT READY with such a medium; the changer refuses to move it there.
INCOMPATIBLE_MEDIUM = sense.INCOMPATIBLE_MEDIUM._replace(key=sense.ILLEGAL_REQUEST)
# A real library's slowest move takes minutes: rewind, unload, robot, load.
MOVE_TIMEOUT_SECONDS = 900


class MoveCommands(Part):
    """The moves of one media changer, whose addresses are its partition's."""

    def __init__(self, changer: ChangerBase) -> None:
        self._changer = changer
        self._manner = Manner.HOST if changer.model.unloads_drives else Manner.UNLOADED

    @handles(smc.MoveMedium, permission=Permission.MOVE, slow=True, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def move_medium(self, cdb: smc.MoveMedium, task: Task) -> None:
        asker = Asker(self._changer, self._changer.partition)
        self._check_transport(cdb.transport_element_address, smc.MoveMedium.transport_element_address)
        source, destination = self._ends(
            cdb, smc.MoveMedium.source_element_address, smc.MoveMedium.destination_element_address
        )
        _refuse_inverting(cdb, smc.MoveMedium.invert)
        with self._refusals(), acting_as(task.nexus.initiator_name):
            self._changer.robot.move(source, destination, manner=self._manner, by=asker)

    @handles(smc.ExchangeMedium, permission=Permission.MOVE, slow=True, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def exchange_medium(self, cdb: smc.ExchangeMedium, task: Task) -> None:
        asker = Asker(self._changer, self._changer.partition)
        self._check_transport(cdb.transport_element_address, smc.ExchangeMedium.transport_element_address)
        source, first, second = self._ends(
            cdb,
            smc.ExchangeMedium.source_element_address,
            smc.ExchangeMedium.first_destination_element_address,
            smc.ExchangeMedium.second_destination_element_address,
        )
        _refuse_inverting(cdb, smc.ExchangeMedium.invert_1, smc.ExchangeMedium.invert_2)
        with self._refusals(), acting_as(task.nexus.initiator_name):
            self._changer.robot.exchange(source, first, second, manner=self._manner, by=asker)

    @handles(smc.PositionToElement, permission=Permission.MOVE, timeout_seconds=MOVE_TIMEOUT_SECONDS)
    def position_to_element(self, cdb: smc.PositionToElement, task: Task) -> None:
        # Nothing has a position that a later command would depend on; the addresses are checked as a library does.
        self._check_transport(cdb.transport_element_address, smc.PositionToElement.transport_element_address)
        self._ends(cdb, smc.PositionToElement.destination_element_address)
        _refuse_inverting(cdb, smc.PositionToElement.invert)

    def _ends(self, cdb: Any, *fields: Bits) -> list[int]:
        """The inventory's addresses of the elements that a CDB names."""
        return [self._changer.inside(getattr(cdb, field.name), field) for field in fields]

    def _check_transport(self, address: int, field: Bits) -> None:
        if address and address not in self._changer.partition.layout.transport:  # 0: the default one (SMC-3 6.8)
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
            self._changer.statistics.failed()
            raise CheckCondition(sense.MEDIA_LOAD_OR_EJECT_FAILED) from error


class AccessPrevention(RemovalPrevention):
    """PREVENT ALLOW MEDIUM REMOVAL keeps the operator from the import/export elements: who may move may do so."""

    @handles(spc.PreventAllowMediumRemoval, permission=Permission.MOVE, reservation=ALLOWED)
    def prevent_allow_medium_removal(self, cdb: spc.PreventAllowMediumRemoval, task: Task) -> None:
        super().prevent_allow_medium_removal(cdb, task)


def _refuse_inverting(cdb: Any, *fields: Bits) -> None:
    for field in fields:  # ROTATE of mode page 1Eh is zero: the transport cannot turn a medium over
        if getattr(cdb, field.name):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
