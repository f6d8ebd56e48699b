"""Disks for the conformance tests: a block device over a sparse image, and short names for what tests send it."""

from pathlib import Path

from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.task import Response
from scsi_targets.t10 import sbc
from tests.unit.devices.support import data_of, send
from vlib_images.disk.image import Image
from vlib_images.disk.memory import MemoryImage
from vlib_images.disk.raw import DiskImage

BLOCKS = 2048


def file_image(directory: Path, name: str, size_bytes: int) -> Image:
    return DiskImage.create(directory / f"{name}.img", size_bytes)


def memory_image(directory: Path, name: str, size_bytes: int) -> Image:
    return MemoryImage(size_bytes, name=name)


KINDS = {"file": file_image, "memory": memory_image}
make_image = file_image  # the conftest of this directory sets it to each of KINDS


def make_disk(
    directory: Path, *, block_length: int = 512, blocks: int = BLOCKS, name: str = "a", **options
) -> BlockDevice:
    image = make_image(directory, name, blocks * block_length)
    return BlockDevice(Identity("TAPEBAY", "DISK", "0001", name), image, block_length=block_length, **options)


def pattern(block: int, length: int = 512) -> bytes:
    """Data that tells which block it belongs to."""
    return (block.to_bytes(8, "big") * (length // 8))[:length]


def write(disk: BlockDevice, address: int, data: bytes, **fields) -> Response:
    count = len(data) // disk.block_length
    cdb = sbc.Write16.encode(logical_block_address=address, transfer_length=count, **fields)
    return send(disk, cdb, data=data)


def read(disk: BlockDevice, address: int, count: int = 1) -> bytes:
    return data_of(send(disk, sbc.Read16.encode(logical_block_address=address, transfer_length=count)))
