"""How fast files come to tape: beside `cp` of the disk, from a snapshot that is still and from one that is written.

    python -m tests.bench.backup [--directory DIR] [--mebibytes 2048] [--small 20000]

A daemon of its own serves a disk with an ext4 file system of large files, which is backed up; then again while another
thread writes all over the disk; and `cp` copies the image. Each figure is the best of three, all in one run. Then as
many files of 4 KiB as are asked for: files a second.
"""

import argparse
import os
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from datamover.initiator import InitiatorSession
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import Device, write_10
from tests.unit.backup.support import run, which

MEBIBYTE = 1 << 20
RUNS = 3


def make_disk(path: Path, tree: Path, mebibytes: int, *options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as image:
        image.truncate(mebibytes * MEBIBYTE)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", *options, "-d", tree, path)


def fill(tree: Path, count: int, length: int) -> None:
    for number in range(count):
        path = tree / f"{number % 100:02}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(length))


class Writer:
    """Overwrites free and used blocks of a disk, as a host would, until it is told to stop."""

    def __init__(self, site: Appliance, mebibytes: int) -> None:
        self._site, self._blocks = site, mebibytes * 2048
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.written = 0

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        choose, data = random.Random(1), os.urandom(65536)
        with InitiatorSession(self._site.portal, self._site.target_name) as session:
            disk = Device(session, self._site.lun("data"))
            while not self._stop.is_set():
                disk.good(write_10(choose.randrange(self._blocks // 128) * 128, 128), data)
                self.written += len(data)
                time.sleep(0.005)


def back_up(site: Appliance) -> tuple[float, dict]:
    """(MB/s to tape, durable, the report)."""
    report = site.call("backup.start", disks=["data"], to=["TST001L6"], overwrite=True, timeout_seconds=3600)
    assert report["state"] == "done", report
    return report["megabytes_per_second"], report


def copied_by_cp(image: Path, directory: Path) -> float:
    target = directory / "copy"
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run(["cp", "--sparse=never", image, target], check=True)
    subprocess.run(["sync", target], check=True)  # as durable as what is on tape
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def timed(site: Appliance) -> tuple[float, dict]:
    """(seconds from the command to its end, the report)."""
    began = time.perf_counter()
    report = back_up(site)[1]
    return time.perf_counter() - began, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=None, help="where the files go (default: the temporary one)")
    parser.add_argument("--mebibytes", type=int, default=2048)
    parser.add_argument("--small", type=int, default=20_000, help="how many files of 4 KiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        large_files(Path(name) / "large", options.mebibytes)
        small_files(Path(name) / "small", options.small)


def large_files(directory: Path, mebibytes: int) -> None:
    tree, library = directory / "tree", directory / "library"
    fill(tree, mebibytes * 7 // 10 // 64, 64 * MEBIBYTE)
    image = library / "disks/data.img"
    make_disk(image, tree, mebibytes)
    with Appliance(library, disks=[Disk("data", f"{mebibytes} MiB")], cartridges=1) as site:
        back_up(site)  # and everything is in the page cache now
        size = image.stat().st_size
        cp = size / min(copied_by_cp(image, directory) for _ in range(RUNS)) / 1e6
        still = max(back_up(site)[0] for _ in range(RUNS))
        rates, written = [], 0
        for _ in range(RUNS):
            with Writer(site, mebibytes) as writer:
                rates.append(back_up(site)[0])
            written += writer.written
        busy = max(rates)
    print(f"cp of the image, and sync     {cp:8.0f} MB/s")
    print(f"backup, a still snapshot      {still:8.0f} MB/s   {still / cp:.2f} of cp")
    print(f"backup, written meanwhile     {busy:8.0f} MB/s   {busy / cp:.2f} of cp ({written / 1e6:.0f} MB written)")


def small_files(directory: Path, count: int) -> None:
    tree, library = directory / "tree", directory / "library"
    fill(tree, count, 4096)
    mebibytes = count * 10 // 1024 + 64
    make_disk(library / "disks/data.img", tree, mebibytes, "-N", str(count * 2))
    with Appliance(library, disks=[Disk("data", f"{mebibytes} MiB")], cartridges=1) as site:
        seconds, report = min((timed(site) for _ in range(RUNS)), key=lambda found: found[0])
    print(f"backup of files of 4 KiB      {report['files'] / seconds:8.0f} files/s ({report['files']} files)")


if __name__ == "__main__":
    main()
