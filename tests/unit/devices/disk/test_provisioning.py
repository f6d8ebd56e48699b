"""WRITE SAME, UNMAP and GET LBA STATUS: what is written, given back, anchored and told."""

import threading

import pytest

from scsi_targets.devices.disk import provisioning as block_provisioning
from scsi_targets.devices.disk.capacity import MAX_WRITE_SAME_BLOCKS
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import sbc, sbc_pages
from tests.support.storage import needs_fiemap
from tests.unit.devices.disk.support import BLOCKS, make_disk, pattern, read, write
from tests.unit.devices.support import ALPHA, data_of, send, sense_of

MAPPED, DEALLOCATED, ANCHORED = 0, 1, 2
SAMES = [sbc.WriteSame10, sbc.WriteSame16]


def status(disk, start=0, allocation_length=4096):
    cdb = sbc.GetLbaStatus16.encode(starting_logical_block_address=start, allocation_length=allocation_length)
    data = data_of(send(disk, cdb))
    rows = [sbc_pages.LbaStatusDescriptor(data[at : at + 16]) for at in range(8, len(data), 16)]
    return [(row.logical_block_address, row.number_of_logical_blocks, row.provisioning_status) for row in rows]


def unmap(disk, *ranges, anchor=0):
    rows = b"".join(
        sbc_pages.UnmapBlockDescriptor.encode(logical_block_address=address, number_of_logical_blocks=count)
        for address, count in ranges
    )
    header = sbc_pages.UnmapParameterListHeader.encode(
        unmap_data_length=6 + len(rows), block_descriptor_data_length=len(rows)
    )
    data = header + rows
    return send(disk, sbc.Unmap.encode(anchor=anchor, parameter_list_length=len(data)), data=data)


@pytest.mark.parametrize("command", SAMES)
@pytest.mark.parametrize("block_length", [512, 4096])
def test_write_same_writes_the_block_everywhere(tmp_path, command, block_length):
    disk = make_disk(tmp_path, block_length=block_length)
    block = pattern(77, block_length)
    cdb = command.encode(logical_block_address=3, number_of_logical_blocks=5)
    assert send(disk, cdb, data=block).data_length == block_length
    assert read(disk, 2, 7) == bytes(block_length) + block * 5 + bytes(block_length)
    disk.close()


@pytest.mark.parametrize("command", SAMES)
def test_a_number_of_zero_is_to_the_end(disk, command):
    assert send(disk, command.encode(logical_block_address=BLOCKS - 9), data=pattern(1)).status == 0
    assert read(disk, BLOCKS - 10, 10) == bytes(512) + pattern(1) * 9
    for address in (BLOCKS, BLOCKS + 1):
        assert sense_of(send(disk, command.encode(logical_block_address=address), data=bytes(512))) == (5, 0x21, 0)


@pytest.mark.parametrize("command", SAMES)
def test_write_same_takes_exactly_one_block(disk, command):
    for data in (None, bytes(256), bytes(1024)):
        assert sense_of(send(disk, command.encode(number_of_logical_blocks=1, unmap=1), data=data)) == (5, 0x0E, 3)
    assert sense_of(send(disk, command.encode(number_of_logical_blocks=1, anchor=1), data=bytes(512))) == (5, 0x24, 0)
    assert sense_of(send(disk, command.encode(number_of_logical_blocks=1, protect=1), data=bytes(512))) == (5, 0x24, 0)


@pytest.mark.parametrize("unmapped", [0, 1])
def test_write_same_has_a_longest_length(tmp_path, unmapped):
    disk = make_disk(tmp_path, blocks=MAX_WRITE_SAME_BLOCKS + 1)
    for count in (MAX_WRITE_SAME_BLOCKS + 1, 0):  # 0 is up to the end, which is one too far
        cdb = sbc.WriteSame16.encode(number_of_logical_blocks=count, unmap=unmapped)
        assert sense_of(send(disk, cdb, data=bytes(512))) == (5, 0x24, 0)
        cdb = sbc.WriteSame16.encode(logical_block_address=1, number_of_logical_blocks=count, unmap=unmapped)
    assert send(disk, cdb, data=bytes(512)).status == 0
    disk.close()


@pytest.mark.parametrize("command", SAMES)
def test_write_same_unmaps_zeros_and_writes_everything_else(disk, command):
    write(disk, 0, b"x" * 512 * 64)
    cdb = command.encode(number_of_logical_blocks=32, unmap=1)
    assert send(disk, cdb, data=bytes(512)).status == 0
    assert read(disk, 0, 64) == bytes(512 * 32) + b"x" * 512 * 32
    assert status(disk)[0] == (0, 32, DEALLOCATED)
    assert send(disk, cdb, data=b"y" * 512).status == 0
    assert read(disk, 0, 32) == b"y" * 512 * 32
    assert status(disk)[0] == (0, 64, MAPPED)


@pytest.mark.parametrize("command", SAMES)
def test_without_the_promise_of_zeros_any_block_is_unmapped(tmp_path, command):
    disk = make_disk(tmp_path, read_zeros=False)
    write(disk, 0, b"x" * 512 * 64)
    assert send(disk, command.encode(number_of_logical_blocks=64, unmap=1), data=b"y" * 512).status == 0
    assert status(disk) == [(0, BLOCKS, DEALLOCATED)]
    assert data_of(send(disk, sbc.ReadCapacity16.encode(allocation_length=32)))[14] == 0x80
    disk.close()


