"""The disk: a direct access block device (SBC-4) over a disk image."""

from typing import Any

from scsi_targets.devices.copying.manager import CopyManager
from scsi_targets.devices.disk.atomic import BlockAtomic
from scsi_targets.devices.disk.capacity import BlockCapacity
from scsi_targets.devices.disk.copy_access import BlockDeviceAccess
from scsi_targets.devices.disk.erase import BlockErase
from scsi_targets.devices.disk.provisioning import BlockProvisioning
from scsi_targets.devices.disk.transfers import BlockTransfers
from scsi_targets.devices.unit.echo_buffer import EchoBuffer
from scsi_targets.devices.unit.task import Task


class BlockDevice(
    BlockErase, BlockTransfers, BlockAtomic, BlockProvisioning, BlockCapacity, CopyManager
):  # fmt: skip
    """A disk logical unit. The constructor is that of BlockStorage:

    BlockDevice(identity, DiskImage.open(path), block_length=512, removable=False, store=..., state_key="disk/demo")
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attach(EchoBuffer())

    def copy_access(self, task: Task) -> BlockDeviceAccess:
        return BlockDeviceAccess(self, task)
