"""READ and WRITE (6, 10, 12, 16): data, ranges, limits, residuals, protection, durability."""

import os

import pytest

from datamover.engine import PoolExhausted
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import sbc, sbc_pages, spc
from tests.unit.devices.disk.support import BLOCKS, make_disk, pattern, read, write
from tests.unit.devices.support import ALPHA, data_of, send, sense_of

READS = [sbc.Read6, sbc.Read10, sbc.Read12, sbc.Read16]
WRITES = [sbc.Write6, sbc.Write10, sbc.Write12, sbc.Write16]


@pytest.mark.parametrize("block_length", [512, 4096])
@pytest.mark.parametrize(("write_class", "read_class"), list(zip(WRITES, READS, strict=True)))
def test_what_is_written_is_read(tmp_path, block_length, write_class, read_class):
    disk = make_disk(tmp_path, block_length=block_length)
    for first, count in ((0, 1), (5, 3), (BLOCKS - 2, 2)):
        data = b"".join(pattern(first + i, block_length) for i in range(count))
        cdb = write_class.encode(logical_block_address=first, transfer_length=count)
        response = send(disk, cdb, data=data)
        assert (response.status, response.data_length) == (0, len(data))
        assert data_of(send(disk, read_class.encode(logical_block_address=first, transfer_length=count))) == data
    assert read(disk, 1) == bytes(block_length)
    disk.close()


def test_a_length_of_zero_is_256_blocks_in_the_6_byte_commands_only(disk):
    data = b"".join(pattern(i) for i in range(256))
    assert send(disk, sbc.Write6.encode(), data=data).data_length == len(data)
    assert data_of(send(disk, sbc.Read6.encode())) == data
    for command in READS[1:] + WRITES[1:]:
        assert send(disk, command.encode()).data_length == 0
    assert read(disk, 0, 256) == data


@pytest.mark.parametrize("command", READS + WRITES)
def test_beyond_the_end(disk, command):
    for first, count in ((BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS - 255, 256), (BLOCKS + 1, 0)):
        if command.length == 6 and count in (0, 256):
            count = 255
            first = max(first, BLOCKS - 254)
        cdb = command.encode(logical_block_address=first, transfer_length=count)
        response = send(disk, cdb, data=bytes(512 * count) if command in WRITES else None)
        assert sense_of(response) == (5, 0x21, 0)
    assert read(disk, BLOCKS - 1) == bytes(512)


def test_addresses_of_64_bits(disk):
    for address in (1 << 63, (1 << 64) - 1):
        response = send(disk, sbc.Read16.encode(logical_block_address=address, transfer_length=1))
        assert sense_of(response) == (5, 0x21, 0)
        assert response.sense[15:18] == bytes([0xCF, 0, 2])  # the LOGICAL BLOCK ADDRESS field


def test_more_than_the_maximum_transfer_length(tmp_path):
    disk = make_disk(tmp_path, blocks=1 << 16)
    limits = sbc_pages.BlockLimits(b"\0\xb0\0\0" + disk.vpd_pages[0xB0](None))
    most = limits.maximum_transfer_length
    assert most == (16 << 20) // 512
    assert send(disk, sbc.Read10.encode(transfer_length=most), limit=16 << 20).data_length == 16 << 20
    response = send(disk, sbc.Read10.encode(transfer_length=most + 1))
    assert sense_of(response) == (5, 0x24, 0)
    assert sense_of(send(disk, sbc.Write10.encode(transfer_length=most + 1), data=b"")) == (5, 0x24, 0)
    disk.close()


@pytest.mark.parametrize("command", [*READS[1:], *WRITES[1:]])
def test_protection_information_is_refused(disk, command):
    response = send(disk, command.encode(protect=1, transfer_length=1), data=bytes(512))
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCF, 0, 1])


def test_a_read_moves_no_more_than_the_initiator_takes(disk):
    write(disk, 0, pattern(1) + pattern(2))
    for limit in (0, 200, 512, 1024, 4096):
        response = send(disk, sbc.Read10.encode(transfer_length=2), limit=limit)
        assert (response.status, response.data_length) == (0, 1024)
        sent = b"" if response.data_in is None else bytes(response.data_in)
        assert sent == (pattern(1) + pattern(2))[:limit]


