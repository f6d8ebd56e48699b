"""What a hot backup has done on the server that is backed up: all of it is root's.

ThisServer does it in this process. agent/privileges.py lets a process without rights ask one that has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from appliance.agent.block_devices import SECTOR
from appliance.agent.freeze import held_still, synchronized
from appliance.agent.hooks import run_hook
from appliance.agent.snapshot_walk import Order, lines_of

_BLOCK: Final = Path("/sys/class/block")
_SECTORS_READ, _SECTORS_WRITTEN = 2, 6  # Documentation/block/stat.rst


class ServerSide(Protocol):
    """Its file systems, its hooks, its snapshots."""

    def sync(self, points: Sequence[Path]) -> None:
        """Write out what waits to be written. Raises OSError."""

    def held(self, points: Sequence[Path], *, limit_seconds: float) -> AbstractContextManager[None]:
        """The file systems are still while the block runs. Raises FreezeFailed, OSError."""

    def hook(self, when: str, command: Sequence[str], facts: Mapping[str, str]) -> None:
        """Run a command of the operator's. Raises OperatorError."""

    def lines(self, order: Order) -> Iterator[str]:
        """The files of a snapshot. Raises WalkFailed, OSError."""

    def moved_bytes(self, device: str) -> int:
        """What was read from a block device and written to it since it is there."""


class ThisServer:
    """This one, by root."""

    def sync(self, points: Sequence[Path]) -> None:
        """As Server has it."""
        synchronized(points)

    def held(self, points: Sequence[Path], *, limit_seconds: float) -> AbstractContextManager[None]:
        """As Server has it."""
        return held_still(points, limit_seconds=limit_seconds)

    def hook(self, when: str, command: Sequence[str], facts: Mapping[str, str]) -> None:
        """As Server has it."""
        run_hook(when, command, facts)

    def lines(self, order: Order) -> Iterator[str]:
        """As Server has it."""
        return lines_of(order)

    def moved_bytes(self, device: str) -> int:
        """As Server has it; 0 for one that is gone."""
        try:
            fields = (_BLOCK / Path(device).resolve().name / "stat").read_text().split()
        except OSError:
            return 0
        return (int(fields[_SECTORS_READ]) + int(fields[_SECTORS_WRITTEN])) * SECTOR
