"""Disks held still for an instant: what taking a snapshot of several at once needs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from scsi_targets.devices.disk.storage import BlockStorage


@contextmanager
def held_still(disks: Sequence[BlockStorage], seconds: float = 60.0) -> Iterator[None]:
    """While the block runs nobody reads or writes these disks: who was at it has ended, whoever comes waits.

    Gates are taken in the order of serial numbers, so that two who hold several disks cannot wait for each other.
    seconds: how long they may take to come to rest, all together. Raises TimeoutError when one does not, CheckCondition
    where a medium may not be touched now (it is absent, stopped, or being erased).
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as gates:
        for disk in sorted(disks, key=lambda disk: disk.identity.serial_number):
            try:
                gates.enter_context(disk.gate.alone_within(deadline - time.monotonic()))
            except TimeoutError:
                name = disk.image.name if disk.image is not None else disk.identity.serial_number
                raise TimeoutError(f"{name} did not come to rest within {seconds:g} s") from None
        for disk in disks:
            disk.medium  # noqa: B018 - raises where it is not ready
        yield
