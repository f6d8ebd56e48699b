"""Copy jobs: what arrives, what residue does, how failures and cancellation are reported."""

import math
import random
import threading
from contextlib import contextmanager
from unittest.mock import patch

import crcmod.predefined
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamover import copy_job
from datamover.copy_job import CHUNK_BYTES, Action, CopyJob, CopySegment, Rest, Rests
from datamover.copy_progress import CopyCancelled, CopyFailed, InexactSegment, Side
from datamover.endpoints import DiskExtent, InlineBytes, TapeBlocks
from datamover.engine import crc32c_combine
from tests.support.waiting import eventually
from tests.unit.datamover.endpoint_fakes import MemoryDisk, MemoryTape

crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
DATA = random.Random(1).randbytes(3 * CHUNK_BYTES + 5 * 4096)


def keep(source, sink, length, **other):
    return CopySegment(source, sink, length, Rests(Rest.KEEP, Rest.KEEP), **other)


def inline(data, sink):
    return keep(InlineBytes(memoryview(data)), sink, len(data), source_residue_first=False)


@contextmanager
def everything_is(quick: bool):
    """No read, however long it takes, is one that had to be waited for; or every one is."""
    with patch.object(copy_job, "QUICK_BYTES_PER_SECOND", 0 if quick else math.inf):
        yield


def failure(job) -> CopyFailed:
    with pytest.raises(CopyFailed) as caught:
        job.run()
    return caught.value


def test_disk_to_tape_in_blocks():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    job = CopyJob([CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 4096), len(DATA))])
    job.run()
    assert tape.data == DATA
    assert {len(block) for block in tape.blocks} == {4096}
    assert (job.progress.segments, job.progress.bytes_written) == (1, len(DATA))
    assert job.progress.crc32c == crc32c(DATA)
    assert disk.largest == CHUNK_BYTES


def test_tape_to_disk_and_between_disks():
    tape = MemoryTape([DATA[at : at + 4096] for at in range(0, len(DATA), 4096)])
    disk, other = MemoryDisk(bytes(len(DATA) + 1024)), MemoryDisk(bytes(len(DATA)))
    CopyJob(
        [
            CopySegment(TapeBlocks(tape, 4096), DiskExtent(disk, 512, 512), len(DATA), length_of_sink=True),
            CopySegment(DiskExtent(disk, 512), DiskExtent(other, 0, 512), len(DATA)),
        ]
    ).run()
    assert disk.data[512:-512] == DATA
    assert other.data == DATA


def test_a_disk_that_was_written_is_read_after_the_writes():
    disk, tape = MemoryDisk(DATA + bytes(len(DATA))), MemoryTape()
    tape.gate = threading.Event()
    tape.gate.set()
    CopyJob(
        [
            CopySegment(DiskExtent(disk, 0), DiskExtent(disk, len(DATA), 512), len(DATA)),
            CopySegment(DiskExtent(disk, len(DATA)), TapeBlocks(tape, 4096), len(DATA)),
        ]
    ).run()
    assert tape.data == DATA


