"""Atomic overwrites: after a crash at any moment all of the new bytes are there, or none."""

import os

import pytest

from vlib_images.disk.image import MAX_ATOMIC_BYTES
from vlib_images.disk.raw import DiskImage, NotADisk

OLD, NEW = b"old-" * 2048, b"new+" * 2048


class Crash(Exception):
    """The power is cut."""


@pytest.fixture
def path(tmp_path):
    image = DiskImage.create(tmp_path / "a.img", 1 << 20)
    image.write(OLD, 4096)
    image.close()
    return tmp_path / "a.img"


def content(path):
    image = DiskImage.open(path)
    buffer = bytearray(len(OLD))
    image.read_into(buffer, 4096)
    image.close()
    return bytes(buffer)


def crash_at(monkeypatch, step, taken):
    """The write number `step` takes only `taken` of its bytes, and no later one happens."""
    pwritev, count = os.pwritev, [0]

    def failing(descriptor, buffers, offset, flags=0):
        count[0] += 1
        if count[0] < step:
            return pwritev(descriptor, buffers, offset, flags)
        everything = b"".join(bytes(buffer) for buffer in buffers)
        pwritev(descriptor, [everything[: int(len(everything) * taken)]], offset, flags)
        raise Crash

    monkeypatch.setattr(os, "pwritev", failing)


@pytest.mark.parametrize("taken", [0, 0.03, 0.5, 0.99, 1])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_crash_leaves_all_or_nothing(path, monkeypatch, step, taken):
    image = DiskImage.open(path)
    with monkeypatch.context() as patch:
        crash_at(patch, step, taken)
        with pytest.raises(Crash):
            image.write_atomic(NEW, 4096)
    os.close(image.fileno())  # the process is gone: nothing is tidied up
    expected = OLD if step == 1 and taken < 1 else NEW
    assert content(path) == expected
    assert content(path) == expected
    assert list(path.parent.iterdir()) == [path]


def test_a_later_write_is_not_undone_by_the_journal(path):
    image = DiskImage.open(path)
    image.write_atomic(NEW, 4096)
    image.write(OLD, 4096, durable=True)
    os.close(image.fileno())
    assert content(path) == OLD


def test_an_unfinished_image_is_not_served_read_only(path, monkeypatch):
    image = DiskImage.open(path)
    with monkeypatch.context() as patch:
        crash_at(patch, 2, 0.5)
        with pytest.raises(Crash):
            image.write_atomic(NEW, 4096)
    os.close(image.fileno())
    with pytest.raises(NotADisk, match="open it once for writing"):
        DiskImage.open(path, read_only=True)
    assert content(path) == NEW
    DiskImage.open(path, read_only=True).close()


def test_many_overwrites_share_one_journal_that_goes_with_the_image(path):
    image = DiskImage.open(path)
    assert image.max_atomic_bytes == MAX_ATOMIC_BYTES
    big = os.urandom(MAX_ATOMIC_BYTES // 2)
    for data in (NEW, big, OLD):
        image.write_atomic(data, 4096)
        buffer = bytearray(len(data))
        image.read_into(buffer, 4096)
        assert buffer == data
    image.close()
    assert list(path.parent.iterdir()) == [path]
    reader = DiskImage.open(path, read_only=True)
    assert reader.max_atomic_bytes == 0
    reader.close()
