"""Runs of a copy job: when they are tried, what is counted, how they fail."""

from pathlib import Path

import crcmod.predefined
import pytest

from datamover.copy_job import CHUNK_BYTES, CopyJob, CopySegment, Rest, Rests
from datamover.copy_progress import CopyCancelled, Side
from datamover.endpoints import DiskExtent, InlineBytes, NullDevice, TapeBlocks
from datamover.pace import Pace
from datamover.run_length import LONGEST_RUN_BYTES, NO_RUN_BYTES, RUN_SECONDS, SHORTEST_RUN_BYTES, RunLength
from tests.unit.datamover.endpoint_fakes import FileDisk, MemoryTape, Stopped
from tests.unit.datamover.runs import after_runs, runs_of
from tests.unit.datamover.test_copy_job import DATA, failure, inline, keep

crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
BLOCK = 4096
LENGTH = len(DATA)


@pytest.fixture
def disk(tmp_path: Path):
    disk = FileDisk(tmp_path / "disk", DATA)
    yield disk
    disk.close()


@pytest.fixture
def tape():
    """One that is written."""
    tape = MemoryTape()
    tape.run_blocks = 100
    return tape


def to_tape(disk, tape, length=LENGTH):
    return CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, BLOCK), length)


def run(*steps, **more):
    job = CopyJob(steps, **more)
    with runs_of(100_000, longest_bytes=300_000):
        job.run()
    return job


# ---- all that is counted ---------------------------------------------------------------------------------------------


def test_to_a_tape_all_of_it_in_runs(disk, tape):
    job = run(to_tape(disk, tape))
    assert tape.data == DATA
    assert sum(tape.runs) * BLOCK == LENGTH
    assert job.progress.bytes_written == job.tallies[0].written_bytes == job.tallies[0].taken_bytes == LENGTH
    assert job.progress.crc32c == job.tallies[0].crc32c == crc32c(DATA)
    assert job.progress.operations == len(tape.runs)


def test_runs_and_ordinary_writes_alternate(disk, tape):
    """Where runs are possible now and then only."""
    write_file, times = tape.write_file, iter([100_000, 0, 0, 3, 1, 0] * 100)

    def sometimes(run):
        return write_file(run._replace(blocks=min(run.blocks, next(times))))

    tape.write_file = sometimes
    with runs_of(100_000, chunk_bytes=50_000):
        CopyJob([to_tape(disk, tape)]).run()
    assert tape.data == DATA
    assert {0, 1, 3} <= set(tape.runs)


def test_each_segments_bytes_are_its_own(disk, tape):
    """Residue that is carried is written first, and no run begins while there is any."""
    blocks = TapeBlocks(tape, BLOCK)
    rest = b"-" * 1000
    steps = [
        keep(DiskExtent(disk, 0), blocks, 100 * BLOCK),
        inline(rest, blocks),
        keep(DiskExtent(disk, 0), blocks, 100 * BLOCK - 1000),
        keep(DiskExtent(disk, 0), blocks, 100 * BLOCK),
        CopySegment(InlineBytes(memoryview(rest)), blocks, 1000, Rests(sink=Rest.PAD)),
    ]
    job = run(*steps)
    stream = DATA[: 100 * BLOCK] + rest + DATA[: 100 * BLOCK - 1000] + DATA[: 100 * BLOCK] + rest.ljust(BLOCK, b"\0")
    assert tape.data == stream
    assert [tally.crc32c for tally in job.tallies] == [
        crc32c(part) for part in (DATA[: 100 * BLOCK], rest, DATA[: 100 * BLOCK - 1000], DATA[: 100 * BLOCK], rest)
    ]
    assert sum(tally.written_bytes for tally in job.tallies) == len(stream)
    assert 100 < sum(tape.runs) <= 200


# ---- when there are none ---------------------------------------------------------------------------------------------


def test_a_pace_wants_small_steps(disk, tape):
    run(to_tape(disk, tape), pace=Pace(1 << 40))
    assert (tape.data, tape.runs, disk.spans) == (DATA, [], [])


def test_not_worth_it(disk, tape):
    run(to_tape(disk, tape, 24 * BLOCK))
    assert (tape.data, tape.runs, disk.spans) == (DATA[: 24 * BLOCK], [], [])


def test_a_disk_that_is_in_no_file(disk, tape):
    disk.within = 0
    run(to_tape(disk, tape))
    assert (tape.data, tape.runs) == (DATA, [])


def test_blocks_that_are_cut_by_the_disks(disk, tape):
    source = DiskExtent(disk, 0, 512)
    run(CopySegment(source, TapeBlocks(tape, 1000), 3_000_000, Rests(Rest.DISCARD)))
    assert (tape.data, tape.runs) == (DATA[:3_000_000], [])


def test_transfers_of_several_blocks(disk, tape):
    run(CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 8192, 512), 8192 * 300))
    assert (tape.data, tape.runs) == (DATA[: 8192 * 300], [])


def test_between_other_things(disk, tape):
    """From memory, tape to tape, and from a tape."""
    other = MemoryTape()
    other.run_blocks = 100
    run(CopySegment(InlineBytes(memoryview(DATA)), TapeBlocks(tape, BLOCK), LENGTH))
    tape.position = 0
    run(CopySegment(TapeBlocks(tape, BLOCK), TapeBlocks(other, BLOCK), LENGTH))
    other.position = 0
    run(CopySegment(TapeBlocks(other, BLOCK), DiskExtent(disk, 0, 512), LENGTH, length_of_sink=True))
    assert (disk.data, tape.runs, other.runs, disk.spans) == (DATA, [], [], [])


