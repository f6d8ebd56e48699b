"""The disk: a direct access block device (SBC-4) over a disk image."""

from __future__ import annotations

from collections.abc import Iterable

from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.copying.local import designators_in
from scsi_targets.devices.copying.manager import CopyManager
from scsi_targets.devices.disk.atomic import AtomicCommands
from scsi_targets.devices.disk.capacity import CapacityPages
from scsi_targets.devices.disk.copy_access import BlockDeviceAccess
from scsi_targets.devices.disk.erase import Erasing
from scsi_targets.devices.disk.mode import DiskModes
from scsi_targets.devices.disk.mode_header import DiskModeHeader
from scsi_targets.devices.disk.power import Power, PowerCondition
from scsi_targets.devices.disk.provisioning import ProvisioningCommands
from scsi_targets.devices.disk.statistics import DiskStatistics
from scsi_targets.devices.disk.transfers import BlockTransfers
from scsi_targets.devices.unit.echo_buffer import EchoBuffer
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.prevention import RemovalPrevention
from scsi_targets.devices.unit.state_store import StateStore
from scsi_targets.devices.unit.task import Task
from vlib_images.disk.image import Image
from vlib_images.disk.snapshot_set import break_snapshots_of


class BlockDevice(BlockTransfers):
    """A disk logical unit; BlockStorage says what the arguments are.

    BlockDevice(identity, DiskImage.open(path), block_length=512, removable=False, store=..., state_key="disk/demo")

    erase_bytes_per_second: how fast FORMAT UNIT and SANITIZE may write; None: as fast as it goes."""

    def __init__(
        self,
        identity: Identity,
        image: Image | None,
        *,
        block_length: int = 512,
        physical_block_length: int | None = None,
        removable: bool = False,
        read_only: bool = False,
        read_zeros: bool = True,
        unavailable: str | None = None,
        erase_bytes_per_second: int | None = None,
        store: StateStore | None = None,
        state_key: str = "",
    ) -> None:
        super().__init__(
            identity, image, block_length=block_length, physical_block_length=physical_block_length,
            removable=removable, read_only=read_only, read_zeros=read_zeros,
            unavailable=unavailable, store=store, state_key=state_key,
        )  # fmt: skip
        self.mode_header = DiskModeHeader(self)
        self.erasing = Erasing(self, erase_bytes_per_second)
        self.prevention = RemovalPrevention(self)
        self.power = Power(self, self.erasing, self.prevention)
        statistics = DiskStatistics(block_length)
        self.traffic = statistics.traffic
        self.copy_manager = CopyManager(self)
        self.attach(
            DiskModes(self), self.erasing, self.power, self.prevention, CapacityPages(self), ProvisioningCommands(self),
            AtomicCommands(self), statistics, EchoBuffer(), self.copy_manager,
        )  # fmt: skip
        self.offer_commands()
        self.erasing.resume()

    # ---- copying.access.Copyable -----------------------------------------------------------------------------------

    def designators(self, task: Task) -> Iterable[Designator]:
        return designators_in(self.device_identification(task))

    def copy_access(self, task: Task) -> BlockDeviceAccess:
        return BlockDeviceAccess(self, task)

    # ---- the operator ----------------------------------------------------------------------------------------------

    def insert(self, image: Image) -> None:
        """Puts a medium into an empty removable disk and loads it. ValueError: there is one, or it does not fit."""
        if not self.removable or self.image is not None or image.size_bytes < self.block_length:
            raise ValueError(f"{image.name} cannot be inserted")
        with self.lock:
            self.power.change(PowerCondition.ACTIVE)
            self.load(image)
            self.tell_of_new_medium()

    def remove(self) -> Image | None:
        """Takes the medium out, whatever initiators prevent, as an operator at the door can; the caller closes it."""
        if self.erasing.running is not None:
            raise ValueError("the medium is being erased")
        if not self.removable:
            raise ValueError("this disk's medium cannot be removed")
        with self.lock:
            if self.loaded:
                self.eject()
            image, self.image = self.image, None
        if image is not None:
            break_snapshots_of(image, "the medium was taken out of its disk")
        return image

    def grow(self, size_bytes: int) -> None:
        """Lengthens the image, or takes over that its store has become so long (a block device, which its own tools
        lengthen); every initiator is told CAPACITY DATA HAS CHANGED. ValueError, OSError as Image.grow()."""
        with self.lock:
            if not (self.refresh_capacity() and self.medium.size_bytes == size_bytes):
                self.medium.grow(size_bytes)
                self.resized()

    def refresh_capacity(self) -> bool:
        """Looks at the size of the file or block device again; True, and initiators are told, when it has changed."""
        with self.lock:
            changed = self.image is not None and self.image.refresh_size()
            if changed:
                self.resized()
        return changed

    def close(self) -> None:
        """Stops an erasure, ends the worker, makes what was written durable and closes the image."""
        self.erasing.stop()
        super().close()
