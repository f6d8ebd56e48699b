"""The fourth way of table 1: a hot backup, by the agent's own code, over networks that count.

The disk holds no file system, so what is listed is one file, which lies all over it; no kernel has anything to hold
still. Everything else is as on a server: the snapshot at an instant, its lease, the signed list, and the backup that
the library writes from the snapshot, as a tar archive with its index. tests/interop/test_hot_backup.py does it with
file systems, a kernel, and counts at the server's network.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance.agent.asking import Asking
from appliance.agent.backup import AgentJob, HotBackup, MountedSource
from appliance.agent.block_devices import DeviceRange, Stack
from appliance.agent.file_systems import MountedFileSystem
from appliance.agent.server import ThisServer
from appliance.agent.snapshot_walk import Order
from appliance.backup.entries import Entry, FileExtent, Kind
from appliance.backup.listing import to_line
from appliance.control.client import Client
from datamover.initiator import InitiatorSession
from scsi_targets.client.disk import Disk

NAME = b"disk.img"
EXTENT_BYTES = 64 << 20


class WholeDisk(ThisServer):
    """A server whose file system is one file over all of its disk."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    def sync(self, points: Sequence[Path]) -> None:
        """There is nothing to write out."""

    @contextmanager
    def held(self, points: Sequence[Path], *, limit_seconds: float) -> Iterator[None]:
        """There is nothing to hold."""
        yield

    @contextmanager
    def mounted(self, device: list[str]) -> Iterator[Any]:
        """Nothing of the snapshot has to be read."""
        yield SimpleNamespace(devices=dict.fromkeys(device, ""))

    def lines(self, order: Order) -> Iterator[str]:
        """The one file."""
        size = self._size_bytes
        extents = [FileExtent(at, at, min(EXTENT_BYTES, size - at)) for at in range(0, size, EXTENT_BYTES)]
        yield to_line(Entry(NAME, Kind.FILE, size=size, extents=extents))


def hot_backup(given: argparse.Namespace, session: InitiatorSession) -> Callable[[], int]:
    """The server whose disk is backed up; what came into it of the disk's content."""
    size = Disk(session, given.disk).capacity.size_bytes
    client = Client.at(f"http://{given.api}", given.token)
    server, disk = WholeDisk(size), "sda"
    mount = MountedFileSystem(Path("/"), "/", (8, 0), "ext4", frozenset())
    source = MountedSource(mount, Stack((disk,), (DeviceRange(0, size, disk, 0),)), disk, given.name)
    key = hashlib.sha256(given.token.encode()).hexdigest().encode()
    hot = HotBackup(Asking(client), server, server=server, key=key)  # type: ignore[arg-type]

    def work() -> int:
        wanted = {"to": [given.cartridge], "drive": given.drive, "overwrite": True}
        report = hot.run(AgentJob([Path("/")]), [source], **wanted)
        if report["state"] != "done":
            raise SystemExit(f"the backup is {report['state']}: {report['reason']}")
        return hot.payload_bytes

    print("ready", flush=True)
    return work