def test_inline_headers_and_extents_become_one_stream_of_whole_blocks():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    blocks = TapeBlocks(tape, 10240)
    steps, expected = [], b""
    for number, length in enumerate((512, 1024, 70000 * 512 // 512 // 512 * 512, 0, 512 * 300)):
        header = bytes([number]) * 512
        steps += [inline(header, blocks), keep(DiskExtent(disk, number * 512), blocks, length)]
        expected += header + DATA[number * 512 : number * 512 + length]
    steps.append(CopySegment(None, blocks, 0, Rests(sink=Rest.PAD)))
    CopyJob(steps).run()
    assert {len(block) for block in tape.blocks} == {10240}
    assert tape.data == expected.ljust(-(-len(expected) // 10240) * 10240, b"\0")


def test_residue_at_the_very_end_is_forgotten_when_it_is_kept():
    tape = MemoryTape()
    CopyJob([inline(b"a" * 1500, TapeBlocks(tape, 1000))]).run()
    assert tape.data == b"a" * 1000


def test_padding_and_discarding_at_the_end_of_each_segment():
    tape = MemoryTape()
    blocks = TapeBlocks(tape, 1000)
    first = CopySegment(InlineBytes(memoryview(b"a" * 1500)), blocks, 1500, Rests(sink=Rest.DISCARD))
    second = CopySegment(InlineBytes(memoryview(b"b" * 700)), blocks, 700, Rests(sink=Rest.PAD))
    CopyJob([first, second]).run()
    assert tape.blocks == [b"a" * 1000, b"b" * 700 + bytes(300)]


def test_an_inexact_segment_fails_after_its_whole_writes():
    tape = MemoryTape()
    blocks = TapeBlocks(tape, 1000)
    job = CopyJob([inline(b"-" * 500, blocks), CopySegment(InlineBytes(memoryview(b"a" * 1700)), blocks, 1700)])
    failed = failure(job)
    assert (failed.segment, failed.side, type(failed.cause)) == (1, Side.NEITHER, InexactSegment)
    assert (failed.written_bytes, failed.residual_bytes) == (2000, 0)
    assert tape.data == b"-" * 500 + b"a" * 1500


def test_tape_blocks_larger_than_the_disk_wants_stay_as_source_residue():
    tape, disk = MemoryTape([b"a" * 3000, b"b" * 3000, b"c" * 3000]), MemoryDisk(bytes(8192))
    source = TapeBlocks(tape, 3000)
    CopyJob(
        [
            keep(source, DiskExtent(disk, 0, 512), 512, length_of_sink=True),
            keep(source, DiskExtent(disk, 4096, 512), 3072, length_of_sink=True),
            keep(source, None, 16),
            CopySegment(source, DiskExtent(disk, 512, 512), 512, Rests(Rest.DISCARD), length_of_sink=True),
            CopySegment(source, DiskExtent(disk, 1024, 512), 1024, Rests(Rest.DISCARD), length_of_sink=True),
        ]
    ).run()
    stream = b"a" * 3000 + b"b" * 3000
    assert disk.data[:512] == stream[:512]
    assert disk.data[4096:7168] == stream[512:3584]
    assert disk.data[512:1024] == stream[3600:4112]
    assert disk.data[1024:2048] == b"c" * 1024


def test_source_residue_that_is_not_allowed():
    tape, disk = MemoryTape([b"a" * 3000]), MemoryDisk(bytes(8192))
    failed = failure(CopyJob([CopySegment(TapeBlocks(tape, 3000), DiskExtent(disk, 0, 512), 512, length_of_sink=True)]))
    assert (failed.side, failed.written_bytes) == (Side.NEITHER, 512)
    assert disk.data[:512] == b"a" * 512


def test_inline_data_does_not_take_source_residue():
    tape, out, disk = MemoryTape([b"a" * 1024]), MemoryTape(), MemoryDisk(bytes(1024))
    source = TapeBlocks(tape, 1024)
    CopyJob(
        [
            keep(source, DiskExtent(disk, 0, 512), 512, length_of_sink=True),
            inline(b"i" * 512, TapeBlocks(out, 512)),
            keep(source, TapeBlocks(out, 512), 512),
        ]
    ).run()
    assert out.blocks == [b"i" * 512, b"a" * 512]


def test_tape_to_tape_changes_the_block_length():
    tape, out = MemoryTape([bytes([n]) * 4096 for n in range(100)]), MemoryTape()
    CopyJob([CopySegment(TapeBlocks(tape, 4096), TapeBlocks(out, 10240), 100 * 4096)]).run()
    assert out.data == tape.data
    assert {len(block) for block in out.blocks} == {10240}


def test_fixed_blocks_go_in_transfers():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    CopyJob([CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 8192, 512), 8192 * 3)]).run()
    assert tape.blocks == [DATA[at : at + 512] for at in range(0, 8192 * 3, 512)]


def test_actions_come_between_the_writes():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    blocks = TapeBlocks(tape, 4096)
    CopyJob(
        [
            CopySegment(DiskExtent(disk, 0), blocks, 8192),
            Action(tape, tape.write_filemark),
            CopySegment(DiskExtent(disk, 8192), blocks, 4096),
        ]
    ).run()
    assert tape.blocks == [DATA[:4096], DATA[4096:8192], None, DATA[8192:12288]]


def test_a_failed_read_names_its_segment_and_what_was_read_before_is_written():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    disk.fail_at = 2 * CHUNK_BYTES + 1
    blocks = TapeBlocks(tape, 4096)
    job = CopyJob([CopySegment(DiskExtent(disk, 0), blocks, 8192), CopySegment(DiskExtent(disk, 0), blocks, len(DATA))])
    failed = failure(job)
    assert (failed.segment, failed.side, type(failed.cause)) == (1, Side.SOURCE, OSError)
    assert failed.written_bytes + failed.residual_bytes == len(DATA)
    assert tape.data == DATA[:8192] + DATA[: failed.written_bytes]
    assert failed.written_bytes == 2 * CHUNK_BYTES - 8192
    assert job.progress.bytes_written == len(tape.data)


@pytest.mark.parametrize("good", [1, 15, 16, 17, 40])
def test_what_a_failed_read_brought_before_is_written_however_much_it_is(good):
    """A chunk is sixteen blocks."""
    block = 1 << 16
    blocks = [DATA[at : at + block] for at in range(0, good * block, block)]
    tape, disk = MemoryTape([*blocks, None]), MemoryDisk(bytes(len(DATA)))
    job = CopyJob([CopySegment(TapeBlocks(tape, block), DiskExtent(disk, 512, 512), 48 * block, length_of_sink=True)])
    failed = failure(job)
    assert (failed.written_bytes, failed.residual_bytes) == (good * block, (48 - good) * block)
    assert disk.data == bytes(512) + DATA[: good * block] + bytes(len(DATA) - 512 - good * block)
    assert job.tallies[0].crc32c == crc32c(DATA[: good * block])


def test_a_filemark_on_the_source_tape():
    tape, disk = MemoryTape([b"a" * 512, b"b" * 512, None, b"c" * 512]), MemoryDisk(bytes(4096))
    failed = failure(CopyJob([CopySegment(TapeBlocks(tape, 512), DiskExtent(disk, 0, 512), 2048, length_of_sink=True)]))
    assert (failed.segment, failed.side, str(failed.cause)) == (0, Side.SOURCE, "filemark")
    assert (failed.written_bytes, failed.residual_bytes) == (1024, 1024)
    assert disk.data[:1024] == b"a" * 512 + b"b" * 512
    assert tape.position == 3


def test_a_full_tape_names_the_segment_that_did_not_fit():
    disk, tape = MemoryDisk(DATA), MemoryTape(capacity=5)
    blocks = TapeBlocks(tape, 4096)
    steps = [CopySegment(DiskExtent(disk, 8192 * n), blocks, 8192) for n in range(4)]
    job = CopyJob(steps)
    failed = failure(job)
    assert (failed.segment, failed.side, failed.written_bytes, failed.residual_bytes) == (
        2, Side.DESTINATION, 4096, 4096,
    )  # fmt: skip
    assert job.progress.bytes_written == 5 * 4096
    assert tape.data == DATA[: 5 * 4096]


def test_a_failed_action_names_its_step():
    def refuse():
        raise OSError("no")

    tape = MemoryTape()
    failed = failure(CopyJob([inline(b"a" * 1000, TapeBlocks(tape, 1000)), Action(tape, refuse)]))
    assert (failed.segment, failed.side, str(failed.cause)) == (1, Side.DESTINATION, "no")
    assert tape.data == b"a" * 1000


def test_cancelling_stops_between_two_writes():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    tape.gate = threading.Event()
    stop = threading.Event()
    job = CopyJob([CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 4096), len(DATA))], cancelled=stop.is_set)
    outcome = []

    def run():
        try:
            job.run()
        except CopyCancelled as cancelled:
            outcome.append(cancelled)

    thread = threading.Thread(target=run)
    thread.start()
    assert tape.writing.wait(60)
    stop.set()
    tape.gate.set()
    thread.join(60)
    assert len(outcome) == 1
    assert tape.data == DATA[:CHUNK_BYTES]
    assert job.progress.bytes_written == CHUNK_BYTES


