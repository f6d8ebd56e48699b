"""A hot backup of this server's files: held still for a moment, mapped from a snapshot, written by the appliance.

In this order: the file systems' disks are found in the library; hooks run; the space of a snapshot is claimed; the file
systems are held still, the instant is made, they go on; the snapshot's disks are logged in to by grants, mounted where
nobody else sees it, and walked; the list of files goes to the appliance, which writes them to tape. No byte of a file
crosses this server but of those few that have no blocks of their own.
"""

from __future__ import annotations

import platform
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import Any, Final

from appliance.agent.asking import Api, Asking
from appliance.agent.block_devices import BlockDevices, Stack
from appliance.agent.file_systems import MountedFileSystem as FileSystemMount
from appliance.agent.file_systems import NotMapped, mappable, mount_of
from appliance.agent.freeze import LIMIT_SECONDS, FreezeFailed
from appliance.agent.mount import Agent, Told, nobody
from appliance.agent.server import ServerSide, ThisServer
from appliance.agent.snapshot_walk import Order, WalkFailed
from appliance.backup.listing import ListDigest, content_bytes
from appliance.failures import Failure, OperatorError
from appliance.processor_time import processor_seconds

RENEW_SECONDS: Final = 20.0
RENEWAL_SECONDS: Final = 10.0  # for the answer to one
RELEASE_SECONDS: Final = 10.0  # for giving a snapshot back, which ends by itself
JOIN_SECONDS: Final = 1.0  # between two questions whether all servers have come
AWAY_SECONDS: Final = 600.0  # for an appliance that is away while it writes
AGAIN_SECONDS: Final = 30.0  # until a backup that failed is resumed
ATTEMPTS: Final = 3  # to hold the file systems still until the snapshot is made
PART_LINES: Final = 2000
PART_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class AgentJob:
    """What is backed up, and around it. paths: directories or files of mounted file systems; everything below them.
    exclude: shell patterns of names, or of paths below the mount point. before, after: commands of hooks. image: in
    place of the files, images of all the disks that they are on. patience_seconds: how
    long the snapshot of a backup that failed is held, and it is resumed again and again."""

    paths: Sequence[Path]
    name: str = "backup"
    exclude: Sequence[str] = ()
    before: Sequence[Sequence[str]] = ()
    after: Sequence[Sequence[str]] = ()
    freeze_seconds: float = LIMIT_SECONDS
    patience_seconds: float = 600.0
    image: bool = False

    @property
    def selection(self) -> str:
        """Which files of which server, in words: increments follow a backup of the same."""
        without = f" without {' '.join(self.exclude)}" if self.exclude else ""
        return f"{platform.node()}: {' '.join(map(str, self.paths))}{without}"


@dataclass(slots=True)
class MountedSource:
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


class MountedSources:
    """Finds file systems, and their disks in a library."""

    def __init__(self, api: Api, devices: BlockDevices | None = None) -> None:
        self._api = api
        self._devices = devices or BlockDevices()

    def of(self, paths: Iterable[Path]) -> list[MountedSource]:
        """One for each file system, with what is wanted of it. Raises NotMapped, OperatorError, OSError."""
        found: dict[Path, MountedSource] = {}
        for path in paths:
            mount = mappable(mount_of(path))
            if mount.point not in found:
                found[mount.point] = self._source(mount)
            found[mount.point].only.append(str(path.resolve().relative_to(mount.point)))
        for source in found.values():
            source.only = [] if "." in source.only else source.only
        return list(found.values())

    def _source(self, mount: FileSystemMount) -> MountedSource:
        stack = self._devices.stack(mount.device)
        disk = stack.only_disk()
        identifier = self._devices.identifier(disk)
        for row in self._api.call("disk.list"):
            if row["identifier"] == identifier:
                return MountedSource(mount, stack, disk, row["name"])
        raise NotMapped(f"{mount.point} is on {disk} ({identifier}), which is no disk of this library")


EXPECTED: Final = (FreezeFailed, WalkFailed, NotMapped)


