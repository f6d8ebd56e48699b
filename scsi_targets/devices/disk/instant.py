"""Disks held still for an instant: what taking a snapshot of several at once needs."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from scsi_targets.devices.disk.storage import BlockStorage


@contextmanager
def held_still(disks: Sequence[BlockStorage]) -> Iterator[None]:
    """While the block runs nobody reads or writes these disks: who was at it has ended, whoever comes waits.

    Gates are taken in the order of serial numbers, so that two who hold several disks cannot wait for each other.
    Raises CheckCondition where a medium may not be touched now (it is absent, stopped, or being erased).
    """
    with ExitStack() as gates:
        for disk in sorted(disks, key=lambda disk: disk.identity.serial_number):
            gates.enter_context(disk.gate.alone)
        for disk in disks:
            disk.medium  # noqa: B018 - raises where it is not ready
        yield
