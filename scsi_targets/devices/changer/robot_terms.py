"""What the robot and those around it have in common: moves, what it asks of drives, whom it tells, what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, NamedTuple, Protocol

from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.principal import Principal
from vlib_images.library.elements import ElementType
from vlib_images.library.partition import Partition

AnyCartridge = Any  # an open vlib_images cartridge; the robot only carries it and, on the way to a slot, closes it


class Move(NamedTuple):
    """One cartridge's way, by element address."""

    source: int
    destination: int


class Manner(Enum):
    """What a move may disturb."""

    HOST = "host"  # a drive is unloaded on the way, unless a host prevents removal
    UNLOADED = "unloaded"  # the same, for libraries whose drives a host has to unload first
    OPERATOR = "operator"  # nothing that is in use
    LENT = "lent"  # as HOST, also for drives that are lent to one host: whoever lent them asks
    FORCE = "force"  # an operator insists: also what is in use, and what a host has locked


class DriveBay(Protocol):
    """What the robot asks of a tape drive. Both hands raise CheckCondition, and then the cartridge is where it was."""

    identity: Identity
    lent_to: Principal | None

    @property
    def accessible(self) -> bool:
        """Empty, or with a cartridge that a host has unloaded: the robot's hand can go in (SMC-3's ACCESS bit)."""

    @property
    def removal_prevented(self) -> bool:
        """A host's PREVENT ALLOW MEDIUM REMOVAL is in force."""

    def installed(self, library_serial_number: str, element_address: int | None, /) -> None:
        """Which media changer shows the drive, and by which address (None: none): what its VPD pages say. Initiators
        of a drive for which that has changed are told."""

    def in_use(self) -> str | None:
        """Why an operator should leave the cartridge in the drive, None when nobody uses it."""

    def accepts(self, cartridge: AnyCartridge, /) -> bool:
        """Whether the drive can read such a medium at all."""

    def load(self, cartridge: AnyCartridge, /) -> None:
        """Puts an open cartridge in: it is threaded, and every nexus learns that the drive became ready."""

    def removing(self, check: Callable[[], None], /, *, force: bool = False) -> AbstractContextManager[AnyCartridge]:
        """Holds the drive, asks check() what forbids it, makes everything durable. The cartridge, still open, leaves
        the drive when the block ends well (nothing can fail then), and stays as it was when the block raises. MEDIUM
        REMOVAL PREVENTED at once when the drive is busy."""

    def forget_robot(self, *, empty: bool) -> AnyCartridge | None:
        """The robot's thread was ended in the middle of a move: it does not hold this drive any longer. empty: nor does
        the drive hold anything; answers the open cartridge that it had."""


class Watcher(Protocol):
    """Whoever is told what the robot and the operator do: the media changers."""

    partition: Partition

    def show(self, partition: Partition, changed: Set[ElementType], /) -> None:
        """Its partition from now on; of which types its elements, or their addresses, are others."""

    def locks(self, address: int, /) -> bool:
        """Whether a host of this one has locked an import/export element (PREVENT ALLOW MEDIUM REMOVAL)."""

    def reserved(self, address: int, /) -> str | None:
        """Which initiator has reserved the media changer that the element belongs to; None: nobody, or not its own."""

    def admits(self, barcode: str, address: int, /) -> bool:
        """False: the element is of this one's partition, whose barcode rule does not fit the cartridge."""

    def moved(self, moves: list[Move], /, by: object) -> None:
        """Cartridges have moved; `by` is the watcher that asked for it, None the operator."""

    def accessed(self, addresses: Collection[int], /) -> None:
        """The operator has put cartridges into elements, or taken one out."""


class Asker(NamedTuple):
    """A media changer that asks for a move, and the partition by which it found the addresses."""

    changer: Watcher
    partition: Partition


class RobotError(Exception):
    """A move that failed or is not allowed; the inventory has not changed unless the subclass says so."""


class RemovalPrevented(RobotError):
    """PREVENT ALLOW MEDIUM REMOVAL forbids it, a drive is in use, or must be unloaded by a host first."""


class Incompatible(RobotError):
    """The drive cannot read such a medium."""


class WrongBarcode(RobotError):
    """The barcode rule of the element's partition does not admit the cartridge."""


class BetweenPartitions(RobotError):
    """From one partition to another only an operator moves cartridges, who says so."""


class DriveFailed(RobotError):
    """A drive could not let go of its cartridge (nothing moved), or not load its new one (which is in the drive)."""
