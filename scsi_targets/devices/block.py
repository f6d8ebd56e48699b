"""The disk: a direct access block device (SBC-4) over a disk image."""

from scsi_targets.devices.block_atomic import BlockAtomic
from scsi_targets.devices.block_capacity import BlockCapacity
from scsi_targets.devices.block_erase import BlockErase
from scsi_targets.devices.block_provisioning import BlockProvisioning
from scsi_targets.devices.block_transfers import BlockTransfers
from scsi_targets.devices.copy_manager import DiskCopyManager
from scsi_targets.devices.echo_buffer import EchoBuffer


class BlockDevice(
    BlockErase, BlockTransfers, BlockAtomic, BlockProvisioning, BlockCapacity, EchoBuffer, DiskCopyManager
):  # fmt: skip
    """A disk logical unit. The constructor is that of BlockStorage:

    BlockDevice(identity, DiskImage.open(path), block_length=512, removable=False, store=..., state_key="disk/demo")
    """
