"""Cartridge append and read beside plain pwrite and pread of the same sizes, in one run.

    python -m tests.bench.bench_cartridge [--directory DIR] [--megabytes 512] [--rounds 5] [--many 10000000]

Both sides write into the page cache from one warm buffer and read from the page cache into one warm buffer. The rounds
alternate; the medians are shown, in GB/s. "durable" counts until the data is on the disk: pwrite and fdatasync beside
append and synchronize. "checked" is pread and the engine's CRC32C of what it read: what reading in two passes can reach
at most.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamover.engine import crc32c
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA

SIZES = (512, 10240, 65536, 262144, 1048576)


def seconds(work: Callable[..., None], *arguments: Any) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def plain_write(path: Path, block: bytes, count: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in range(count):
        os.pwrite(descriptor, block, number * len(block))
    os.close(descriptor)


def plain_sync(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.fdatasync(descriptor)
    os.close(descriptor)


def checked_read(path: Path, into: bytearray, count: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    for number in range(count):
        os.preadv(descriptor, [into], number * len(into))
        crc32c(into)
    os.close(descriptor)


def plain_read(path: Path, into: bytearray, count: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    for number in range(count):
        os.preadv(descriptor, [into], number * len(into))
    os.close(descriptor)


def append(cartridge: Cartridge, block: bytes, count: int) -> None:
    for _ in range(count):
        cartridge.write_block(block)


def read(cartridge: Cartridge, into: bytearray, count: int) -> None:
    for _ in range(count):
        cartridge.read_block(into)


def new_cartridge(directory: Path) -> Cartridge:
    shutil.rmtree(directory, ignore_errors=True)
    return Cartridge.create(directory, barcode="B00001L9", medium=MEDIA["LTO-9"])


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


ROWS = {
    "into the page cache": ("pwrite", "append"),
    "durable": ("pwrite, fdatasync", "append, synchronize"),
    "from the page cache": ("pread", "read"),
    "checked": ("pread, crc32c", "read"),
}


def measure(directory: Path, size: int, total: int, rounds: int) -> None:
    count = min(total // size, 400_000)
    block, into = random.Random(size).randbytes(size), bytearray(size)
    times: dict[str, list[float]] = {name: [] for pair in ROWS.values() for name in pair}
    plain, tape = directory / "plain", directory / "B00001L9"
    for _ in range(rounds):
        times["pwrite"].append(seconds(plain_write, plain, block, count))
        times["pwrite, fdatasync"].append(times["pwrite"][-1] + seconds(plain_sync, plain))
        times["pread"].append(seconds(plain_read, plain, into, count))
        times["pread, crc32c"].append(seconds(checked_read, plain, into, count))
        plain.unlink()
        cartridge = new_cartridge(tape)
        times["append"].append(seconds(append, cartridge, block, count))
        times["append, synchronize"].append(times["append"][-1] + seconds(cartridge.synchronize))
        cartridge.rewind()
        times["read"].append(seconds(read, cartridge, into, count))
        cartridge.close()
        disk = on_disk(tape) / (count * size)
        shutil.rmtree(tape)
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"{size} bytes, {count} blocks; on disk {disk:.4f} bytes for each byte")
    for title, (plainly, ours) in ROWS.items():
        rate, our_rate = (count * size / middle[name] / 1e9 for name in (plainly, ours))
        each = middle[ours] / count * 1e6
        print(
            f"  {title:20} {plainly:18}{rate:7.2f}   {ours:20}{our_rate:7.2f}   ratio {our_rate / rate:5.2f}"
            f"   {each:8.2f} us each",
            flush=True,
        )


MANY = """
import random, sys, time
from pathlib import Path
from vlib_images.cartridge.cartridge import Cartridge

def peak():  # not ru_maxrss, which begins with the parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

before = peak()
begin = time.perf_counter()
cartridge = Cartridge.open(Path(sys.argv[1]))
opened = time.perf_counter() - begin
count, into, rng = cartridge.end_of_data(0), bytearray(512), random.Random(1)
times = []
for _ in range(5000):
    block = rng.randrange(count)
    begin = time.perf_counter()
    cartridge.locate_block(0, block)
    cartridge.read_block(into)
    times.append(time.perf_counter() - begin)
times.sort()
print(f"{count} blocks: open {opened * 1e3:.1f} ms, LOCATE + READ median {times[2500] * 1e6:.0f} us, "
      f"99% {times[4950] * 1e6:.0f} us, memory peak {peak():.1f} MiB, {before:.1f} of it before")
cartridge.storage.lock.close()  # so that the next run opens as after a crash
"""


def measure_many(directory: Path, count: int) -> None:
    tape = directory / "B00001L9"
    cartridge = new_cartridge(tape)
    chunk = random.Random(1).randbytes(512 * 1000)
    for _ in range(count // 1000):
        cartridge.write_blocks(chunk, 512)
    cartridge.close()
    for how in ("after a clean close", "after a crash"):
        if how == "after a crash":
            for path in tape.glob("p0/*.idx"):
                path.unlink()
        print(f"{how}: ", end="", flush=True)
        subprocess.run([sys.executable, "-c", MANY, str(tape)], check=True)
    shutil.rmtree(tape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, default=None, help="where to write (default: the temporary directory)"
    )
    parser.add_argument("--megabytes", type=int, default=512, help="how much to write at each size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=10_000_000, help="blocks of 512 bytes to open; 0: skip")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="tapebay-bench-", dir=options.directory))
    try:
        for size in SIZES:
            measure(directory, size, options.megabytes << 20, options.rounds)
        if options.many:
            measure_many(directory, options.many)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
