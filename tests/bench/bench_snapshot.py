"""Latency of writes to a disk image: without a snapshot, at the first touch of a chunk, after it. One run, interleaved.

python tests/bench/bench_snapshot.py [directory]
"""

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import CHUNK_BYTES, FileStore

CHUNKS = 2048
ROUNDS = 3


def latencies(image: DiskImage, chunks: list[int], data: bytes) -> list[float]:
    found = []
    for chunk in chunks:
        began = time.perf_counter()
        image.write(data, chunk * CHUNK_BYTES)
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    for length in (4096, CHUNK_BYTES):
        rows: dict[str, list[float]] = {"without": [], "first touch": [], "after": []}
        with tempfile.TemporaryDirectory(dir=folder) as directory:
            image = DiskImage.create(Path(directory, "a.img"), CHUNKS * CHUNK_BYTES)
            image.fill(b"x" * 4096, 0, CHUNKS * CHUNK_BYTES)
            chunks = list(range(CHUNKS))
            for _ in range(ROUNDS):
                random.Random(1).shuffle(chunks)
                rows["without"] += latencies(image, chunks, b"a" * length)
                taken = SnapshotSet.take([image], FileStore(Path(directory), "s", CHUNKS * CHUNK_BYTES))
                rows["first touch"] += latencies(image, chunks, b"b" * length)
                rows["after"] += latencies(image, chunks, b"c" * length)
                taken.release()
            image.close()
        base = statistics.median(rows["without"])
        for name, values in rows.items():
            p50, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
            print(f"{length:6} bytes, {name:12}: p50 {p50 * 1e6:7.1f} us ({p50 / base:.2f}), p99 {p99 * 1e6:7.1f} us")


if __name__ == "__main__":
    main()
