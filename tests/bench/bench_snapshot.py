"""What a snapshot costs, as ratios within one run.

    python -m tests.bench.bench_snapshot [--directory DIR] [--mebibytes 256] [--rounds 3]

Latency of WRITE(16), depth 1, random chunks, as an initiator over iSCSI on this machine sees it: without a snapshot, to
a disk whose changes are counted, at the first touch of a chunk, after it; these take turns. And EXTENDED COPY of a
snapshot to a tape beside `cp` of the same image, both into files never written before: from a snapshot of a disk that
nobody writes, and of one that another initiator writes all the time.
"""

import argparse
import logging
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from datamover.initiator import InitiatorSession
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.disk.instant import held_still
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import sbc
from tests.bench.extended_copy import Bench
from tests.support.appliance import Appliance, Disk
from tests.unit.devices.copying.support import block_to_stream
from tests.unit.devices.support import ALPHA, TARGET
from tests.unit.devices.tape.support import make_cartridge
from vlib_images.disk.snapshot_image import SnapshotImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import CHUNK_BYTES, FileStore

MIB = 1 << 20
WRITES = 1000  # of each kind in a round
STATES = ("without", "counted", "first touch", "after")


# ---- latency ---------------------------------------------------------------------------------------------------------


def latency(folder: Path, mebibytes: int, rounds: int) -> None:
    """Prints a line for each length and state."""
    disks = [Disk(name, f"{mebibytes} MiB") for name in ("data", "counted")]
    appliance = Appliance(folder, disks=disks, cartridges=0)
    try:
        with InitiatorSession(appliance.portal, appliance.target_name, initiator_name=ALPHA.initiator_name) as session:
            lun, counted = (appliance.lun(disk.name) for disk in disks)
            for at in range(mebibytes):
                for each in (lun, counted):
                    write(session, each, at * MIB, os.urandom(MIB))
            name = appliance.call("snapshot.create", disks="counted", increments=True)["snapshot"]
            appliance.call("snapshot.release", snapshot=name)
            for length in (4096, CHUNK_BYTES):
                rows = {state: list[float]() for state in STATES}
                for number in range(rounds):
                    chunks = random.Random(number).sample(range(mebibytes * MIB // CHUNK_BYTES), WRITES)
                    rows["without"] += [write(session, lun, chunk * CHUNK_BYTES, bytes(length)) for chunk in chunks]
                    rows["counted"] += [write(session, counted, at * CHUNK_BYTES, bytes(length)) for at in chunks]
                    name = appliance.call("snapshot.create", disks="data", budget=f"{mebibytes} MiB")["snapshot"]
                    for state in STATES[2:]:
                        data = state[:4].encode() * (length // 4)
                        rows[state] += [write(session, lun, chunk * CHUNK_BYTES, data) for chunk in chunks]
                    assert appliance.call("snapshot.release", snapshot=name)["state"] == "released"
                say_latency(length, rows)
    finally:
        appliance.stop()


def write(session: InitiatorSession, lun: int, offset: int, data: bytes) -> float:
    """Seconds that it took."""
    cdb = sbc.Write16.encode(logical_block_address=offset // 512, transfer_length=len(data) // 512)
    while True:
        began = time.perf_counter()
        result = session.command(lun, cdb, data, timeout_seconds=60)
        if result.status == 0:
            return time.perf_counter() - began
        assert result.sense[2] & 0xF == 6, result  # a unit attention of the login


def say_latency(length: int, rows: dict[str, list[float]]) -> None:
    base = percentiles(rows["without"])
    for state, values in rows.items():
        found = percentiles(values)
        ratios = " ".join(f"{now / then:5.2f}" for now, then in zip(found, base, strict=True))
        print(f"WRITE of {length:6}, {state:12}: p50 {found[0]:7.1f} us, p99 {found[1]:7.1f} us; ratios {ratios}")


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values) * 1e6, statistics.quantiles(values, n=100)[98] * 1e6


# ---- copying ---------------------------------------------------------------------------------------------------------


class SnapshotBench(Bench):
    """The bench of EXTENDED COPY with a snapshot in the place of its disk."""

    def __init__(self, directory: Path, mebibytes: int) -> None:
        super().__init__(directory, mebibytes)
        self.image, self.directory, self._cartridges = self.disk, directory, 2

    def take(self) -> SnapshotSet:
        store = FileStore(self.directory, "bench", self.length)
        taken = SnapshotSet.take([self.image.medium], store, hold=held_still([self.image]))
        identity = Identity("TAPEBAY", "DISK SNAPSHOT", "0100", f"S{time.monotonic_ns():X}")
        self.disk = BlockDevice(identity, SnapshotImage(taken.snapshots[0]), read_only=True)
        units: list[Any] = [self.disk, self.tape]
        self.view = View(ALPHA.principal, TARGET, dict(enumerate(units)))
        self.view.nexus_established(ALPHA)
        while self.disk.take_unit_attention(ALPHA):
            pass
        return taken

    def of_snapshot(self, writer: Callable[[threading.Event], None] | None) -> float:
        """GB/s."""
        self._insert_blank()
        taken, stop = self.take(), threading.Event()
        thread = threading.Thread(target=writer, args=(stop,)) if writer else None
        if thread:
            thread.start()
        speed, _ = self.run(block_to_stream, 262144)
        stop.set()
        if thread:
            thread.join()
        assert taken.state.value == "held"
        taken.release()
        taken.join(10)
        return speed

    def _insert_blank(self) -> None:
        """A cartridge that was never written."""
        self.tape.unload()
        self.cartridge.close()
        shutil.rmtree(next(self.directory.glob("*L8")))
        self.cartridge = make_cartridge(self.directory, f"TAP{self._cartridges:03}L8", capacity_bytes=4 * self.length)
        self._cartridges += 1
        self.tape.load(self.cartridge)
        while self.tape.take_unit_attention(ALPHA):
            pass

    def write_all_the_time(self, stop: threading.Event) -> None:
        """4 KiB each, anywhere, 2000 a second: another initiator's."""
        rng, data = random.Random(1), b"n" * 4096
        while not stop.wait(0.0005):
            self.image.medium.write(data, rng.randrange(self.length // 4096) * 4096)

    def of_file(self) -> float:
        """GB/s of `cp`."""
        copied = self.directory / "copy"
        began = time.perf_counter()
        subprocess.run(["cp", "--reflink=never", "--sparse=never", self.image.medium.name, copied], check=True)
        seconds = time.perf_counter() - began
        copied.unlink()
        return self.length / seconds / 1e9


def copies(folder: Path, mebibytes: int, rounds: int) -> None:
    """Prints a line for each kind, medians of rounds that take turns."""
    bench = SnapshotBench(folder, mebibytes)
    kinds: dict[str, Callable[[], float]] = {
        "cp": bench.of_file,
        "a still snapshot": lambda: bench.of_snapshot(None),
        "one that is written": lambda: bench.of_snapshot(bench.write_all_the_time),
    }
    rows = {name: list[float]() for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            rows[name].append(kind())
    base = statistics.median(rows["cp"])
    for name, speeds in rows.items():
        speed = statistics.median(speeds)
        print(f"copy, {name:20}: {speed:5.2f} GB/s; ratio {speed / base:.2f}")
    bench.disk = bench.image
    bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=None, help="where the files go (default: the temporary one)")
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for measure in (latency, copies):
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            measure(Path(directory), options.mebibytes, options.rounds)


if __name__ == "__main__":
    main()
