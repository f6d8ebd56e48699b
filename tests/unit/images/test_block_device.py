"""A block device as a disk image: a loop device over a file."""

import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from vlib_images.disk import holders
from vlib_images.disk.image import Provisioning
from vlib_images.disk.raw import DiskImage, DiskInUse

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


def run(*command) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def refused(path, words):
    for read_only in (False, True):
        with pytest.raises(DiskInUse, match=words):
            DiskImage.open(Path(path), read_only=read_only)


def test_a_mounted_device_is_refused_and_said_where(device, tmp_path):
    run("mkfs.ext4", "-q", device[0])
    where = tmp_path / "mount point"
    where.mkdir()
    run("mount", device[0], where)
    try:
        refused(device[0], f"is mounted on {where}")
    finally:
        subprocess.run(["umount", where], check=True)
    DiskImage.open(Path(device[0])).close()


def test_a_disk_with_a_mounted_partition_is_refused(tmp_path):
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(SIZE)
    with backing.open("r+b") as file:  # a master boot record with one Linux partition
        file.write(bytes(446) + struct.pack("<8sII", b"\0\0\0\0\x83\0\0\0", 2048, 4096) + bytes(48) + b"\x55\xaa")
    path = losetup("--find", "--show", "--partscan", backing)
    try:
        partition = Path(f"/sys/class/block/{Path(path).name}p1/dev")
        if not partition.exists():
            pytest.skip("this kernel reads no partition tables of loop devices")
        numbers = partition.read_text().split(":")
        node = tmp_path / "partition"
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(*map(int, numbers)))
        run("mkfs.ext4", "-q", node)
        where = tmp_path / "m"
        where.mkdir()
        run("mount", node, where)
        try:
            refused(path, f"{Path(path).name}p1 is mounted on {where}")
        finally:
            subprocess.run(["umount", where], check=True)
    finally:
        losetup("--detach", path)


def test_swap_is_refused(device):
    run("mkswap", device[0])
    run("swapon", device[0])
    try:
        refused(device[0], "used as swap")
    finally:
        subprocess.run(["swapoff", device[0]], check=True)


def test_a_device_that_another_program_opened_for_itself_is_refused(device):
    descriptor = os.open(device[0], os.O_RDONLY | os.O_EXCL)
    try:
        refused(device[0], "opened by another program, or mounted in another container")
    finally:
        os.close(descriptor)


def test_the_file_behind_a_loop_device_is_refused(device):
    with pytest.raises(DiskInUse, match=f"attached to {device[0]}"):
        DiskImage.open(device[1])
    DiskImage.open(device[1], read_only=True).close()


def test_who_has_a_device_is_told_from_proc_and_sys(tmp_path, monkeypatch):
    """LVM and RAID, which the test machine need not have."""
    disk = tmp_path / "sys/devices/sdz"
    for holder, entry, text in (("dm-7", "dm/name", "vg-data\n"), ("md0", "md/level", "raid1\n")):
        made = disk / "sdz1/holders" / holder / entry
        made.parent.mkdir(parents=True)
        made.write_text(text)
    (disk / "sdz1/partition").write_text("1\n")
    (disk / "sdz1/dev").write_text("8:17\n")
    block = tmp_path / "sys/dev/block"
    block.mkdir(parents=True)
    (block / "8:16").symlink_to(disk)
    (block / "8:17").symlink_to(disk / "sdz1")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("36 35 8:17 / /mnt/two\\040words rw - ext4 /dev/sdz1 rw\n")
    monkeypatch.setattr(holders, "SYS", tmp_path / "sys")
    monkeypatch.setattr(holders, "PROC", tmp_path)
    assert holders.device_holders(os.makedev(8, 16)) == [
        "/dev/sdz1 is mounted on /mnt/two words",
        "/dev/sdz1 is part of /dev/dm-7 (vg-data)",
        "/dev/sdz1 is part of /dev/md0 (RAID)",
    ]
