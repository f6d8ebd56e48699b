"""Blocks that go out of a file to a cartridge in one call: what goes smoothly does, and the next block tells why."""

import errno
import os
import random
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import crcmod.predefined
import pytest

from datamover.engine import storage_fault, storage_faults_clear
from datamover.file_run import FileRun
from tests.unit.cartridge.conftest import contents
from tests.unit.cartridge.test_damage import flip
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Encoder
from vlib_images.cartridge.partition import UNSYNCED_SEGMENTS
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import DamagedBlock, EndOfPartition, NoSpace, StorageError, WormViolation, WriteProtected

Make = Callable[..., Cartridge]
castagnoli = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
LENGTH = 1000
DATA = random.Random(4).randbytes(400 * LENGTH)
BLOCKS = [DATA[at : at + LENGTH] for at in range(0, len(DATA), LENGTH)]
SMALL = SegmentLimits(segment_bytes=20_000, segment_objects=1000, disk_low_bytes=0)
PER_SEGMENT = 19
FOREVER = 10**9


@pytest.fixture
def file() -> Iterator[int]:
    """DATA in a file in memory, where nothing has to be waited for."""
    descriptor = os.memfd_create("data")
    os.write(descriptor, DATA)
    yield descriptor
    os.close(descriptor)


def run_of(descriptor: int, blocks: int = 400, offset: int = 0, memory: int = 5500) -> FileRun:
    checksums = memoryview(bytearray(4 * blocks))
    return FileRun(descriptor, offset, LENGTH, blocks, checksums, bytearray(memory), bytearray(memory))  # type: ignore[arg-type]


def counts(cartridge: Cartridge) -> tuple[object, ...]:
    partition, usage = cartridge.storage.partitions[0], cartridge.usage
    written = (usage.blocks_written, usage.bytes_written, usage.stored_bytes_written)
    read = (usage.blocks_read, usage.bytes_read, usage.stored_bytes_read)
    return cartridge.position, partition.room_bytes, partition.used_bytes, usage.changes, written, read