def test_what_was_there_at_once_is_written_by_the_thread_that_has_read_it():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    with everything_is(quick=True):
        CopyJob([CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 4096), len(DATA))]).run()
    assert tape.data == DATA
    assert tape.writers == {threading.get_ident()}


def test_what_had_to_be_waited_for_is_written_while_the_next_is_read():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    tape.gate = threading.Event()
    job = CopyJob([CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 4096), len(DATA))])
    with everything_is(quick=False):
        thread = threading.Thread(target=job.run)
        thread.start()
        eventually(
            lambda: disk.read_bytes == 3 * CHUNK_BYTES
        )  # as many as there are buffers, before anything is written
        assert tape.data == b""
        tape.gate.set()
        thread.join(60)
    assert tape.data == DATA
    assert threading.get_ident() not in tape.writers


def test_the_order_holds_when_quick_and_slow_reads_alternate():
    disk, tape, speed = MemoryDisk(DATA), MemoryTape(), iter((math.inf, 0.0) * len(DATA))
    read_into = disk.read_into

    def alternating(buffer, offset):
        copy_job.QUICK_BYTES_PER_SECOND = next(speed)
        read_into(buffer, offset)

    disk.read_into = alternating
    with everything_is(quick=True):
        CopyJob([CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 10_000), 3_000_000)]).run()
    assert tape.data == DATA[:3_000_000]
    assert len(tape.writers) == 2