def test_a_write_takes_whole_blocks_of_what_the_initiator_sends(disk):
    two = sbc.Write10.encode(transfer_length=2)
    write(disk, 0, b"a" * 1024)
    assert send(disk, two, data=b"b" * 512).data_length == 1024
    assert read(disk, 0, 2) == b"b" * 512 + b"a" * 512
    assert send(disk, two, data=None).data_length == 1024
    response = send(disk, two, data=b"c" * 700)
    assert sense_of(response) == (5, 0x0E, 3)
    assert response.data_length == 1024
    assert send(disk, two, data=b"d" * 2000).data_length == 1024
    assert read(disk, 0, 3) == b"d" * 1024 + bytes(512)


def test_read_only_images_and_configuration_refuse_to_be_written(tmp_path):
    disk = make_disk(tmp_path, read_only=True)
    for command in WRITES:
        assert sense_of(send(disk, command.encode(transfer_length=1), data=bytes(512))) == (7, 0x27, 0)
    assert data_of(send(disk, spc.ModeSense6.encode(page_code=8, allocation_length=255)))[2] & 0x80
    assert read(disk, 0) == bytes(512)
    disk.close()


class CountingSync:
    """Stands in front of an image and records what was made durable."""

    def __init__(self, monkeypatch, image):
        self.durable_writes = self.synchronized = 0
        write, synchronize = image.write, image.synchronize

        def counted_write(buffer, offset, *, durable=False):
            self.durable_writes += durable
            write(buffer, offset, durable=durable)

        def counted_synchronize():
            self.synchronized += 1
            synchronize()

        monkeypatch.setattr(image, "write", counted_write)
        monkeypatch.setattr(image, "synchronize", counted_synchronize)


def select_caching(disk, enable):
    page = bytearray(
        data_of(send(disk, spc.ModeSense6.encode(page_code=8, allocation_length=255, disable_block_descriptors=1)))
    )
    page[0] = 0
    page[6] = page[6] & ~4 | enable << 2
    cdb = spc.ModeSelect6.encode(page_format=1, parameter_list_length=len(page))
    assert send(disk, cdb, data=bytes(page)).status == 0


def test_force_unit_access_and_write_cache_off_mean_durable(disk, monkeypatch):
    seen = CountingSync(monkeypatch, disk.image)
    write(disk, 0, bytes(512))
    assert seen.durable_writes == 0
    write(disk, 0, bytes(512), force_unit_access=1)
    assert seen.durable_writes == 1
    select_caching(disk, 0)
    assert seen.synchronized == 1  # what the cache held goes to the medium when it is switched off
    write(disk, 0, bytes(512))
    assert seen.durable_writes == 2
    select_caching(disk, 1)
    write(disk, 0, bytes(512))
    assert seen.durable_writes == 2
    assert send(disk, sbc.SynchronizeCache10.encode()).status == 0
    assert send(disk, sbc.SynchronizeCache16.encode(immediate=1)).status == 0
    assert send(disk, sbc.Read10.encode(transfer_length=1, force_unit_access=1)).status == 0
    assert seen.synchronized == 4


def test_an_image_that_fails_is_a_medium_error_and_a_full_store_a_space_failure(disk, monkeypatch):
    def fail(number):
        def call(*_, **__):
            raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr(disk.image, "read_into", fail(5))
    assert sense_of(send(disk, sbc.Read10.encode(transfer_length=1))) == (3, 0x11, 0)
    monkeypatch.setattr(disk.image, "write", fail(5))
    assert sense_of(write(disk, 0, bytes(512))) == (3, 0x0C, 0)
    with monkeypatch.context() as patch:
        patch.setattr(disk.image, "synchronize", fail(5))
        assert sense_of(send(disk, sbc.SynchronizeCache16.encode())) == (3, 0x0C, 0)
        assert sense_of(send(disk, spc.SendDiagnostic.encode(self_test=1))) == (4, 0x3E, 3)
    monkeypatch.setattr(disk.image, "write", fail(28))
    assert sense_of(write(disk, 0, bytes(512))) == (7, 0x27, 7)


@pytest.mark.image_file
def test_an_image_that_became_shorter_is_a_read_error(disk):
    os.truncate(disk.image.path, 512)
    assert sense_of(send(disk, sbc.Read10.encode(logical_block_address=1, transfer_length=1))) == (3, 0x11, 0)


def test_an_exhausted_pool_is_task_set_full(disk):
    class Empty:
        def acquire(self, length, /):
            raise PoolExhausted

    task = Task(ALPHA, 0, sbc.Read10.encode(transfer_length=1).ljust(16, b"\0"), data_in_limit=512, pool=Empty())
    assert disk.execute(task).status == 0x28