def test_over_many_segments(make: Make, tmp_path: Path, file: int) -> None:
    with make(limits=SMALL) as ordinary, make(barcode="T00002L8", limits=SMALL) as cartridge:
        run = run_of(file)
        ordinary.write_blocks(DATA, LENGTH)
        assert cartridge.writes_files
        assert cartridge.write_file(run) == 400
        assert array("I", bytes(run.checksums)) == array("I", map(castagnoli, BLOCKS))
        assert counts(cartridge) == counts(ordinary)
        assert len(cartridge.storage.partitions[0].segments.entries) == -(-400 // PER_SEGMENT)
    with Cartridge.open(tmp_path / "T00002L8", limits=SMALL) as cartridge:
        assert contents(cartridge) == BLOCKS


def test_nothing_is_overwritten_or_encoded(make: Make, file: int) -> None:
    with make() as cartridge:
        cartridge.write_blocks(DATA, LENGTH)
        assert cartridge.writes_files
        cartridge.locate_block(0, 399)
        assert not cartridge.writes_files
        cartridge.space_end_of_data()
        cartridge.encoder = Encoder(1)
        assert not cartridge.writes_files


def test_the_end_of_the_partition(make: Make, file: int) -> None:
    with make(limits=SMALL, capacity_bytes=100 * 1032 + 500) as cartridge:
        assert cartridge.write_file(run_of(file)) == 100
        assert cartridge.write_file(run_of(file)) == 0
        assert cartridge.usage.blocks_written == 100
        with pytest.raises(EndOfPartition) as told:
            cartridge.write_blocks(DATA[100 * LENGTH :], LENGTH)
        assert told.value.blocks_written == 0
        assert contents(cartridge) == BLOCKS[:100]


def test_what_must_not_be_written(make: Make, file: int) -> None:
    with make() as cartridge:
        cartridge.write_protected = True
        with pytest.raises(WriteProtected):
            cartridge.write_file(run_of(file))
        cartridge.write_protected = False
        assert contents(cartridge) == []
    with make(barcode="T00002L8", worm=True) as worm:
        assert worm.write_file(run_of(file)) == 400
        worm.locate_block(0, 5)
        assert not worm.writes_files
        with pytest.raises(WormViolation):
            worm.write_file(run_of(file))
        assert contents(worm) == BLOCKS


@pytest.mark.parametrize("operation", ["open", "write", "allocate"])
@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_a_disk_that_gets_full(make: Make, tmp_path: Path, file: int, operation: str, after: int) -> None:
    with make(limits=SMALL) as cartridge:
        storage_fault(operation, errno.ENOSPC, after=after, times=FOREVER, path="p0")
        done = cartridge.write_file(run_of(file))
        assert done < 400
        assert (cartridge.position, cartridge.usage.blocks_written) == ((0, done), done)
        with pytest.raises(NoSpace) as told:
            cartridge.write_blocks(DATA[done * LENGTH :], LENGTH)
        assert told.value.blocks_written == 0
        storage_faults_clear()
        rest = 400 - done
        assert cartridge.write_file(run_of(file, rest, done * LENGTH)) == rest
        assert contents(cartridge) == BLOCKS
    with Cartridge.open(tmp_path / "T00001L8", limits=SMALL) as cartridge:
        assert contents(cartridge) == BLOCKS


def test_a_sync_that_fails_in_mid_run_is_told_and_final(make: Make, file: int) -> None:
    """The system tells it once; the run must not swallow it."""
    cartridge = make(limits=SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlib_images.cartridge.partition.UNSYNCED_SEGMENTS", 4)
        storage_fault("sync", errno.EIO, path=".seg")
        done = cartridge.write_file(run_of(file))
        assert 4 * PER_SEGMENT <= done < 400
        with pytest.raises(StorageError):
            cartridge.write_blocks(DATA, LENGTH)
        assert cartridge.write_file(run_of(file)) == 0
        with pytest.raises(StorageError):
            cartridge.synchronize()
    assert contents(cartridge) == BLOCKS[:done]
    with pytest.raises(StorageError):
        cartridge.close()


def test_older_segments_are_synchronized_on_the_way(make: Make, file: int) -> None:
    with make(limits=SegmentLimits(segment_bytes=5000, segment_objects=4, disk_low_bytes=0)) as cartridge:
        assert cartridge.write_file(run_of(file)) == 400
        assert len(cartridge.storage.partitions[0].segments.unsynced) <= UNSYNCED_SEGMENTS
        assert contents(cartridge) == BLOCKS


@pytest.mark.parametrize("there", [PER_SEGMENT - 1, PER_SEGMENT, PER_SEGMENT + 1, 2 * PER_SEGMENT])
def test_a_file_that_ends_where_a_segment_does(make: Make, tmp_path: Path, file: int, there: int) -> None:
    """Whatever was begun for blocks that did not come, the tape goes on, and can be opened."""
    os.ftruncate(file, there * LENGTH + 500)
    with make(limits=SMALL) as cartridge:
        for _ in range(2):
            assert cartridge.write_file(run_of(file)) == there
        cartridge.synchronize()
        assert contents(cartridge) == BLOCKS[:there] * 2
    with Cartridge.open(tmp_path / "T00001L8", limits=SMALL) as cartridge:
        cartridge.space_end_of_data()
        cartridge.write_filemarks(1)
        assert cartridge.write_file(run_of(file, 1)) == 1
        assert contents(cartridge) == [*BLOCKS[:there] * 2, None, BLOCKS[0]]


def damaged(make: Make, directory: Path, number: int) -> Cartridge:
    """DATA on a cartridge, with a flipped bit in one block."""
    with make(limits=SMALL) as cartridge:
        cartridge.write_blocks(DATA, LENGTH)
    for path in (directory / "T00001L8" / "p0").glob("*.seg"):
        at = path.read_bytes().find(BLOCKS[number])
        if at >= 0:
            flip(path, at + 500, 2)
    return Cartridge.open(directory / "T00001L8", limits=SMALL)


def test_blocks_before_a_damaged_one_are_counted_however_they_are_read(make: Make, tmp_path: Path) -> None:
    with damaged(make, tmp_path, 55) as cartridge:
        with pytest.raises(DamagedBlock) as told:
            cartridge.read_blocks(bytearray(len(DATA)), LENGTH, 400)
        assert told.value.blocks_read == 55
        assert (cartridge.usage.blocks_read, cartridge.usage.bytes_read) == (55, 55 * LENGTH)
        assert (cartridge.usage.stored_bytes_read, cartridge.position) == (55 * LENGTH, (0, 56))
