"""Disk images: creating, opening, reading, holes, anchors, growing."""

import errno
import os

import pytest

from tests.support.storage import needs_fiemap
from vlib_images.disk import fallocate
from vlib_images.disk.image import Provisioning
from vlib_images.disk.raw import DiskImage, DiskInUse, NotADisk


@pytest.fixture
def image(tmp_path):
    disk = DiskImage.create(tmp_path / "a.img", 1 << 20)
    yield disk
    disk.close()


def states(image, offset=0, length=1 << 20):
    return [(extent.offset, extent.length, extent.state) for extent in image.extents(offset, length)]


def test_a_new_image_is_sparse_and_zero(image):
    assert image.size_bytes == 1 << 20
    assert image.path.stat().st_blocks == 0
    assert states(image) == [(0, 1 << 20, Provisioning.DEALLOCATED)]
    buffer = bytearray(b"x" * 4096)
    image.read_into(buffer, (1 << 20) - 4096)
    assert buffer == bytes(4096)


def test_a_large_write_needs_no_storage_that_can_promise_space(image, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(fallocate, "fallocate", cannot)
    image.write(b"x" * (1 << 20), 0)
    buffer = bytearray(1 << 20)
    image.read_into(buffer, 0)
    assert buffer == b"x" * (1 << 20)


def test_a_large_write_that_a_full_disk_has_no_space_for_changes_nothing(image, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    image.write(b"before" * 100, 4096)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(fallocate, "fallocate", full)
        image.write(b"x" * (1 << 20), 0)
    buffer = bytearray(600)
    image.read_into(buffer, 4096)
    assert buffer == b"before" * 100


def test_an_image_is_opened_once_unless_everybody_only_reads(image):
    for read_only in (False, True):
        with pytest.raises(DiskInUse, match="in use"):
            DiskImage.open(image.path, read_only=read_only)
    image.close()
    readers = [DiskImage.open(image.path, read_only=True) for _ in range(2)]
    assert not readers[0].can_deallocate
    with pytest.raises(DiskInUse):
        DiskImage.open(image.path)
    for reader in readers:
        reader.close()
    DiskImage.open(image.path).close()


def test_what_is_no_disk_is_refused(tmp_path):
    with pytest.raises(NotADisk, match="neither a file nor a block device"):
        DiskImage.open(tmp_path, read_only=True)
    (tmp_path / "empty").touch()
    with pytest.raises(NotADisk, match="empty"):
        DiskImage.open(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        DiskImage.open(tmp_path / "missing")
    with pytest.raises(FileExistsError):
        DiskImage.create(tmp_path / "empty", 512)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotADisk):
        DiskImage.open(tmp_path / "pipe")


def test_short_transfers_are_continued(image, monkeypatch):
    data = os.urandom(10_000)
    pwritev, preadv = os.pwritev, os.preadv
    monkeypatch.setattr(
        os, "pwritev", lambda fd, buffers, at, flags: pwritev(fd, [memoryview(buffers[0])[:999]], at, flags)
    )
    image.write(data, 77)
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [memoryview(buffers[0])[:1234]], at))
    buffer = bytearray(len(data))
    image.read_into(buffer, 77)
    assert buffer == data


def test_a_read_behind_the_end_is_an_error(image):
    with pytest.raises(OSError, match="shorter than the disk"):
        image.read_into(bytearray(1024), (1 << 20) - 512)


def test_holes_and_anchors(image):
    needs_fiemap(image)
    unit = image.allocation_unit
    image.write(b"x" * unit * 4, 0)
    image.deallocate(0, unit)
    image.anchor(unit, unit)
    image.deallocate(3 * unit, 100)
    assert states(image, 0, 5 * unit) == [
        (0, unit, Provisioning.DEALLOCATED),
        (unit, unit, Provisioning.ANCHORED),
        (2 * unit, 2 * unit, Provisioning.MAPPED),
        (4 * unit, unit, Provisioning.DEALLOCATED),
    ]
    buffer = bytearray(unit * 4)
    image.read_into(buffer, 0)
    assert buffer == bytes(2 * unit) + b"x" * unit + bytes(100) + b"x" * (unit - 100)


def test_many_anchored_pieces(image):
    needs_fiemap(image)
    unit = image.allocation_unit
    for index in range(0, (1 << 20) // unit, 2):
        image.anchor(index * unit, unit)
    found = states(image)
    assert len(found) == (1 << 20) // unit
    assert [state for *_, state in found[:2]] == [Provisioning.ANCHORED, Provisioning.DEALLOCATED]
    assert sum(length for _, length, _ in found) == 1 << 20


def test_storage_without_holes_gets_zeros_written(image, monkeypatch):
    monkeypatch.setattr(fallocate, "try_fallocate", lambda *_: False)
    image.write(b"x" * 8192, 0)
    image.deallocate(512, 1024)
    image.anchor(4096, 512)
    buffer = bytearray(8192)
    image.read_into(buffer, 0)
    assert buffer == b"x" * 512 + bytes(1024) + b"x" * 2560 + bytes(512) + b"x" * 3584
    assert not DiskImage.create(image.path.with_name("b.img"), 4096).can_deallocate


def test_fill_repeats_a_pattern_over_a_long_range(tmp_path):
    disk = DiskImage.create(tmp_path / "long.img", 5 << 20)
    pattern = os.urandom(4096)
    disk.fill(pattern, 4096, (3 << 20) + 4096)
    buffer = bytearray(5 << 20)
    disk.read_into(buffer, 0)
    assert buffer == bytes(4096) + pattern * 769 + bytes((5 << 20) - 4096 - 4096 * 769)
    disk.close()


def test_growing_keeps_what_is_there(image):
    image.write(b"x" * 512, (1 << 20) - 512)
    image.grow(2 << 20)
    assert image.size_bytes == image.path.stat().st_size == 2 << 20
    buffer = bytearray(1024)
    image.read_into(buffer, (1 << 20) - 512)
    assert buffer == b"x" * 512 + bytes(512)
    with pytest.raises(ValueError, match="cannot become"):
        image.grow(1 << 20)


def test_durable_writes_and_synchronize(image):
    image.write(b"d" * 512, 0, durable=True)
    image.synchronize()
    image.prefetch(0, 4096)
    assert image.path.read_bytes()[:512] == b"d" * 512


def test_after_a_failed_synchronize_none_succeeds(image, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    image.write(b"x" * 512, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="lost"):
            image.synchronize()
    with pytest.raises(OSError, match="lost"):
        image.synchronize()
    image.close()
    again = DiskImage.open(image.path)
    again.synchronize()
    again.close()
