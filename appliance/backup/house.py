"""What a backup asks of the library that it runs in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from appliance.backup.lists import FileLists
from scsi_targets.devices.changer.robot import Robot
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.tape_drive import TapeDrive
from vlib_images.disk.changes import Mark
from vlib_images.disk.image import Image
from vlib_images.library.inventory import Inventory


class Instant(Protocol):
    """Disks at one instant, as appliance.library.snapshots keeps them. Every call raises what says that it is over."""

    name: str
    checkpoint: int

    @property
    def over_because(self) -> str:
        """Why nothing of it can be read any more; empty: it is as it should be."""

    @property
    def marks(self) -> Mapping[str, Mark]:
        """By disk, of those whose changes are counted: what a later instant is asked for changes with."""

    def changed_since(self, disk: str, mark: Mark, /) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of what changed on a disk since an earlier instant. Raises NoIncrement."""

    @property
    def images(self) -> Mapping[str, Image]:
        """By disk; to find out what is on them."""

    @property
    def units(self) -> Mapping[str, BlockDevice]:
        """By disk; to copy from."""

    @property
    def is_narrowed(self) -> bool:
        """Whether narrow() has been called."""

    def narrow(self, extents: Mapping[str, Iterable[tuple[int, int]]], /) -> None:
        """Of each disk nothing else is wanted: (offset, length) in bytes."""

    def start(self) -> None:
        """The copy begins, perhaps again."""

    def fail(self, reason: str, /) -> None:
        """The copy has failed; it may be begun again where its last commit() was."""

    def renew(self) -> float:
        """Whoever holds it is alive."""

    def list_comes(self) -> None:
        """The same, and what is wanted of it is being found out."""

    def commit(self, disk: str, extents: Iterable[tuple[int, int]], /) -> None:
        """These bytes are safe elsewhere."""

    def finish(self) -> None:
        """All of them are."""

    def release(self) -> None:
        """It is no longer wanted; all of its space is given back."""


class BackupLibrary(Protocol):
    """The library."""

    robot: Robot
    drives: dict[str, TapeDrive]
    file_lists: FileLists

    @property
    def inventory(self) -> Inventory:
        """Where cartridges are."""

    @property
    def name(self) -> str:
        """As it is configured."""

    @property
    def copy_rate(self) -> int:
        """The most bytes that a copy moves in a second; 0: as fast as it can."""

    def disks(self) -> Mapping[str, BlockDevice]:
        """Those that are served."""

    def drive_addresses(self) -> dict[str, int]:
        """The element addresses of the drives."""

    def still(self, disks: Sequence[str]) -> Instant:
        """The disks at one instant. Raises OperatorError, OSError."""

    def held(self, snapshot: str) -> Instant:
        """The instant that an agent holds. Raises OperatorError."""
