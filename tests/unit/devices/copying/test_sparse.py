"""What a disk does not hold is not read: a copy supplies the zeros."""

import os

import pytest

from datamover.engine import crc32c
from scsi_targets.devices.disk.copy_access import BlockDeviceAccess
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition
from tests.unit.devices.copying.support import Site, block_to_stream, content
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import ALPHA
from tests.unit.devices.tape.support import good

MEBIBYTE = 1 << 20
BLOCKS = 8 * MEBIBYTE // 512


class Watched:
    """A disk with 1 MiB of content at 3 MiB and nothing else, and what was read of its image."""

    def __init__(self, directory, monkeypatch):
        self.disk = make_disk(directory, blocks=BLOCKS, name="sparse")
        self.data = content(MEBIBYTE)
        self.disk.medium.write(self.data, 3 * MEBIBYTE)
        self.reads: list[tuple[int, int]] = []
        read_into = self.disk.medium.read_into

        def watched(buffer, offset):
            self.reads.append((offset, len(buffer)))
            read_into(buffer, offset)

        monkeypatch.setattr(self.disk.medium, "read_into", watched)

    @property
    def content(self) -> bytes:
        return bytes(3 * MEBIBYTE) + self.data + bytes(4 * MEBIBYTE)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    hole = tmp_path / "hole"
    with hole.open("wb") as file:
        file.truncate(MEBIBYTE)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) != 0:
            pytest.skip("this file system does not tell holes")
    watched = Watched(tmp_path, monkeypatch)
    yield watched
    watched.disk.close()


@pytest.fixture
def access(watched):
    return BlockDeviceAccess(watched.disk, Task(ALPHA, 0, bytes(16)))


@pytest.fixture
def site(tmp_path, watched):
    site = Site(tmp_path)
    site.disk.close()
    site.disk = site.units[0] = watched.disk
    while watched.disk.take_unit_attention(ALPHA):
        pass
    yield site
    site.close()


def test_holes_are_not_read_and_are_zeros_on_the_tape(site, watched):
    good(site.copy(block_to_stream(65536, BLOCKS), list_identifier=4))
    assert b"".join(site.written()) == watched.content
    assert sum(length for _, length in watched.reads) == MEBIBYTE
    assert list(site.disk.copy_manager.record(ALPHA, 4).checksums) == [(8 * MEBIBYTE, crc32c(watched.content))]


def test_a_buffer_that_was_used_before_is_cleared(watched, access):
    buffer = bytearray(b"\xff" * (2 * MEBIBYTE + 512))
    access.read_into(buffer, 512)
    assert buffer == bytes(len(buffer)) and watched.reads == []


@pytest.mark.parametrize("offset", [3 * MEBIBYTE - 512, 3 * MEBIBYTE, 4 * MEBIBYTE - 512])
def test_what_is_partly_data_is_read(watched, access, offset):
    buffer = bytearray(b"\xff" * 1024)
    access.read_into(buffer, offset)
    assert buffer == watched.content[offset : offset + 1024] and watched.reads == [(offset, 1024)]


def test_what_is_written_meanwhile_is_seen(watched, access):
    """Emptiness is looked up at each read, never remembered."""
    buffer = bytearray(4096)
    access.read_into(buffer, 5 * MEBIBYTE)
    watched.disk.medium.write(b"new!" * 1024, 5 * MEBIBYTE + 4096)
    access.read_into(buffer, 5 * MEBIBYTE + 4096)
    assert buffer == b"new!" * 1024


def test_a_run_of_data_is_looked_up_once(watched, access, monkeypatch):
    looks = []
    extents = watched.disk.medium.extents
    monkeypatch.setattr(watched.disk.medium, "extents", lambda *range_: looks.append(range_) or extents(*range_))
    for offset in range(3 * MEBIBYTE, 4 * MEBIBYTE, 65536):
        access.read_into(bytearray(65536), offset)
    assert len(looks) == 1


def test_a_read_behind_the_end_is_refused_though_nothing_is_there(watched, access):
    with pytest.raises(CheckCondition) as refusal:
        access.read_into(bytearray(1024), 8 * MEBIBYTE - 512)
    assert refusal.value.sense.code == sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
