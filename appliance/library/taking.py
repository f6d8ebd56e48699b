"""A disk that is taken from everybody while something else is restored over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from appliance.failures import Failure, OperatorError
from appliance.library.reservations import break_reservations
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.t10 import sense

if TYPE_CHECKING:
    from appliance.library.library import Library


def disk_of(library: Library, name: str) -> BlockDevice:
    """The unit of a disk that can be written. Raises OperatorError."""
    unit = library.units.get(name)
    if not isinstance(unit, BlockDevice):
        raise OperatorError(Failure.NOT_FOUND, f"there is no disk {name} that is served; see: tapebay disk list")
    if unit.write_protected:
        raise OperatorError(Failure.REFUSED, f"disk {name} is read only")
    return unit


def users_of(library: Library, name: str) -> list[str]:
    """Who uses a disk, in an operator's words."""
    unit = disk_of(library, name)
    found = [f"{who} is logged in to it, and may have it mounted" for who in _logged_in(unit)]
    if (holder := unit.reservations.held_by()) is not None:
        found.append(str(holder))
    return found + [f"snapshot {kept.name} of it is {kept.state.value}" for kept in library.snapshots.of_disks([name])]


def _logged_in(unit: BlockDevice) -> list[str]:
    return sorted({nexus.initiator_name for nexus in unit.nexuses})


@contextmanager
def taken(library: Library, name: str, by: Principal, *, force: bool) -> Iterator[BlockDevice]:
    """Nobody else reads or writes it meanwhile; afterwards whoever is logged in is told that the medium may have
    changed (28/00), and the next increment is a full backup. force: whoever uses it is cut off, and reservations are
    broken. Raises OperatorError: somebody uses it, or has it by a grant; then nothing has changed."""
    unit = disk_of(library, name)
    if unit.lent_to is not None:
        message = f"disk {name} is granted to {unit.lent_to.name}; end that: tapebay request revoke {unit.lent_to.name}"
        raise OperatorError(Failure.REFUSED, message)
    if force:
        break_reservations(unit, lambda _nexus: True)
    if not unit.lend(by):
        raise OperatorError(Failure.REFUSED, f"disk {name} is in use: {unit.reservations.held_by()}")
    try:
        if not force and (users := users_of(library, name)):  # asked when nobody can begin to write any more
            raise OperatorError(Failure.REFUSED, f"disk {name} is in use: {'; '.join(users)}. End that, or --force")
        library.changes.renew(name, "the disk was restored")
        try:
            yield unit
            unit.flush()
        finally:
            unit.tell_others(None, sense.NOT_READY_TO_READY_CHANGE)
    finally:
        unit.take_back()
