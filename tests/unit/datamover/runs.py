"""Runs of blocks from a file to a tape, made to happen with kilobytes, or never; and counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from unittest.mock import patch

from datamover import copy_job, run_length
from datamover.file_run import FileRun
from vlib_images.cartridge.partition import TapePartition

NEVER = 1 << 62


@contextmanager
def runs_of(
    shortest_bytes: int, *, longest_bytes: int = 1 << 20, blocks: int = 16384, chunk_bytes: int = 1 << 20,
    pause_bytes: int = 0,
) -> Iterator[None]:  # fmt: skip
    """Runs are tried for so few bytes, however long they take, and again after `pause_bytes` where one was not
    possible. Everything else is written by the thread that has read it, so where a copy stops does not depend on
    time. NEVER: there are none."""
    lengths = patch.multiple(
        run_length, SHORTEST_RUN_BYTES=shortest_bytes, LONGEST_RUN_BYTES=longest_bytes, RUN_SECONDS=60,
        NO_RUN_BYTES=pause_bytes,
    )  # fmt: skip
    with lengths, patch.multiple(copy_job, RUN_BLOCKS=blocks, CHUNK_BYTES=chunk_bytes, QUICK_BYTES_PER_SECOND=0):
        yield


@contextmanager
def runs_counted() -> Iterator[list[int]]:
    """How many blocks each run moved."""
    counts: list[int] = []
    append_file = TapePartition.append_file

    def counted(partition: TapePartition, run: FileRun) -> int:
        done = append_file(partition, run)
        counts.append(done)
        return done

    with patch.object(TapePartition, "append_file", counted):
        yield counts


@contextmanager
def after_runs(number: int, act: Callable[[], object]) -> Iterator[None]:
    """`act` is called when so many runs of a job have moved something, by the job's own thread."""
    done = count(1)
    ran = run_length.RunLength.ran

    def watched(length: run_length.RunLength, moved: int, seconds: float) -> None:
        ran(length, moved, seconds)
        if moved and next(done) == number:
            act()

    with patch.object(run_length.RunLength, "ran", watched):
        yield
