"""A snapshot of a disk as a disk of its own: what an initiator reads of the instant, and what it is told in the end."""

import threading

import pytest

from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.disk.instant import held_still
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.t10 import sbc
from scsi_targets.t10.sense import CheckCondition
from tests.unit.devices.disk.support import BLOCKS, make_disk, read, write
from tests.unit.devices.support import send, sense_of
from vlib_images.disk.snapshot_image import SnapshotImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import CHUNK_BYTES, MemoryChunks

WRITE_PROTECTED, UNRECOVERED_READ_ERROR = (7, 0x27, 0), (3, 0x11, 0)
PER_CHUNK = CHUNK_BYTES // 512


def taken(*disks, budget=1 << 20) -> SnapshotSet:
    return SnapshotSet.take([disk.medium for disk in disks], MemoryChunks(budget), hold=held_still(disks))


def disk_of(snapshots: SnapshotSet, number: int = 0) -> BlockDevice:
    return BlockDevice(
        Identity("TAPEBAY", "SNAPSHOT", "0001", f"S{number}"), SnapshotImage(snapshots.snapshots[number])
    )


def test_it_reads_the_instant_and_refuses_writes(tmp_path):
    disk = make_disk(tmp_path)
    write(disk, 0, b"old!" * 128 * 4)
    snapshots = taken(disk)
    view = disk_of(snapshots)
    write(disk, 1, b"new!" * 128 * 2)
    send(disk, sbc.WriteSame16.encode(logical_block_address=3, number_of_logical_blocks=1), data=b"same" * 128)
    send(disk, sbc.WriteAtomic16.encode(logical_block_address=0, transfer_length=1), data=b"atom" * 128)
    assert read(view, 0, 4) == b"old!" * 128 * 4
    assert read(disk, 0, 4) == b"atom" * 128 + b"new!" * 256 + b"same" * 128
    assert sense_of(write(view, 0, bytes(512))) == WRITE_PROTECTED
    assert view.capacity == BLOCKS
    snapshots.release()
    disk.close()


def test_a_broken_one_is_a_medium_error_for_ever_and_the_disk_goes_on(tmp_path):
    disk = make_disk(tmp_path)
    write(disk, 0, b"x" * 512 * 3 * PER_CHUNK)
    snapshots = taken(disk, budget=CHUNK_BYTES)
    view = disk_of(snapshots)
    assert write(disk, 0, b"y" * 512 * 2 * PER_CHUNK).status == 0
    for block in (0, 2 * PER_CHUNK, BLOCKS - 1):
        cdb = sbc.Read16.encode(logical_block_address=block, transfer_length=1)
        assert sense_of(send(view, cdb)) == UNRECOVERED_READ_ERROR
    assert read(disk, 0) == b"y" * 512
    snapshots.release()
    disk.close()


def test_disks_are_held_still_together(tmp_path):
    first, second = make_disk(tmp_path, name="a"), make_disk(tmp_path, name="b")
    with held_still([second, first]):
        writers = [threading.Thread(target=write, args=(disk, 0, b"new!" * 128)) for disk in (first, second)]
        for writer in writers:
            writer.start()
        snapshots = SnapshotSet.take([first.medium, second.medium], MemoryChunks(1 << 20))
        assert all(writer.is_alive() for writer in writers)
    for writer in writers:
        writer.join(10)
    for number, disk in enumerate((first, second)):
        assert read(disk, 0) == b"new!" * 128
        assert read(disk_of(snapshots, number), 0) == bytes(512)
    snapshots.release()
    first.close()
    second.close()


def test_a_disk_without_its_medium_is_not_held(tmp_path):
    disk, empty = make_disk(tmp_path), make_disk(tmp_path, name="b", removable=True)
    send(empty, sbc.StartStopUnit.encode(load_eject=1))
    with pytest.raises(CheckCondition), held_still([disk, empty]):
        raise AssertionError("not reached")
    assert write(disk, 0, bytes(512)).status == 0  # nobody holds it any more
    disk.close()
