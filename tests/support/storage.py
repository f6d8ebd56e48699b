"""What the file system under a test can do."""

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from vlib_images.disk.fiemap import FS_IOC_FIEMAP
from vlib_images.disk.image import Image
from vlib_images.disk.raw import DiskImage


def needs_fiemap(image: Image) -> None:
    """Skips the test where reserved space cannot be told from holes (tmpfs)."""
    if not isinstance(image, DiskImage):
        return
    request = bytearray(struct.pack("=QQLLLL", 0, image.size_bytes, 0, 0, 0, 0))
    try:
        fcntl.ioctl(image.fileno(), FS_IOC_FIEMAP, request)
    except OSError as error:
        pytest.skip(f"the file system under {image.path.parent} has no FIEMAP: {error}")


def needs_reads_at_hand(folder: Path) -> None:
    """Skips the test where it cannot be told what a read would have to wait for (RWF_NOWAIT)."""
    with (folder / "at hand").open("w+b") as file:
        file.write(bytes(4096))
        file.flush()
        try:
            os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip(f"the file system of {folder} cannot tell what is in memory: {error}")
