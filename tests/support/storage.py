"""What the file system under a test can do."""

import fcntl
import struct

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