def server_name() -> str:
    """Of this server, for reports and backups of several servers."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", gethostname().partition(".")[0]).strip("-_") or "server"


@contextmanager
def every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """It is done again and again on a thread of its own while the block runs."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(seconds):
            act()

    thread = threading.Thread(target=again, name="snapshot lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass(slots=True)
class HotBackup:
    """Runs jobs. told: hears what is done. name: of this server, for reports. key: what signs lists. network: what the
    API has cost so far, bytes over the network and seconds of a processor that is not this process's. every: how a
    lease is renewed meanwhile."""

    api: Asking
    agent: Agent
    told: Told = nobody
    server: ServerSide = field(default_factory=ThisServer)
    name: str = field(default_factory=server_name)
    key: bytes = b""
    network: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
    every: Callable[[float, Callable[[], object]], AbstractContextManager[None]] = every
    payload_bytes: int = 0
    metadata_bytes: int = 0

    def run(self, job: AgentJob, sources: Sequence[MountedSource], **wanted: Any) -> Any:
        """The report of the backup that was made. wanted: parameters of backup.start. Whatever goes wrong before the
        appliance has begun to write, everything is let go of and the snapshot's space is given back; after that the
        appliance goes on without this server. Raises OperatorError, FreezeFailed, WalkFailed, OSError."""
        return self._run(job, sources, lambda snapshot, disks: self._start(job, snapshot, disks, wanted))

    def take_part(self, job: AgentJob, sources: Sequence[MountedSource]) -> Any:
        """The same as a part of a backup of several servers, which the job's name is gathered for. Raises as run()
        does; the appliance is told why, so that nobody waits for this server."""
        try:
            if job.image:
                raise OperatorError(Failure.USAGE, f"job {job.name} is of images; several servers give files")
            return self._run(job, sources, lambda snapshot, disks: self._join(job, snapshot, disks))
        except (OperatorError, *EXPECTED, OSError) as error:
            self.decline(job.name, str(error))
            raise

    def decline(self, job: str, reason: str) -> None:
        """Tell the appliance that this server cannot take part in what the job is gathered for."""
        with suppress(OperatorError):  # nobody waits for it any more
            self.api.call("backup.decline", job=job, server=self.name, reason=reason[:2000] or "no reason was given")

    def _start(self, job: AgentJob, snapshot: str, disks: list[str], wanted: dict[str, Any]) -> int:
        wanted |= {"snapshot": snapshot, "disks": disks, "selection": job.selection, "server": self.name}
        wanted["raw"] = job.image
        return int(self.api.call("backup.start", background=True, **wanted)["number"])

    def _join(self, job: AgentJob, snapshot: str, disks: list[str]) -> int:
        """The backup's number, once all servers have come. Raises OperatorError."""
        part: dict[str, Any] = {"job": job.name, "server": self.name, "snapshot": snapshot, "disks": disks}
        while (became := self.api.call("backup.join", **part))["number"] is None:
            if became["reason"]:
                raise OperatorError(Failure.REFUSED, f"job {job.name} has come to nothing: {became['reason']}")
            self.api.pause(JOIN_SECONDS)
        return int(became["number"])

    def _run(self, job: AgentJob, sources: Sequence[MountedSource], begin: Callable[[str, list[str]], int]) -> Any:
        before, self.payload_bytes, self.metadata_bytes = self._spent(), 0, 0
        number, snapshot = self._begun(job, sources, begin)
        self.told(f"backup {number} has begun; it goes on also without this server")
        return self._accounted(self._to_its_end(number, snapshot, job.patience_seconds), *before)

    def _to_its_end(self, number: int, snapshot: str, patience_seconds: float) -> Any:
        """The report. One that has failed is resumed as long as its snapshot is there, which cannot be made again: when
        a drive is free, or an operator has brought what it wanted. Raises OperatorError."""
        until = None
        while True:
            report = self.api.call("backup.wait", number=number, patience_seconds=AWAY_SECONDS)
            if report["state"] != "failed" or not self._is_held(snapshot):
                return report
            until = until or self.api.now() + patience_seconds
            if self.api.now() >= until:
                self._release(snapshot)
                return report
            self.told(f"backup {number} has failed, and is tried again in {AGAIN_SECONDS:g} s: {report['reason']}")
            with self.every(RENEW_SECONDS, lambda: self._renew(snapshot)):
                self.api.pause(min(AGAIN_SECONDS, patience_seconds))
            try:
                self.api.call("backup.resume", number=number, background=True)
            except OperatorError as error:  # an operator has resumed it, for example
                self.told(str(error))

    def _is_held(self, snapshot: str) -> bool:
        try:
            self.api.call("snapshot.renew", snapshot=snapshot, patience_seconds=RENEWAL_SECONDS)
        except OperatorError:
            return False
        return True

    def _spent(self) -> tuple[int, float]:
        length_bytes, seconds = self.network()
        return length_bytes, seconds + processor_seconds()

    def _accounted(self, report: Any, bytes_before: int, seconds_before: float) -> Any:
        """The same, with what it cost this server."""
        try:
            length_bytes, seconds = self._spent()
            spent = {
                "payload_bytes": self.payload_bytes,
                "network_bytes": length_bytes - bytes_before + self.metadata_bytes,
                "processor_seconds": round(seconds - seconds_before, 3),
            }
            return self.api.call("backup.account", number=report["number"], server=self.name, **spent)
        except OperatorError as error:
            self.told(f"what it cost this server is not in the report: {error}")
            return report

    def _begun(
        self, job: AgentJob, sources: Sequence[MountedSource], begin: Callable[[str, list[str]], int]
    ) -> tuple[int, str]:
        """The number of the backup, and its snapshot."""
        disks = list(dict.fromkeys(source.in_library for source in sources))
        snapshot = self._snapshot(job, sources, disks)
        name = snapshot["snapshot"]
        try:
            with self.every(RENEW_SECONDS, lambda: self._renew(name)):
                if not job.image:
                    self._send_lists(job, sources, snapshot)
                return begin(name, disks), name
        except BaseException:
            self._release(name)
            raise

    def _renew(self, snapshot: str) -> None:
        with suppress(OperatorError):  # what has ended is said by the next thing that is done with it
            self.api.call("snapshot.renew", snapshot=snapshot, patience_seconds=RENEWAL_SECONDS)

    def _release(self, snapshot: str) -> None:
        with suppress(OperatorError):  # it ends by itself, without renewals
            self.api.call("snapshot.release", snapshot=snapshot, patience_seconds=RELEASE_SECONDS)

    # ---- the instant -----------------------------------------------------------------------------------------------

    def _snapshot(self, job: AgentJob, sources: Sequence[MountedSource], disks: list[str]) -> Any:
        """Of all disks, with their file systems held still. Raises FreezeFailed, OperatorError, OSError."""
        try:
            for command in job.before:
                self.server.hook("before", command, {"job": job.name})
            snapshot = self._held(job, sources, disks)
        except BaseException:
            self._after(job)
            raise
        if (failed := self._after(job)) is not None:
            self._release(snapshot["snapshot"])
            raise failed
        return snapshot

    def _held(self, job: AgentJob, sources: Sequence[MountedSource], disks: list[str]) -> Any:
        for _ in range(1, ATTEMPTS):
            try:
                return self._instant(job, sources, disks)
            except FreezeFailed as error:
                self.told(f"{error}; once more")
        return self._instant(job, sources, disks)

    def _after(self, job: AgentJob) -> OperatorError | None:
        """All hooks of it are run; what the first that failed says."""
        failures = []
        for command in job.after:
            try:
                self.server.hook("after", command, {"job": job.name})
            except OperatorError as error:
                self.told(str(error))
                failures.append(error)
        return failures[0] if failures else None

    def _instant(self, job: AgentJob, sources: Sequence[MountedSource], disks: list[str]) -> Any:
        points = [source.mount.point for source in sources]
        self.server.sync(points)  # before space is claimed, as that is given back when the instant does not come soon
        made = self.api.call("snapshot.create", disks=",".join(disks), agent=True, prepare=True, increments=True)
        try:
            began = self.api.now()
            with self.server.held(points, limit_seconds=job.freeze_seconds):
                taken = self._taken(made["snapshot"], job.freeze_seconds)
        except BaseException:
            self._release(made["snapshot"])
            raise
        self.told(f"{', '.join(map(str, points))}: held still for less than {self.api.now() - began:.2f} s")
        return taken

    def _taken(self, snapshot: str, seconds: float) -> Any:
        """The instant, and how the snapshot is then; nobody is waited for longer than that. Where an answer was lost,
        the instant is there already when it is asked for again."""
        until = self.api.now() + seconds
        try:
            return self.api.call("snapshot.take", snapshot=snapshot, patience_seconds=seconds)
        except OperatorError:
            left = max(0.0, until - self.api.now())
            shown = self.api.call("snapshot.show", snapshot=snapshot, patience_seconds=left)
            if shown["state"] != "held":
                raise
            return shown

    # ---- the list --------------------------------------------------------------------------------------------------

    def _send_lists(self, job: AgentJob, sources: Sequence[MountedSource], snapshot: Any) -> None:
        devices = {row["disk"]: row["device"] for row in snapshot["disks"]}
        with ExitStack() as opened:
            mount = opened.enter_context(self.agent.mounted(device=list(devices.values())))
            for disk, device in devices.items():
                on_disk = [source for source in sources if source.in_library == disk]
                lines = self._lines(job, on_disk, mount.devices[device])
                self._send(snapshot["snapshot"], disk, lines)
                self.metadata_bytes += self.server.moved_bytes(mount.devices[device])

    def _lines(self, job: AgentJob, sources: Sequence[MountedSource], device: str) -> Iterator[str]:
        for source in sources:
            order = Order.of(
                device, source.mount.file_system, source.stack, prefix=source.prefix, only=tuple(source.only),
                exclude=tuple(job.exclude),
            )  # fmt: skip
            yield from self.server.lines(order)

    def _send(self, snapshot: str, disk: str, lines: Iterator[str]) -> None:
        digest, count = ListDigest(f"{snapshot} {disk}", self.key), 0
        for number, part in enumerate(_parts(lines), start=1):
            for line in part:
                digest.add(line)
                self.payload_bytes += content_bytes(line)
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


def explained(error: Exception) -> OperatorError:
    """What ended a backup, in an operator's terms."""
    return OperatorError(Failure.REFUSED, str(error))
