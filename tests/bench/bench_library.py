"""What a library's size costs: making cartridges, a durable move, the start, status.

    python -m tests.bench.bench_library [--directory DIR] [--create 5000] [--cartridges 100,10000,60000]

Everything goes through the command line and the daemon, as an operator meets it, but moves: those are timed in
process, on the inventory alone (one transaction, its audit record and one fsync each), beside an fdatasync of 4 KiB
on the same disk. Seconds are wall clock; "processor" is user and system time of the commands, which other programs
disturb less.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vlib_images.library.database.database import FILE_NAME, Database
from vlib_images.library.inventory import Inventory, Layout

MOVES = 500
LAYOUT = Layout(range(1, 2), storage=range(1025, 62025), import_export=range(769, 1024), drives=range(257, 513))


def tapebay(*arguments: object) -> tuple[float, float]:
    """One command; its seconds, and its processor seconds."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "appliance", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


class Served:
    """The daemon of a library. ready, processor: seconds until the line that says so, and of processor time."""

    def __init__(self, directory: Path) -> None:
        begin = time.perf_counter()
        command = [sys.executable, "-m", "appliance", "serve", "--config", str(directory)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        if not any(b"ready" in line for line in self.process.stderr):
            raise SystemExit("the daemon did not start")
        self.ready = time.perf_counter() - begin
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        self.processor = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()


def creation(folder: Path, count: int) -> None:
    directory = folder / "created"
    tapebay("init", directory, "--portal", "127.0.0.1:0", "--slots", count)
    took, processor = tapebay("cartridge", "create", "A00001L6", "--count", count, "--config", directory)
    print(f"cartridge create --count {count}: {took:.1f} s, {processor:.1f} s of processor time")


def filled(database: Database, count: int) -> Inventory:
    inventory = Inventory(database, LAYOUT)
    for _ in inventory.add_all([(f"A{number:05}L6", LAYOUT.storage[number]) for number in range(count)]):
        pass
    return inventory


def moves(folder: Path, counts: list[int]) -> None:
    """In turns, so that all of them meet the same noise."""
    databases = {count: Database.create(folder / f"{count}-{FILE_NAME}") for count in counts}
    libraries = {count: filled(database, count) for count, database in databases.items()}
    times: dict[int, list[float]] = {count: [] for count in counts}
    chooser = random.Random(1)
    for _ in range(MOVES):
        for count, inventory in libraries.items():
            slot = LAYOUT.storage[chooser.randrange(count)]
            for ends in ((slot, LAYOUT.drives[0]), (LAYOUT.drives[0], slot)):
                begin = time.perf_counter()
                inventory.move(*ends)
                times[count].append(time.perf_counter() - begin)
    print(f"fdatasync of 4 KiB: {plain_sync(folder / 'plain') * 1000:.2f} ms")
    for count, taken in times.items():
        ordered = sorted(taken)
        print(
            f"move among {count} cartridges: median {statistics.median(ordered) * 1000:.2f} ms,"
            f" 99 of 100 within {ordered[len(ordered) * 99 // 100] * 1000:.1f} ms"
        )
        databases[count].close()


def plain_sync(path: Path) -> float:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    times = []
    for number in range(MOVES):
        begin = time.perf_counter()
        os.pwrite(descriptor, bytes(4096), number * 4096)
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - begin)
    os.close(descriptor)
    return statistics.median(times)


def start_and_status(folder: Path, count: int) -> None:
    directory = folder / f"served-{count}"
    tapebay("init", directory, "--portal", "127.0.0.1:0", "--slots", count)
    tapebay("cartridge", "create", "A00001L6", "--count", count, "--config", directory)
    starts, statuses = [], []
    for _ in range(3):
        served = Served(directory)
        try:
            starts.append((served.ready, served.processor))
            statuses += [tapebay("status", "--config", directory) for _ in range(3)]
        finally:
            served.stop()
    for what, times in (("start", starts), ("tapebay status", statuses)):
        took, processor = map(min, zip(*times, strict=True))
        print(f"with {count} cartridges: {what} {took:.2f} s, {processor:.2f} s of processor time (the best)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; by default the one of temporary files")
    parser.add_argument("--create", type=int, default=5000)
    parser.add_argument("--cartridges", default="100,10000,60000")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-library-", dir=chosen.directory))
    try:
        moves(folder, [int(count) for count in chosen.cartridges.split(",")])
        creation(folder, chosen.create)
        for count in (100, 10_000):
            start_and_status(folder, count)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
