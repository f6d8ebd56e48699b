"""A block device as a disk image: a loop device over a file."""

import subprocess
from pathlib import Path

import pytest

from vlib_images.disk.raw import DiskImage, DiskInUse, Provisioning

SIZE = 8 << 20


def losetup(*arguments) -> str:
    done = subprocess.run(["losetup", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop devices for this user: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture
def device(tmp_path):
    """(path of the device, path of the file behind it)."""
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(SIZE)
    path = losetup("--find", "--show", backing)
    yield path, backing
    losetup("--detach", path)


@pytest.fixture
def image(device):
    disk = DiskImage.open(Path(device[0]))
    yield disk
    disk.close()


def test_it_is_read_and_written_like_a_file(image, device):
    assert image.is_block_device
    assert image.size_bytes == SIZE
    image.write(b"x" * 4096, 512)
    image.synchronize()
    buffer = bytearray(8192)
    image.read_into(buffer, 0)
    assert buffer == bytes(512) + b"x" * 4096 + bytes(8192 - 4608)
    assert device[1].read_bytes()[512:4608] == b"x" * 4096
    assert [extent.state for extent in image.extents(0, SIZE)] == [Provisioning.MAPPED]


def test_unmapped_ranges_read_as_zeros_whatever_their_alignment(image, device):
    image.write(b"x" * (1 << 20), 0)
    image.synchronize()
    for offset, length in ((0, 4096), (5120, 512), (65536, 1000 * 512)):
        image.deallocate(offset, length)
        buffer = bytearray(length)
        image.read_into(buffer, offset)
        assert not any(buffer)
    image.anchor(4096, 1024)
    buffer = bytearray(8192)
    image.read_into(buffer, 0)
    assert buffer == bytes(4096 + 1024 + 512) + b"x" * (8192 - 5632)


def test_what_a_block_device_cannot_do(image):
    assert image.max_atomic_bytes == 0
    with pytest.raises(OSError, match="atomic writes need an image file"):
        image.write_atomic(bytes(512), 0)
    with pytest.raises(ValueError, match="cannot become"):
        image.grow(2 * SIZE)
    with pytest.raises(DiskInUse):
        DiskImage.open(image.path)


def test_a_device_that_grew_is_noticed(image, device):
    with device[1].open("r+b") as file:
        file.truncate(2 * SIZE)
    losetup("--set-capacity", device[0])
    assert image.refresh_size()
    assert image.size_bytes == 2 * SIZE
