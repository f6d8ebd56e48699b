"""Space on disk follows what is on the tape: the bounds that FORMAT.md states."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from datamover.engine import storage_trace
from tests.sim.storage_replay import read_trace
from tests.support.processes import open_files
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.partition import SEGMENT_DEAD_BYTES, TRUNCATE_DEAD_BYTES
from vlib_images.cartridge.segments import SegmentLimits

Make = Callable[..., Cartridge]
FILES_BYTES = 64 << 10  # documents, manifest and their spares


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(("length", "count"), [(512, 20_000), (10_240, 2000), (262_144, 100), (1, 20_000)])
def test_bytes_on_disk_for_each_byte_written(make: Make, tmp_path: Path, length: int, count: int) -> None:
    with make() as cartridge:
        cartridge.write_blocks(bytes(length * count), length)
    record = 32 + (length + 7 & ~7)
    tables = 4 * count * 4096 // 4092 + 3 * 4096
    assert on_disk(tmp_path / "T00001L8") <= count * record + tables + FILES_BYTES


BLOCK, SEGMENT = 1 << 16, 1 << 22


def test_a_stream_gives_no_space_back_before_its_sync(make: Make, tmp_path: Path) -> None:
    """To give space back is to wait for the disk, where the file system is mounted with `discard`: at each sealed
    segment the stream stood behind all that was being written."""
    trace = tmp_path / "trace"
    with make(limits=SegmentLimits(segment_bytes=SEGMENT)) as cartridge:
        storage_trace(str(trace))
        try:
            cartridge.write_blocks(bytes(5 * SEGMENT), BLOCK)
            steps = [step for step in read_trace(trace, tmp_path) if step.path.endswith(".seg")]
            assert {step.operation for step in steps} == {"open", "write"}
            cartridge.synchronize()
        finally:
            storage_trace(None)


def test_segments_claim_no_more_than_they_can_hold(make: Make, tmp_path: Path) -> None:
    """Sealed ones that wait for their sync would otherwise hold 32 MiB each; the sync gives the rest back."""
    with make(limits=SegmentLimits(segment_bytes=SEGMENT)) as cartridge:
        cartridge.write_blocks(bytes(5 * SEGMENT), BLOCK)
        sealed = sorted((tmp_path / "T00001L8" / "p0").glob("*.seg"))[:-1]
        slack = 64 << 10
        assert len(sealed) == 5
        for path in sealed:
            assert path.stat().st_blocks * 512 <= SEGMENT + 2 * slack
        cartridge.synchronize()
        for path in sealed:
            assert path.stat().st_blocks * 512 <= path.stat().st_size + slack // 2


def test_overwriting_again_and_again_costs_no_more_than_stated(make: Make, tmp_path: Path) -> None:
    """A small label rewritten before a growing file, and large rewrites from random places."""
    rng = random.Random(1)
    with make() as cartridge:
        for _ in range(60):
            end = cartridge.end_of_data(0)
            cartridge.locate_block(0, rng.randrange(max(1, end)))
            cartridge.write_blocks(bytes(65536 * rng.randrange(1, 60)), 65536)
            cartridge.synchronize()
            live = cartridge.used_bytes(0)
            claimed = 33 << 20
            bound = live + SEGMENT_DEAD_BYTES + TRUNCATE_DEAD_BYTES + claimed + FILES_BYTES
            assert on_disk(tmp_path / "T00001L8") <= bound
    assert on_disk(tmp_path / "T00001L8") <= live + SEGMENT_DEAD_BYTES + TRUNCATE_DEAD_BYTES + FILES_BYTES


@pytest.mark.parametrize("how", ["overwrite", "erase", "format"])
def test_what_is_gone_gives_its_space_back(make: Make, tmp_path: Path, how: str) -> None:
    with make() as cartridge:
        cartridge.write_blocks(bytes(65536 * 600), 65536)
        cartridge.synchronize()
        assert on_disk(tmp_path / "T00001L8") > 39 << 20
        cartridge.rewind()
        if how == "overwrite":
            cartridge.write_block(b"x")
        elif how == "erase":
            cartridge.erase()
        else:
            cartridge.format([1 << 30])
    assert on_disk(tmp_path / "T00001L8") <= 2 * FILES_BYTES


def test_early_writeback_keeps_no_deleted_segment_open(make: Make, tmp_path: Path) -> None:
    """A descriptor left in the queue would hold the blocks of what was erased: a full disk could not be erased."""
    with make() as cartridge:
        for _ in range(3):
            cartridge.write_blocks(bytes(1 << 26), 1 << 20)
            cartridge.rewind()
            cartridge.erase()
            mine = [name for name in open_files() if str(tmp_path) in name]
            assert [name for name in mine if name.endswith("(deleted)")] == []


def test_many_small_files_do_not_make_many_segments(make: Make, tmp_path: Path) -> None:
    """What st does at every close: two filemarks, and back over one of them."""
    with make() as cartridge:
        for number in range(2000):
            cartridge.write_block(number.to_bytes(2, "big") * 100)
            cartridge.write_filemarks(2)
            cartridge.space_filemarks(-1)
    assert len(list((tmp_path / "T00001L8" / "p0").glob("*.seg"))) <= 2000 // 255 + 1