def test_no_data_out_buffer_is_a_block_of_zeros(disk):
    write(disk, 0, b"x" * 512 * 16)
    for unmapped in (0, 1):
        cdb = sbc.WriteSame16.encode(number_of_logical_blocks=8, no_data_out_buffer=1, unmap=unmapped)
        assert send(disk, cdb).status == 0
        assert read(disk, 0, 16) == bytes(512 * 8) + b"x" * 512 * 8
        assert sense_of(send(disk, cdb, data=bytes(512))) == (5, 0x0E, 3)


def test_anchored_blocks_have_their_space_and_read_as_zeros(disk):
    needs_fiemap(disk.image)
    write(disk, 0, b"x" * 512 * 64)
    assert (
        send(disk, sbc.WriteSame16.encode(number_of_logical_blocks=16, unmap=1, anchor=1, no_data_out_buffer=1)).status
        == 0
    )
    assert unmap(disk, (16, 16), anchor=1).status == 0
    assert status(disk)[:2] == [(0, 32, ANCHORED), (32, 32, MAPPED)]
    assert read(disk, 0, 33) == bytes(512 * 32) + b"x" * 512
    assert unmap(disk, (0, 32)).status == 0
    assert status(disk)[0] == (0, 32, DEALLOCATED)


@pytest.mark.image_file
def test_unmapped_blocks_read_as_zeros_at_any_alignment(disk):
    write(disk, 0, b"x" * 512 * 64)
    assert unmap(disk, (1, 1), (9, 30), (63, 1), (5, 0)).status == 0
    data = read(disk, 0, 64)
    gone = {1, *range(9, 39), 63}
    for block in range(64):
        assert data[block * 512 : block * 512 + 512] == (bytes(512) if block in gone else b"x" * 512), block
    before = disk.image.path.stat().st_blocks
    assert unmap(disk, (0, BLOCKS)).status == 0
    assert disk.image.path.stat().st_blocks < before
    assert status(disk) == [(0, BLOCKS, DEALLOCATED)]


def test_unmap_checks_everything_before_it_does_anything(disk):
    write(disk, 0, b"x" * 512)
    assert sense_of(unmap(disk, (0, 1), (BLOCKS, 1))) == (5, 0x21, 0)
    assert sense_of(unmap(disk, (0, 1), (BLOCKS - 1, 2))) == (5, 0x21, 0)
    assert unmap(disk, (BLOCKS, 0)).status == 0
    assert sense_of(send(disk, sbc.Unmap.encode(parameter_list_length=7), data=bytes(7))) == (5, 0x1A, 0)
    assert sense_of(send(disk, sbc.Unmap.encode(parameter_list_length=24), data=bytes(8))) == (5, 0x1A, 0)
    assert read(disk, 0) == b"x" * 512
    for nothing in (b"", bytes(8), bytes(2) + (15).to_bytes(2, "big") + bytes(20)):
        assert send(disk, sbc.Unmap.encode(parameter_list_length=len(nothing)), data=nothing).status == 0


def test_write_protected_disks_keep_their_blocks(tmp_path):
    disk = make_disk(tmp_path, read_only=True)
    assert sense_of(unmap(disk, (0, 1))) == (7, 0x27, 0)
    for command in SAMES:
        assert sense_of(send(disk, command.encode(number_of_logical_blocks=1), data=bytes(512))) == (7, 0x27, 0)
    disk.close()


def test_status_starts_where_it_was_asked_and_fits_the_allocation_length(disk):
    for first in (64, 192, 320):
        write(disk, first, b"x" * 512 * 64)
    everything = status(disk)
    assert everything == [
        (0, 64, DEALLOCATED), (64, 64, MAPPED), (128, 64, DEALLOCATED), (192, 64, MAPPED), (256, 64, DEALLOCATED),
        (320, 64, MAPPED), (384, BLOCKS - 384, DEALLOCATED),
    ]  # fmt: skip
    assert status(disk, 70)[0] == (70, 58, MAPPED)
    assert status(disk, 0, 24) == everything[:1]
    assert status(disk, 0, 8 + 16 * 3) == everything[:3]
    assert status(disk, BLOCKS - 1) == [(BLOCKS - 1, 1, DEALLOCATED)]
    for beyond in (BLOCKS, 1 << 63):
        cdb = sbc.GetLbaStatus16.encode(starting_logical_block_address=beyond, allocation_length=24)
        assert sense_of(send(disk, cdb)) == (5, 0x21, 0)


def test_status_of_ranges_longer_than_a_descriptor_can_count(tmp_path):
    disk = make_disk(tmp_path, blocks=(1 << 32) + 100)
    assert status(disk) == [(0, 0xFFFFFFFF, DEALLOCATED), (0xFFFFFFFF, 101, DEALLOCATED)]
    disk.close()


def test_a_long_write_same_leaves_the_connection_free(disk, monkeypatch):
    monkeypatch.setattr(block_provisioning, "LONG_FILL_BYTES", 1024)
    done, answers = threading.Event(), []
    task = Task(
        ALPHA, 0, sbc.WriteSame16.encode().ljust(16, b"\0"), data_out=pattern(5),
        complete=lambda response: (answers.append(response), done.set()),
    )  # fmt: skip
    assert disk.execute(task) is None
    assert done.wait(60)
    assert (answers[0].status, answers[0].data_length) == (0, 512)
    assert read(disk, 0, BLOCKS) == pattern(5) * BLOCKS
