"""A snapshot of a disk as a disk of its own: what an initiator reads of the instant, and what it is told in the end."""

import threading

import pytest

from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.disk.instant import held_still
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc
from scsi_targets.t10.sense import CheckCondition
from tests.unit.devices.copying.support import BLOCKS as BLOCKS_ON_DISK
from tests.unit.devices.copying.support import Site, block_to_stream, stream_to_block
from tests.unit.devices.disk.support import BLOCKS, make_disk, read, write
from tests.unit.devices.support import ALPHA, send, sense_of
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


# ---- copies of it ----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.close()


def on_tape(site) -> bytes:
    return b"".join(site.written())


def test_a_copy_finds_it_only_in_a_view_that_has_it(site):
    snapshots = taken(site.disk, budget=1 << 22)
    view = disk_of(snapshots)
    site.disk.medium.write(b"later" * 1000, 0)
    descriptors = [copy.identification_descriptor(view.identity.naa, device_type=0), site.tape_descriptor()]
    segments = [block_to_stream(4096, BLOCKS_ON_DISK)]
    refused = site.copy(*segments, cscds=descriptors)
    assert sense_of(refused) == (0x0A, 0x0D, 0x02)  # COPY TARGET DEVICE NOT REACHABLE
    site.add(view)
    view.nexus_established(ALPHA)
    while view.take_unit_attention(ALPHA):
        pass
    assert site.copy(*segments, cscds=descriptors).status == 0
    assert on_tape(site) == site.disk_data
    snapshots.release()
    assert sense_of(site.copy(*segments, cscds=descriptors))[0] == 0x0A


def test_a_copy_onto_the_disk_leaves_the_instant(site):
    snapshots = taken(site.disk, budget=1 << 22)
    site.fill([bytes([number]) * 4096 for number in range(1, 21)])
    assert site.copy(stream_to_block(4096, 160, 8)).status == 0
    assert read(site.disk, 8) == b"\1" * 512
    send(site.disk, sbc.WriteAndVerify16.encode(logical_block_address=300, transfer_length=1), data=b"v" * 512)
    found = bytearray(BLOCKS_ON_DISK * 512)
    disk_of(snapshots).medium.read_into(found, 0)
    assert found == site.disk_data
    snapshots.release()


@pytest.mark.parametrize("hole", [1, 7, PER_CHUNK, 5 * PER_CHUNK + 3])
def test_what_is_released_by_reading_is_released_by_passing_over_holes(site, hole):
    """Holes of a chunk's part, too: a copy does not read them, and yet nothing of the chunk is left to be kept."""
    for at in range(0, BLOCKS_ON_DISK, 3 * hole):
        site.disk.medium.deallocate(at * 512, min(hole, BLOCKS_ON_DISK - at) * 512)
    site.disk.medium.synchronize()
    before = bytearray(BLOCKS_ON_DISK * 512)
    site.disk.medium.read_into(before, 0)
    store = MemoryChunks(1 << 22)
    snapshots = SnapshotSet.take([site.disk.medium], store, hold=held_still([site.disk]), release_on_read=True)
    site.disk.medium.write(b"n" * 512 * 40, 512 * 100)
    view = disk_of(snapshots)
    site.add(view)
    view.nexus_established(ALPHA)
    while view.take_unit_attention(ALPHA):
        pass
    descriptors = [copy.identification_descriptor(view.identity.naa, device_type=0), site.tape_descriptor()]
    assert site.copy(block_to_stream(4096, BLOCKS_ON_DISK), cscds=descriptors).status == 0
    assert on_tape(site) == before
    (figures,) = snapshots.figures()
    assert (figures.live_bytes, figures.saved_bytes) == (0, 0)
    assert figures.retired_bytes == figures.size_bytes
    assert store.stored_bytes == 0
    snapshots.release()


@pytest.mark.parametrize("sanitize", [True, False])
def test_what_is_sanitized_is_kept_nowhere_and_what_is_formatted_is(tmp_path, sanitize):
    disk = make_disk(tmp_path)
    write(disk, 0, b"secret!!" * 64)
    snapshots = taken(disk)
    view = disk_of(snapshots)
    assert send(disk, sbc.SanitizeBlockErase.encode() if sanitize else sbc.FormatUnit.encode()).status == 0
    if sanitize:
        assert snapshots.stored_bytes == 0
        assert sense_of(send(view, sbc.Read16.encode(transfer_length=1))) == UNRECOVERED_READ_ERROR
    else:
        assert read(view, 0) == b"secret!!" * 64
    snapshots.release()
    disk.close()


# ---- the instant of several ------------------------------------------------------------------------------------------


def test_disks_are_held_still_together(tmp_path):
    first, second = make_disk(tmp_path, name="a"), make_disk(tmp_path, name="b")
    with held_still([second, first]):
        writers = [threading.Thread(target=write, args=(disk, 0, b"new!" * 128)) for disk in (first, second)]
        for writer in writers:
            writer.start()
        snapshots = SnapshotSet.take([first.medium, second.medium], MemoryChunks(1 << 20))
        assert all(writer.is_alive() for writer in writers)
    for writer in writers:
        writer.join(60)
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
