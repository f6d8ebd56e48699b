"""One backup of several servers: their agents are waited for, and what they hold still becomes one instant.

An application gathers: it names a job and the servers that are to come. Each server's agent asks whether it is wanted
(`tapebay agent serve`), makes its snapshot and its lists, and joins; or says why it cannot. When all have come, their
snapshots, and one of the library's own for disks that no server uses, are written as one backup: one series of
cartridges, one catalogue. Each server's files have its name before them.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from appliance.backup.house import Instant
from appliance.backup.servers import ServerPart
from appliance.failures import Failure, OperatorError
from scsi_targets.devices.disk.block_device import BlockDevice
from vlib_images.disk.changes import Mark
from vlib_images.disk.image import Image

LOOK_SECONDS: Final = 0.2
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_REMEMBERED: Final = 1000  # answers for agents that ask again what became of what they joined


@dataclass(slots=True)
class Gathering:
    """Who is waited for. parts: by server. failed: why it cannot be; empty: it still can."""

    job: str
    parts: dict[str, ServerPart]
    failed: str = ""
    changed: threading.Event = field(default_factory=threading.Event)

    @property
    def missing(self) -> list[str]:
        """Servers that have not come yet."""
        return [part.server for part in self.parts.values() if part.snapshot is None]


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of what an agent has joined: nothing yet; the backup's number; or why there is none."""

    number: int | None = None
    reason: str = ""


class Gatherings:
    """Thread-safe. In memory: a restart ends the snapshots that have come, too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Gathering] = {}
        self._became: OrderedDict[str, Joined] = OrderedDict()  # by snapshot

    def open(self, job: str, servers: Sequence[str]) -> Gathering:
        """From now on they are waited for. Raises OperatorError."""
        if len(set(servers)) != len(servers):
            raise OperatorError(Failure.USAGE, "a server is named twice")
        if wrong := [server for server in servers if not _NAME.fullmatch(server)]:
            message = f"{wrong[0]!r} is no name of a server; `tapebay agent serve` says which it has"
            raise OperatorError(Failure.USAGE, message)
        with self._lock:
            if job in self._open:
                missing = ", ".join(self._open[job].missing)
                raise OperatorError(Failure.REFUSED, f"job {job} is being gathered already; it waits for {missing}")
            self._open[job] = Gathering(job, {server: ServerPart(server) for server in servers})
            return self._open[job]

    def all(self) -> list[Gathering]:
        """Those that wait for somebody."""
        with self._lock:
            return list(self._open.values())

    def wanted(self, server: str) -> list[str]:
        """The jobs that wait for that server."""
        with self._lock:
            return [one.job for one in self._open.values() if server in one.missing and not one.failed]

    def join(self, job: str, part: ServerPart, check: Callable[[], object]) -> Joined:
        """An agent has come, or asks again. check: whether what it brings is whole; may raise. Raises OperatorError."""
        assert part.snapshot is not None
        with self._lock:
            if (became := self._became.get(part.snapshot)) is not None:
                return became
            gathering = self._expecting(job, part.server)
            if gathering.parts[part.server] == part:
                return Joined()
            self._refuse_taken(gathering, part)
        check()
        with self._lock:
            if self._open.get(job) is gathering:
                gathering.parts[part.server] = part
                gathering.changed.set()
        return Joined()

    def _expecting(self, job: str, server: str) -> Gathering:
        gathering = self._open.get(job)
        if gathering is None or server not in gathering.parts:
            raise OperatorError(Failure.REFUSED, f"nobody waits for {server} in job {job} (any more)")
        return gathering

    @staticmethod
    def _refuse_taken(gathering: Gathering, part: ServerPart) -> None:
        """A disk's files have one list. Raises OperatorError."""
        for other in gathering.parts.values():
            if other.server != part.server and set(other.disks) & set(part.disks):
                shared = ", ".join(sorted(set(other.disks) & set(part.disks)))
                raise OperatorError(Failure.REFUSED, f"{shared} has come from {other.server} already")

    def decline(self, job: str, server: str, reason: str) -> None:
        """An agent cannot. Raises OperatorError."""
        with self._lock:
            gathering = self._expecting(job, server)
            gathering.failed = gathering.failed or f"server {server}: {reason}"
            gathering.changed.set()

    def close(self, gathering: Gathering, became: Joined) -> None:
        """It waits for nobody any more; agents that ask are told."""
        with self._lock:
            self._open.pop(gathering.job, None)
            for part in gathering.parts.values():
                if part.snapshot is not None:
                    self._became[part.snapshot] = became
            while len(self._became) > MOST_REMEMBERED:
                self._became.popitem(last=False)