def test_a_device_that_is_not_there(disk):
    job = CopyJob([CopySegment(DiskExtent(disk, 0), NullDevice(BLOCK), LENGTH)])
    with runs_of(100_000):
        assert failure(job).side is Side.DESTINATION


# ---- how they end ----------------------------------------------------------------------------------------------------

REFUSED = OSError(5, "not now")


@pytest.mark.parametrize("side", [Side.SOURCE, Side.DESTINATION])
@pytest.mark.parametrize("before", [0, 3])
def test_a_refusal_is_its_sides_and_nothing_of_the_run_was_moved(disk, tape, side, before):
    device = disk if side is Side.SOURCE else tape

    def refuse():
        device.refusal = REFUSED

    job = CopyJob([to_tape(disk, tape)])
    if not before:
        refuse()
    with runs_of(100_000, longest_bytes=300_000), after_runs(before, refuse):
        failed = failure(job)
    length = sum(tape.runs) * BLOCK
    assert len(tape.runs) == before
    assert (failed.segment, failed.side, failed.cause) == (0, side, REFUSED)
    assert (failed.written_bytes, failed.residual_bytes) == (length, LENGTH - length)
    assert job.progress.bytes_written == job.tallies[0].taken_bytes == length
    assert job.progress.crc32c == crc32c(DATA[:length])
    assert tape.data == DATA[:length]


def test_what_was_read_before_a_refusal_is_written(disk, tape):
    """By the segment before: its residue waits for what follows, its blocks do not."""
    blocks = TapeBlocks(tape, BLOCK)
    disk.refusal = REFUSED
    job = CopyJob([inline(DATA[: 3 * BLOCK], blocks), CopySegment(DiskExtent(disk, 0), blocks, LENGTH)])
    with runs_of(100_000):
        failed = failure(job)
    assert (failed.segment, failed.side, failed.written_bytes) == (1, Side.SOURCE, 0)
    assert tape.data == DATA[: 3 * BLOCK]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_cancelling_stops_between_two_runs(disk, tape, number):
    stopped = []
    job = CopyJob([to_tape(disk, tape)], cancelled=lambda: bool(stopped))
    watched = after_runs(number, lambda: stopped.append(True))
    with runs_of(100_000, longest_bytes=300_000), watched, pytest.raises(CopyCancelled):
        job.run()
    assert len(tape.runs) == number
    assert tape.data == DATA[: sum(tape.runs) * BLOCK]
    assert job.progress.bytes_written == job.tallies[0].written_bytes == len(tape.data)


def test_a_tape_that_gets_full_is_told_by_the_write_that_follows(disk, tape):
    tape.capacity = 333
    tape.write_file, write_file = (
        lambda run: write_file(run._replace(blocks=min(run.blocks, 333 - tape.position))),
        (tape.write_file),
    )
    with runs_of(100_000):
        failed = failure(CopyJob([to_tape(disk, tape)]))
    assert (failed.side, type(failed.cause), failed.written_bytes) == (Side.DESTINATION, Stopped, 333 * BLOCK)
    assert tape.data == DATA[: 333 * BLOCK]
    assert sum(tape.runs) == 333


def test_runs_that_move_nothing_cost_no_buffers(disk, tape):
    """Each gives back what it was lent."""
    disk.within = BLOCK - 1
    with runs_of(10_000, chunk_bytes=BLOCK):
        CopyJob([to_tape(disk, tape)]).run()
    assert tape.data == DATA
    assert len(disk.spans) > 100
    assert set(tape.runs) == {0}


# ---- how long they are -----------------------------------------------------------------------------------------------


def test_runs_grow_while_they_end_soon_and_shrink_where_they_do_not():
    length = RunLength()
    lengths = []
    for seconds in [0.0] * 6 + [RUN_SECONDS * 0.75] + [2 * RUN_SECONDS] * 8:
        lengths.append(length.next_bytes)
        length.ran(length.next_bytes, seconds)
    least, most = SHORTEST_RUN_BYTES, LONGEST_RUN_BYTES
    assert lengths[0] == 2 * least
    assert lengths[:4] == [2 * least, 4 * least, 8 * least, 16 * least]
    assert lengths[4:8] == [most] * 4
    assert lengths[8:12] == [most // 2, most // 4, most // 8, most // 16]
    assert length.next_bytes == least


def test_where_the_shortest_run_takes_long_there_is_none_for_a_while():
    length = RunLength()
    for _ in range(2):
        assert length.suits(1 << 40)
        length.ran(length.next_bytes, 2 * RUN_SECONDS)
    assert length.next_bytes == SHORTEST_RUN_BYTES
    assert not length.suits(1 << 40)


def test_short_runs_say_nothing_of_how_long_they_may_be():
    length = RunLength()
    before = length.next_bytes
    length.ran(before // 2, 0.0)
    assert length.next_bytes == before


def test_where_no_run_was_possible_none_is_tried_for_a_while():
    length = RunLength()
    assert length.suits(SHORTEST_RUN_BYTES)
    assert not length.suits(SHORTEST_RUN_BYTES - 1)
    length.ran(0, 0.0)
    for _ in range(NO_RUN_BYTES // CHUNK_BYTES):
        assert not length.suits(1 << 40)
        length.did_not_run(CHUNK_BYTES)
    assert length.suits(SHORTEST_RUN_BYTES)
