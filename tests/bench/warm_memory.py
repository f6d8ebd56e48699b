"""Memory for what is measured on a virtual machine whose host takes back what is free (free page reporting): the first
touch of such a page costs more than writing it (seen: 2.5 processor seconds a GiB against 0.2).

    with warm_memory(length):
        write(length)                   # into new pages of the page cache

A process of its own has touched so much memory before, and gives it up as fast as the machine's free memory is used, so
that whoever allocates gets what was just freed.

    python -m tests.bench.warm_memory BYTES
"""

import contextlib
import mmap
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STEP_BYTES = 32 << 20
HEAD_START_BYTES = 512 << 20
LOOK_SECONDS = 0.002


@contextlib.contextmanager
def warm_memory(length: int) -> Iterator[None]:
    """length: in bytes, how much may be allocated; what is left is given up at the end."""
    command = [sys.executable, "-m", __name__, str(length)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise OSError(f"there are not {length} bytes of free memory for the measurement")
            yield
        finally:
            process.kill()


def free_memory() -> int:
    """In bytes; the page cache not counted."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemFree:"))
    return int(line.split()[1]) << 10


def feed(length: int) -> None:
    """Touches, says so, and gives up what others take."""
    held = mmap.mmap(-1, length + HEAD_START_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_HUGEPAGE)
    for at in range(0, len(held), mmap.PAGESIZE):
        held[at] = 1
    free = free_memory()
    held.madvise(mmap.MADV_DONTNEED, 0, HEAD_START_BYTES)
    given = HEAD_START_BYTES
    print("ready", flush=True)
    while given < len(held):
        while given < len(held) and free_memory() < free + HEAD_START_BYTES:
            held.madvise(mmap.MADV_DONTNEED, given, min(STEP_BYTES, len(held) - given))
            given += STEP_BYTES
        time.sleep(LOOK_SECONDS)
    time.sleep(3600)  # until it is killed


if __name__ == "__main__":
    feed(int(sys.argv[1]))