def wait_for_all(
    gathering: Gathering, seconds: float, now: Callable[[], float], tick: Callable[[int, int], None]
) -> list[ServerPart]:
    """All of them, once they have come. tick(come, all): called on the way, and may raise. Raises OperatorError."""
    deadline, total = now() + seconds, len(gathering.parts)
    while gathering.missing and not gathering.failed:
        if now() >= deadline:
            who = ", ".join(gathering.missing)
            message = f"{who} did not come within {seconds:g} s; does `tapebay agent serve` run there?"
            raise OperatorError(Failure.REFUSED, message)
        tick(total - len(gathering.missing), total)
        gathering.changed.wait(LOOK_SECONDS)
        gathering.changed.clear()
    if gathering.failed:
        raise OperatorError(Failure.REFUSED, gathering.failed)
    return list(gathering.parts.values())


class Together:
    """Several instants as one; each disk is of one of them. As appliance.backup.house.Instant has it."""

    def __init__(self, instants: Iterable[Instant]) -> None:
        self._instants = list(instants)
        self._of = {disk: instant for instant in self._instants for disk in instant.images}
        self.name = "+".join(instant.name for instant in self._instants)
        self._checkpoint = 0

    @property
    def checkpoint(self) -> int:
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, number: int) -> None:
        self._checkpoint = number
        for instant in self._instants:
            instant.checkpoint = number

    @property
    def over_because(self) -> str:
        return next((why for instant in self._instants if (why := instant.over_because)), "")

    @property
    def images(self) -> Mapping[str, Image]:
        return {disk: image for instant in self._instants for disk, image in instant.images.items()}

    @property
    def units(self) -> Mapping[str, BlockDevice]:
        return {disk: unit for instant in self._instants for disk, unit in instant.units.items()}

    @property
    def marks(self) -> Mapping[str, Mark]:
        return {disk: mark for instant in self._instants for disk, mark in instant.marks.items()}

    def changed_since(self, disk: str, mark: Mark, /) -> Iterator[tuple[int, int]]:
        return self._of[disk].changed_since(disk, mark)

    def narrow(self, extents: Mapping[str, Iterable[tuple[int, int]]], /) -> None:
        for instant in self._instants:
            instant.narrow({disk: rows for disk, rows in extents.items() if self._of[disk] is instant})

    @property
    def is_narrowed(self) -> bool:
        return all(instant.is_narrowed for instant in self._instants)

    def fail(self, reason: str, /) -> None:
        """Each, also where another is over: those that are not may be begun again."""
        with ExitStack() as all_of_them:
            for instant in self._instants:
                all_of_them.callback(instant.fail, reason)

    def start(self) -> None:
        for instant in self._instants:
            instant.start()

    def renew(self) -> float:
        return min(instant.renew() for instant in self._instants)

    def list_comes(self) -> None:
        for instant in self._instants:
            instant.list_comes()

    def commit(self, disk: str, extents: Iterable[tuple[int, int]], /) -> None:
        self._of[disk].commit(disk, extents)

    def finish(self) -> None:
        for instant in self._instants:
            instant.finish()

    def release(self) -> None:
        """Each, also where another cannot be."""
        with ExitStack() as all_of_them:
            for instant in self._instants:
                all_of_them.callback(instant.release)
