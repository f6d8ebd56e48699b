"""A list of many small files, as an agent sends it, and the backup of it by a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.backup.entries import Entry, FileExtent, Kind
from appliance.backup.listing import ListDigest, to_line
from tests.support.appliance import Appliance

FILE_BYTES = 4096
STRIDE = 2 * FILE_BYTES  # no two files touch on the disk
LINES_AT_ONCE = 5000
DISK = "data"
FIRST_NS = 1_700_000_000_123_456_789


def disk_bytes(files: int) -> int:
    """How large a disk is that holds so many."""
    return files * STRIDE + (1 << 20)


def name_of(number: int) -> bytes:
    return b"srv/data/%04d/file-%07d" % (number // 1000, number)


def lines(files: int) -> Iterator[str]:
    for number in range(files):
        extents = [FileExtent(0, number * STRIDE, FILE_BYTES)]
        yield to_line(
            Entry(name_of(number), Kind.FILE, 0o644, 1000, 1000, FIRST_NS + number * 1000, FILE_BYTES, extents)
        )


def send(site: Appliance, files: int) -> str:
    """The list of so many files of a new snapshot, whose name is returned."""
    snapshot = str(site.call("snapshot.create", disks=DISK, agent=True)["snapshot"])
    digest, batch, part = ListDigest(f"{snapshot} {DISK}", b""), list[str](), 0
    for number, line in enumerate(lines(files), 1):
        digest.add(line)
        batch.append(line)
        if len(batch) == LINES_AT_ONCE or number == files:
            part += 1
            site.call("filelist.add", snapshot=snapshot, disk=DISK, part=part, lines=batch)
            site.call("snapshot.renew", snapshot=snapshot)
            batch = []
    site.call("filelist.end", snapshot=snapshot, disk=DISK, count=files, digest=digest.hexdigest())
    return snapshot


def back_up(site: Appliance, snapshot: str, cartridge: str) -> dict[str, Any]:
    """The report, once it is done."""
    report = site.call(
        "backup.start", disks=[DISK], to=[cartridge], snapshot=snapshot, overwrite=True, timeout_seconds=7200
    )
    assert report["state"] == "done", report
    return dict(report)


def peak_memory_bytes(process_id: int) -> int:
    """The most that a process has had in memory."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10
