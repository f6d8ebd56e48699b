"""How a backup of very many small files goes, from a list that is ready:

    python -m tests.bench.many_files [--directory DIR] [--files 1000000] [--sparse]

A daemon of its own, a disk full of random bytes (or, with --sparse, of none), a list of files of 4 KiB as an agent
sends it. How long the backup takes from the command to its end, how much memory the daemon has had at most, how large
the catalogue is, how long a look-up, the verification and reading the catalogue back from the tape take.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.appliance import FIRST_BARCODE, Appliance, Disk
from tests.support.many_files import DISK, back_up, disk_bytes, name_of, peak_memory_bytes, send

MEBIBYTE = 1 << 20


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def processor_seconds(process_id: int) -> float:
    """What a process has used up to now, all of its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(image: Path) -> None:
    with image.open("r+b") as file:
        for at in range(0, image.stat().st_size, MEBIBYTE):
            file.seek(at)
            file.write(os.urandom(MEBIBYTE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=None, help="where the files go (default: the temporary one)")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--sparse", action="store_true", help="a disk that holds nothing, which needs no room")
    options = parser.parse_args()
    size = -(-disk_bytes(options.files) // MEBIBYTE)
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as name,
        Appliance(Path(name), disks=[Disk(DISK, f"{size} MiB")], cartridges=1) as site,
    ):
        if not options.sparse:
            fill(site.image(DISK))
        measure(site, options.files)


def measure(site: Appliance, files: int) -> None:
    before = peak_memory_bytes(site.process_id)
    seconds, snapshot = timed(lambda: send(site, files))
    print(f"the list sent and checked    {seconds:10.1f} s {files / seconds:10.0f} files/s")
    used = processor_seconds(site.process_id)
    seconds, report = timed(lambda: back_up(site, snapshot, FIRST_BARCODE))
    used = processor_seconds(site.process_id) - used
    print(
        f"backup from the list         {seconds:10.1f} s {files / seconds:10.0f} files/s, "
        f"{files / used:.0f} a processor second"
    )
    grown = peak_memory_bytes(site.process_id) - before
    print(f"the daemon's memory grew by  {grown / MEBIBYTE:10.1f} MiB, {grown / files:.0f} bytes a file")
    size = max(path.stat().st_size for path in (site.folder / "state").rglob("*.db"))
    print(f"its catalogue                {size / MEBIBYTE:10.1f} MiB, {size / files:.0f} bytes a file")
    number, last = report["number"], name_of(files - 1).decode()
    for words, parameters in (
        ("look-up of a name", {"pattern": last}), ("of a folder", {"pattern": "srv/data/0000"}),
        ("of a pattern", {"pattern": f"*{last[-5:]}"}),
    ):  # fmt: skip
        seconds, found = timed(lambda parameters=parameters: site.call("catalogue.find", **parameters))
        print(f"{words:28} {seconds * 1000:10.0f} ms, {len(found)} found")
    seconds, verified = timed(lambda: site.call("verify", number=number, timeout_seconds=7200))
    assert verified["files"] == files, verified
    print(f"verify                       {seconds:10.1f} s {files / seconds:10.0f} files/s")
    seconds, _ = timed(lambda: site.call("catalogue.rebuild", cartridges=[FIRST_BARCODE], timeout_seconds=7200))
    print(f"the catalogue read back      {seconds:10.1f} s {files / seconds:10.0f} files/s")


if __name__ == "__main__":
    main()
