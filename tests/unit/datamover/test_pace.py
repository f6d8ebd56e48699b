"""A copy that is held back: how fast it goes, that this can change, that it can be stopped meanwhile."""

import threading
import time

import pytest

from datamover.copy_job import CHUNK_BYTES, CopyJob, CopySegment
from datamover.copy_progress import CopyCancelled
from datamover.endpoints import DiskExtent, TapeBlocks
from datamover.pace import Pace
from tests.unit.datamover.endpoint_fakes import MemoryDisk, MemoryTape

DATA = bytes(3 * CHUNK_BYTES)


def job(tape, pace, cancelled=lambda: False):
    return CopyJob(
        [CopySegment(DiskExtent(MemoryDisk(DATA), 0), TapeBlocks(tape, 65536), len(DATA))],
        pace=pace,
        cancelled=cancelled,
    )


def test_a_copy_takes_the_time_that_its_rate_says():
    tape, began = MemoryTape(), time.monotonic()
    job(tape, Pace(10 * len(DATA))).run()
    assert time.monotonic() - began >= 0.09
    assert tape.data == DATA


def test_two_copies_each_have_their_rate():
    """None waits for the other: both together take as long as one."""
    pace, other = Pace(20 * len(DATA)), Pace()
    running = job(MemoryTape(), pace)
    thread = threading.Thread(target=running.run)
    thread.start()
    job(free := MemoryTape(), other).run()
    assert free.data == DATA
    thread.join(60)
    assert running.progress.bytes_written == len(DATA)


def test_the_rate_changes_while_it_runs():
    pace, tape = Pace(1), MemoryTape()  # it would take a month
    thread = threading.Thread(target=job(tape, pace).run)
    thread.start()
    pace.bytes_per_second = 0
    thread.join(60)
    assert tape.data == DATA
    assert pace.bytes_per_second == 0


def test_a_copy_that_is_held_back_is_stopped_at_once():
    stopped, tape = threading.Event(), MemoryTape()
    threading.Timer(0.05, stopped.set).start()
    with pytest.raises(CopyCancelled):
        job(tape, Pace(1), stopped.is_set).run()
    assert len(tape.data) < len(DATA)
    assert {len(block) for block in tape.blocks} <= {65536}
