"""Logical units of other iSCSI targets as copy sources and destinations.

Only what an operator has added is one: a copy names it by its designator and can never make us connect anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from scsi_targets.devices.copying.access import Access, Designator
from scsi_targets.devices.copying.remote_access import Description, Line, RemoteAddress
from scsi_targets.devices.copying.remote_disk import RemoteDiskAccess
from scsi_targets.devices.copying.remote_tape import RemoteTapeAccess
from scsi_targets.t10 import vpd

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Task

ACCESSES: dict[int, type[RemoteDiskAccess | RemoteTapeAccess]] = {
    vpd.DIRECT_ACCESS: RemoteDiskAccess,
    vpd.SEQUENTIAL_ACCESS: RemoteTapeAccess,
}


def describe(address: RemoteAddress) -> Description:
    """What an operator adds: asks the logical unit what it is. Raises as Description.of()."""
    with address.log_in() as session:
        return Description.of(session, address.lun)


class RemoteUnit:
    """An access.Copyable. Copies have a tape drive one after another, in the order of their arrival."""

    def __init__(self, address: RemoteAddress, description: Description) -> None:
        self.address = address
        self.description = description
        self._line = Line()

    def designators(self, task: Task) -> Iterable[Designator]:
        return self.description.designators

    def copy_access(self, task: Task) -> Access:
        return ACCESSES[self.description.device_type](self.address, self.description, self._line)
