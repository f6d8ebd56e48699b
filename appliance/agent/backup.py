"""A hot backup of this server's files: held still for a moment, mapped from a snapshot, written by the appliance.

In this order: the file systems' disks are found in the library; hooks run; the space of a snapshot is claimed; the file
systems are held still, the instant is made, they go on; the snapshot's disks are logged in to by grants, mounted where
nobody else sees it, and walked; the list of files goes to the appliance, which writes them to tape. No byte of a file
crosses this server but of those few that have no blocks of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from appliance.agent.block_devices import BlockDevices, Stack
from appliance.agent.file_systems import Mount as FileSystemMount
from appliance.agent.file_systems import NotMapped, mappable, mount_of
from appliance.agent.freeze import LIMIT_SECONDS, FreezeFailed, held_still
from appliance.agent.hooks import run_hook
from appliance.agent.mount import Agent, Api, Told, nobody
from appliance.agent.snapshot_walk import Order, WalkFailed, lines_of
from appliance.backup.listing import ListDigest
from appliance.failures import Failure, OperatorError

RENEW_SECONDS: Final = 20.0
ATTEMPTS: Final = 3  # to hold the file systems still until the snapshot is made
PART_LINES: Final = 2000
PART_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """What is backed up, and around it. paths: directories or files of mounted file systems; everything below them.
    exclude: shell patterns of names, or of paths below the mount point. before, after: commands of hooks."""

    paths: Sequence[Path]
    name: str = "backup"
    exclude: Sequence[str] = ()
    before: Sequence[Sequence[str]] = ()
    after: Sequence[Sequence[str]] = ()
    freeze_seconds: float = LIMIT_SECONDS


@dataclass(slots=True)
class Source:
    """One mounted file system of a job. disk: the kernel's name; in_library: the appliance's. only: what is wanted of
    it, below its mount point; nothing: all."""

    mount: FileSystemMount
    stack: Stack
    disk: str
    in_library: str
    only: list[str] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """Of the names of its files: the mount point without the slash before it."""
        return str(self.mount.point).strip("/")


class Sources:
    """Finds file systems, and their disks in a library."""

    def __init__(self, api: Api, devices: BlockDevices | None = None) -> None:
        self._api = api
        self._devices = devices or BlockDevices()

    def of(self, paths: Iterable[Path]) -> list[Source]:
        """One for each file system, with what is wanted of it. Raises NotMapped, OperatorError, OSError."""
        found: dict[Path, Source] = {}
        for path in paths:
            mount = mappable(mount_of(path))
            if mount.point not in found:
                found[mount.point] = self._source(mount)
            found[mount.point].only.append(str(path.resolve().relative_to(mount.point)))
        for source in found.values():
            source.only = [] if "." in source.only else source.only
        return list(found.values())

    def _source(self, mount: FileSystemMount) -> Source:
        stack = self._devices.stack(mount.device)
        disk = stack.only_disk()
        identifier = self._devices.identifier(disk)
        for row in self._api.call("disk.list"):
            if row["identifier"] == identifier:
                return Source(mount, stack, disk, row["name"])
        raise NotMapped(f"{mount.point} is on {disk} ({identifier}), which is no disk of this library")


@dataclass(slots=True)
class HotBackup:
    """Runs jobs. told: hears what is done."""

    api: Api
    agent: Agent
    told: Told = nobody
    lines: Callable[[Order], Iterator[str]] = lines_of
    held: Callable[..., Any] = held_still
    key: bytes = b""

    def run(self, job: Job, sources: Sequence[Source], **wanted: Any) -> Any:
        """The report of the backup that was made. wanted: parameters of backup.start. Whatever goes wrong, everything
        is let go of and the snapshot's space is given back. Raises OperatorError, FreezeFailed, WalkFailed, OSError."""
        disks = list(dict.fromkeys(source.in_library for source in sources))
        snapshot = self._snapshot(job, sources, disks)
        try:
            with self._renewed(snapshot["snapshot"]):
                self._send_lists(job, sources, snapshot)
            return self.api.call("backup.start", snapshot=snapshot["snapshot"], disks=disks, **wanted)
        finally:
            with suppress(OperatorError):  # it ends by itself, without renewals
                self.api.call("snapshot.release", snapshot=snapshot["snapshot"])

    # ---- the instant -----------------------------------------------------------------------------------------------

    def _snapshot(self, job: Job, sources: Sequence[Source], disks: list[str]) -> Any:
        """Of all disks, with their file systems held still. Raises FreezeFailed, OperatorError, OSError."""
        try:
            self._hooks("before", job)
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return self._instant(job, sources, disks)
                except FreezeFailed as error:
                    if attempt == ATTEMPTS:
                        raise
                    self.told(f"{error}; once more")
        finally:
            self._hooks("after", job)

    def _instant(self, job: Job, sources: Sequence[Source], disks: list[str]) -> Any:
        made = self.api.call("snapshot.create", disks=",".join(disks), agent=True, prepare=True)
        try:
            with self.held([source.mount.point for source in sources], limit_seconds=job.freeze_seconds):
                return self.api.call("snapshot.take", snapshot=made["snapshot"])
        except BaseException:
            with suppress(OperatorError):
                self.api.call("snapshot.release", snapshot=made["snapshot"])
            raise

    def _hooks(self, when: str, job: Job) -> None:
        for command in job.before if when == "before" else job.after:
            run_hook(when, command, {"job": job.name})

    @contextmanager
    def _renewed(self, snapshot: str) -> Iterator[None]:
        """The agent's lease, until the appliance has the list."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(RENEW_SECONDS):
                with suppress(OperatorError):  # what has ended is said by the next thing that is done with it
                    self.api.call("snapshot.renew", snapshot=snapshot)

        thread = threading.Thread(target=renew, name="snapshot lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # ---- the list --------------------------------------------------------------------------------------------------

    def _send_lists(self, job: Job, sources: Sequence[Source], snapshot: Any) -> None:
        devices = {row["disk"]: row["device"] for row in snapshot["disks"]}
        with ExitStack() as opened:
            mount = opened.enter_context(self.agent.mounted(device=list(devices.values())))
            for disk, device in devices.items():
                on_disk = [source for source in sources if source.in_library == disk]
                lines = self._lines(job, on_disk, mount.devices[device])
                self._send(snapshot["snapshot"], disk, lines)

    def _lines(self, job: Job, sources: Sequence[Source], device: str) -> Iterator[str]:
        for source in sources:
            order = Order.of(
                device, source.mount.file_system, source.stack, prefix=source.prefix, only=tuple(source.only),
                exclude=tuple(job.exclude),
            )  # fmt: skip
            yield from self.lines(order)

    def _send(self, snapshot: str, disk: str, lines: Iterator[str]) -> None:
        digest, count = ListDigest(f"{snapshot} {disk}", self.key), 0
        for number, part in enumerate(_parts(lines), start=1):
            for line in part:
                digest.add(line)
            count += len(part)
            self.api.call("filelist.add", snapshot=snapshot, disk=disk, part=number, lines=part)
        self.told(f"{count} files of {disk} are listed")
        self.api.call("filelist.end", snapshot=snapshot, disk=disk, count=count, digest=digest.hexdigest())


def _parts(lines: Iterator[str]) -> Iterator[list[str]]:
    """Runs that fit into a request."""
    part: list[str] = []
    size = 0
    for line in lines:
        if part and (len(part) >= PART_LINES or size + len(line) > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


EXPECTED: Final = (FreezeFailed, WalkFailed, NotMapped)


def explained(error: Exception) -> OperatorError:
    """What ended a backup, in an operator's terms."""
    return OperatorError(Failure.REFUSED, str(error))