@pytest.mark.parametrize("quick", [True, False])
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_chain_of_kept_segments_is_one_stream(quick, data):
    """Kept residue means that cutting a stream into segments changes nothing on the tape."""
    lengths = data.draw(st.lists(st.integers(0, 40000), min_size=1, max_size=8))
    block_length = data.draw(st.sampled_from([1, 7, 512, 10240, 65536]))
    disk, tape = MemoryDisk(DATA), MemoryTape()
    sink = TapeBlocks(tape, block_length)
    steps, at = [], 0
    for length in lengths:
        piece = DiskExtent(disk, at) if data.draw(st.booleans()) else InlineBytes(memoryview(DATA)[at : at + length])
        steps.append(keep(piece, sink, length))
        at += length
    steps.append(CopySegment(None, sink, 0, Rests(sink=Rest.PAD)))
    with everything_is(quick):
        CopyJob(steps).run()
    assert tape.data == DATA[:at].ljust(-(-at // block_length) * block_length, b"\0")
    assert {len(block) for block in tape.blocks} <= {block_length}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_restoring_extent_by_extent_is_reading_the_stream(data):
    block_length = data.draw(st.sampled_from([512, 1000, 10240]))
    blocks = -(-len(DATA[:200000]) // block_length)
    tape = MemoryTape([DATA[n * block_length : (n + 1) * block_length] for n in range(blocks)])
    counts = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=6))
    disk = MemoryDisk(bytes(sum(counts) * 512 + 512))
    source, steps, at = TapeBlocks(tape, block_length), [], 0
    for count in counts:
        steps.append(keep(source, DiskExtent(disk, at * 512, 512), count * 512, length_of_sink=True))
        at += count
    CopyJob(steps).run()
    assert disk.data[: at * 512] == DATA[: at * 512]
    assert tape.position == -(-at * 512 // block_length)


# ---- checksums -----------------------------------------------------------------------------------------------------


def test_each_segment_has_the_checksum_of_what_it_took():
    """A header and two extents make one file: whatever the tape's blocks are, and whatever is left over in between."""
    disk, tape = MemoryDisk(DATA), MemoryTape()
    sink = TapeBlocks(tape, 10_000)
    header, first, second = b"header" * 100, (512, 2 * CHUNK_BYTES + 7), (5 * CHUNK_BYTES // 2, 4096)
    job = CopyJob(
        [
            inline(header, sink),
            keep(DiskExtent(disk, first[0]), sink, first[1]),
            keep(DiskExtent(disk, second[0]), sink, second[1]),
            CopySegment(None, sink, 0, Rests(Rest.DISCARD, Rest.PAD)),
        ]
    )
    job.run()
    parts = [header, *(DATA[at : at + length] for at, length in (first, second))]
    found = [(tally.taken_bytes, tally.crc32c) for tally in job.tallies]
    assert found == [*((len(part), crc32c(part)) for part in parts), (0, 0)]
    assert job.progress.crc32c == crc32c(b"".join(parts))
    whole = crc32c_combine(job.tallies[1].crc32c, job.tallies[2].crc32c, second[1])
    assert whole == crc32c(parts[1] + parts[2])


def test_the_checksum_of_what_is_read_and_forgotten():
    tape = MemoryTape([DATA[at : at + 4096] for at in range(0, 40960, 4096)])
    job = CopyJob([CopySegment(TapeBlocks(tape, 4096), None, 10_000, Rests(Rest.KEEP, Rest.KEEP)),
                   CopySegment(TapeBlocks(tape, 4096), None, 6_000, Rests(Rest.DISCARD, Rest.DISCARD))])  # fmt: skip
    job.run()
    assert [tally.crc32c for tally in job.tallies] == [crc32c(DATA[:10_000]), crc32c(DATA[10_000:16_000])]


def test_the_checksum_up_to_a_failure():
    disk, tape = MemoryDisk(DATA), MemoryTape()
    disk.fail_at = CHUNK_BYTES + 1
    job = CopyJob([CopySegment(DiskExtent(disk, 0), TapeBlocks(tape, 4096), 2 * CHUNK_BYTES)])
    failure(job)
    assert (job.tallies[0].taken_bytes, job.tallies[0].crc32c) == (CHUNK_BYTES, crc32c(DATA[:CHUNK_BYTES]))
