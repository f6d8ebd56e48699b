"""A copy job: segments in order between endpoints, CRC32C of each computed on the way.

Long runs of blocks from a disk's file to a tape are moved by one call of the engine after another. For all else the
caller's thread reads and assembles. While what it reads has to be waited for, one writer thread writes meanwhile,
in order. What was there at once is written by the thread that has read it, out of its own processor's cache: handing it
to another processor would take longer than the reading took. A few buffers of the engine go between them, so memory is
bounded and payload is never handled here: endpoints fill and drain whole buffers.

What a segment leaves over follows EXTENDED COPY (SPC-5 5.17.7.2), which is general enough for every user of this
module: *source residue* has been read but not asked for, *sink residue* is too short for a whole write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from datamover.assembly import Assembly
from datamover.copy_progress import CopyCancelled, CopyFailed, CopyProgress, InexactSegment, Side, Tally
from datamover.copy_writer import Act, Chunk, CopyWriter
from datamover.endpoints import RunMemory, Sink, SinkFailed, Source, TapeBlocks, TransferFailed
from datamover.engine import BufferPool, crc32c_combine, crc32c_join
from datamover.file_run import CHECKSUM_BYTES
from datamover.pace import Pace
from datamover.run_length import RunLength

# One write: large enough that its overhead is lost in the copying, small enough to stay in the processor's cache.
CHUNK_BYTES = 1 << 20
# Buffers of one job: one is written, one is read into, one waits.
BUFFERS = 3
# What comes faster was in memory, and writing it need not overlap with reading it. Most disks are slower. Memory is
# not, even where a buffer's lines must be taken back from the cache of the processor that wrote it out (seen: 2.1e9).
QUICK_BYTES_PER_SECOND = 1.5e9
# The most blocks of a run: room for their checksums.
RUN_BLOCKS = 16384


class Rest(Enum):
    """What becomes of residue at the end of a segment."""

    KEEP = "keep"  # the next segment's data begins with it
    DISCARD = "discard"
    PAD = "pad"  # with zeros, to a whole write; sink residue only
    FAIL = "fail"  # the segment is an error (InexactSegment)


class Rests(NamedTuple):
    """The rules for both kinds of residue."""

    source: Rest = Rest.FAIL
    sink: Rest = Rest.FAIL

    @property
    def keeps(self) -> bool:
        """Whether anything may be left for later segments."""
        return Rest.KEEP in self


EXACT = Rests()


@dataclass(slots=True)
class CopySegment:
    """`length` bytes from source to sink.

    source: None when only residue shall be written. sink: None when the bytes shall be read and forgotten.
    length_of_sink: the length is what the sink gets, residue of earlier segments included; otherwise it is what is
    taken from the source, and the sink gets as many whole writes as that and earlier residue make.
    source_residue_first: whether source residue of earlier segments is used before the source.
    """

    source: Source | None
    sink: Sink | None
    length: int
    rests: Rests = EXACT
    length_of_sink: bool = False
    source_residue_first: bool = True


@dataclass(slots=True)
class Action:
    """Something else to do between segments, when all before it is written (filemarks, positioning).

    device: what it is done to. side: which end of the copy that device is, for the failure."""

    device: object
    run: Callable[[], None]
    side: Side = Side.DESTINATION


class CopyJob:
    """Runs once. `steps` in order; a step's number in failures and progress is its place in that list."""

    def __init__(
        self,
        steps: Sequence[CopySegment | Action],
        *,
        progress: CopyProgress | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        pace: Pace | None = None,
        hurried: Callable[[], bool] | None = None,
    ) -> None:
        """progress: where to tell how far it is, for whoever watched before the job was made. cancelled: asked before
        every read and write; True makes the job stop with CopyCancelled. pace: how fast it may go; it does not hold
        back a step that is `hurried` (None: cancelled), which fails with what it does next."""
        self.progress = progress if progress is not None else CopyProgress()
        self._steps = steps
        self._cancelled = cancelled
        self._pace, self._hurried = pace or Pace(), hurried or cancelled
        self._tallies = [Tally() for _ in steps]
        size = max((_chunk_bytes(step.sink) for step in steps if isinstance(step, CopySegment)), default=0)
        pool = BufferPool(BUFFERS * max(4096, 1 << (size - 1).bit_length()))
        buffers = [pool.acquire(size) for _ in range(BUFFERS)]
        self._writer = CopyWriter(self.progress, self._tallies, buffers, cancelled)
        self._assembly: Assembly | None = None
        self._source_residue = memoryview(b"")
        self._sink_residue = memoryview(b"")
        self._number = 0
        self._reading_seconds = 0.0  # what the reads took that filled the assembly
        self._run_length = RunLength()
        self._run_checksums = memoryview(bytearray(RUN_BLOCKS * CHECKSUM_BYTES))

    @property
    def tallies(self) -> Sequence[Tally]:
        """The account of each step, in order; complete when run() has returned."""
        return self._tallies

    def run(self) -> None:
        """Raises CopyFailed or CopyCancelled; everything before the failing read or write is written then. MemoryError:
        the system has no thread, and nothing has begun."""
        self._writer.start()
        try:
            self._run_steps()
            self._emit()
        except TransferFailed as error:
            self._fail(Side.SOURCE, error.__cause__ or error)
        except InexactSegment as error:
            self._fail(Side.NEITHER, error)
        finally:
            self._writer.stop()
        self._writer.check()

    def _run_steps(self) -> None:
        for number, step in enumerate(self._steps):
            self._number = number
            self.progress.segments = number + 1
            if isinstance(step, Action):
                self._emit()
                self._writer.act(Act(number, step.run, step.side), step.device)
            else:
                self._segment(step)

    def _fail(self, side: Side, cause: BaseException) -> None:
        """What was read before is still written; if that fails, it is what is reported."""
        self._emit()
        self._writer.drain()
        self._writer.check()
        raise CopyFailed(self._number, side, cause, self._tallies[self._number]) from cause

    # ---- a segment -------------------------------------------------------------------------------------------------

    def _segment(self, segment: CopySegment) -> None:
        source, sink = segment.source, segment.sink
        if source is not None and self._must_drain(source):
            self._emit()
            self._writer.drain()
        if segment.length_of_sink or self._assembly is None or self._assembly.sink is not sink:
            self._change_sink(sink)
        self._plan(segment)
        taken = segment.length
        if segment.length_of_sink:
            taken -= self._take_sink_residue(segment.length)
        elif sink is not None:
            self._take_sink_residue(len(self._sink_residue))
        try:
            self._take(segment, taken)
        finally:  # also what was taken before a failure
            tally = self._tallies[self._number]
            self.progress.crc32c = crc32c_combine(self.progress.crc32c, tally.crc32c, tally.taken_bytes)
        self._settle_source(segment.rests.source)
        self._settle_sink(segment)

    def _must_drain(self, source: Source) -> bool:
        """Whether what earlier segments wrote must be on its device before a source is read: what has been handed to
        the writer, and what is still being assembled."""
        assembly, devices = self._assembly, self._writer.devices
        sink = assembly.sink if assembly is not None and assembly.filled else None
        if sink is None and not devices:
            return False
        return not source.read_ahead or source.device in devices or (sink is not None and sink.device is source.device)

    def _plan(self, segment: CopySegment) -> None:
        if segment.sink is None or self._assembly is None:
            return
        granularity = segment.sink.granularity
        total = segment.length
        if not segment.length_of_sink:
            total += len(self._sink_residue) + self._assembly.residue
        partial = total % granularity
        whole = total - partial + (granularity if partial and segment.rests.sink is Rest.PAD else 0)
        self._tallies[self._number].planned_bytes = whole

    def _take_sink_residue(self, limit: int) -> int:
        """Begins the assembly with residue that was put aside; returns how many bytes."""
        rest = self._sink_residue[:limit]
        self._sink_residue = self._sink_residue[limit:]
        taken = len(rest)
        while rest:
            rest = rest[self._put(rest)[0] :]
        return taken

    def _take(self, segment: CopySegment, length: int) -> None:
        """Moves `length` bytes from source residue and source into the assembly."""
        while length:
            self._writer.check()
            if self._cancelled():
                raise CopyCancelled
            if segment.source_residue_first and self._source_residue:
                tally = self._tallies[self._number]
                count, tally.crc32c = self._put(self._source_residue[:length], tally.crc32c)
                tally.taken_bytes += count
                self._source_residue = self._source_residue[count:]
            else:
                count = self._run_of(segment, length) or self._read(segment.source, length)
            length -= count
            self._pace.took(count, self._hurried)

    def _run_of(self, segment: CopySegment, length: int) -> int:
        """Moves a run of blocks that source and sink can do by themselves; returns how many bytes, often 0."""
        source, sink = segment.source, segment.sink
        if source is None or not isinstance(sink, TapeBlocks) or not self._may_run(source, sink, length):
            return 0
        self._emit()
        self._writer.drain()
        self._writer.check()
        began = time.perf_counter()
        memory = RunMemory(self._run_checksums, self._with_room().buffer, self._writer.buffer())
        try:
            count = sink.take_run(source, min(length, self._run_length.next_bytes), memory)
        except SinkFailed as error:
            cause = error.__cause__ or error
            raise CopyFailed(self._number, Side.DESTINATION, cause, self._tallies[self._number]) from cause
        finally:
            self._writer.give_back(memory.other)
        self._account_run(count, sink.checked_length)
        self._run_length.ran(count, time.perf_counter() - began)
        return count

    def _may_run(self, source: Source, sink: TapeBlocks, length: int) -> bool:
        if not self._run_length.suits(length) or self._pace.bytes_per_second:
            return False
        return not self._with_room().residue and not self._source_residue and sink.runs_from(source)

    def _account_run(self, count: int, block_length: int) -> None:
        checksums, tally = self._run_checksums[: count // block_length * CHECKSUM_BYTES], self._tallies[self._number]
        tally.crc32c = crc32c_join(tally.crc32c, checksums, block_length)
        tally.taken_bytes += count
        tally.written_bytes += count
        self.progress.bytes_written += count
        self.progress.operations += bool(count)

    def _put(self, data: memoryview, crc: int = 0) -> tuple[int, int]:
        """As much as there is room for: how much, and its CRC32C continued from `crc`."""
        assembly = self._with_room()
        count, at = min(len(data), assembly.room), assembly.filled
        crc = assembly.add(data[:count], crc)
        assembly.view[at : at + count] = data[:count]
        return count, crc

    def _read(self, source: Source | None, length: int) -> int:
        """Reads straight into the assembly. When a whole read does not fit there, or is more than is wanted, it becomes
        source residue and the result is 0."""
        if source is None:
            raise InexactSegment("there is no source for what the sink still needs")
        assembly = self._with_room()
        room = min(length, assembly.room)
        whole = room - room % source.granularity
        if not whole:
            residue = memoryview(bytearray(source.granularity))
            source.read(residue)
            self._source_residue = residue
            return 0
        view, tally = assembly.view[assembly.filled : assembly.filled + whole], self._tallies[self._number]
        began = time.perf_counter()
        try:
            verified = source.read(view)
        except TransferFailed as error:  # what came before it is good, and is written
            tally.crc32c = assembly.add(view[: error.bytes_done], tally.crc32c)
            tally.taken_bytes += error.bytes_done
            raise
        self._reading_seconds += time.perf_counter() - began
        if verified is None:
            tally.crc32c = assembly.add(view, tally.crc32c)
        else:
            tally.crc32c = assembly.add_verified(view, memoryview(verified), source.checked_length, tally.crc32c)
        tally.taken_bytes += whole
        self._run_length.did_not_run(whole)
        return whole

    # ---- residue ---------------------------------------------------------------------------------------------------

    def _settle_source(self, rest: Rest) -> None:
        if not self._source_residue or rest is Rest.KEEP:
            return
        left, self._source_residue = len(self._source_residue), memoryview(b"")
        if rest is Rest.FAIL:
            self._share()
            raise InexactSegment(f"{left} bytes were read that the segment has no use for")

    def _settle_sink(self, segment: CopySegment) -> None:
        assembly = self._assembly
        if segment.sink is None or assembly is None:
            self._assembly_is_over()
            return
        residue = assembly.residue
        left = residue or len(self._sink_residue)
        if left and (segment.rests.sink is Rest.FAIL or (segment.rests.sink is Rest.PAD and not residue)):
            self._share()
            raise InexactSegment(f"{left} bytes are left that do not make a whole write")
        if residue and segment.rests.sink is Rest.PAD:
            self._put(memoryview(bytes(segment.sink.granularity - residue)))
        elif segment.rests.sink is Rest.DISCARD:
            assembly.cut()
            self._sink_residue = memoryview(b"")
        self._share()

    def _share(self) -> None:
        """Up to here the assembly's whole writes are this segment's."""
        assembly = self._assembly
        if assembly is not None and assembly.sink is not None:
            assembly.shares.append((self._number, assembly.filled - assembly.residue))

    # ---- the assembly ----------------------------------------------------------------------------------------------

    def _change_sink(self, sink: Sink | None) -> None:
        """Ends the assembly, whose residue goes aside, and begins one for another sink."""
        self._emit()
        self._assembly_is_over()
        buffer = self._writer.buffer()
        self._assembly = Assembly(sink, buffer, memoryview(buffer)[: _chunk_bytes(sink)])

    def _assembly_is_over(self) -> None:
        """Its whole writes have been emitted, or were for nobody."""
        assembly, self._assembly = self._assembly, None
        if assembly is None:
            return
        if assembly.sink is not None and assembly.filled:
            self._sink_residue = memoryview(bytes(assembly.view[: assembly.filled]) + bytes(self._sink_residue))
        self._writer.give_back(assembly.buffer)

    def _with_room(self) -> Assembly:
        assembly = self._assembly
        assert assembly is not None  # _segment() began one
        if not assembly.room:
            if assembly.sink is None:
                assembly.filled = 0
            else:
                self._emit()
        assert self._assembly is not None
        return self._assembly

    def _emit(self) -> None:
        """Has the assembly's whole writes written; the residue begins the next buffer."""
        assembly = self._assembly
        if assembly is None or assembly.sink is None:
            return
        length, checksums, carried = assembly.split()
        if not length:
            return
        shares = assembly.shares
        if not shares or shares[-1][1] < length:
            shares.append((self._number, length))
        chunk = Chunk(assembly.sink, assembly.buffer, length, checksums, shares)
        quick = self._reading_seconds * QUICK_BYTES_PER_SECOND <= length
        self._reading_seconds = 0.0
        if quick:
            self._writer.write_now(chunk)
        buffer = assembly.buffer if quick else self._writer.buffer()
        view = memoryview(buffer)[: len(assembly.view)]
        residue = assembly.filled - length
        view[:residue] = assembly.view[length : assembly.filled]
        self._assembly = Assembly(assembly.sink, buffer, view, residue, checksums=carried, open_crc=assembly.open_crc)
        if not quick:
            self._writer.write(chunk)


def _chunk_bytes(sink: Sink | None) -> int:
    """How much is gathered before it is written: whole writes, about CHUNK_BYTES."""
    granularity = sink.granularity if sink is not None else 1
    return max(1, CHUNK_BYTES // granularity) * granularity
