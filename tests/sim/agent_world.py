"""A server, its agent, an appliance and what lies between them, in one thread with a clock that the seed drives.

Real are the agent's code (HotBackup, Asking, held_still), the verbs, the snapshots with their stores, and the lists of
files. Modelled are the kernel's freeze, the watchdog's process, the network, the writers of the file systems and the
mover, which does with a snapshot what a backup's job does.

The oracle is what the file systems held when the kernel had frozen them: each of their slots is two sectors that a
writer changes one after the other, so that a snapshot of any other moment shows.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scsi_targets.devices.disk.block_device import BlockDevice
from vlib_images.disk.snapshot_store import CHUNK_BYTES

DISKS: Final = ("data", "log")
SLOTS: Final = 4
SECTOR: Final = 512
HALF: Final = CHUNK_BYTES // 2
LIMIT_SECONDS: Final = 8.0  # of a freeze
FREED_SECONDS: Final = 200.0  # by when everything has ended of itself


class Dies(BaseException):
    """The agent's process is gone: nothing that it would do any more has an effect."""


@dataclass
class Fates:
    """What a schedule has in store; each is a probability, of a message or of the run."""

    lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    thawed_by_another: float = 0.0
    held_by_another: float = 0.0
    slow_freeze: float = 0.0
    agent_dies: float = 0.0
    appliance_dies: float = 0.0
    walk_fails: float = 0.0
    list_torn: float = 0.0
    small_store: float = 0.0
    slow_mover: float = 0.0
    mover_fails: float = 0.0
    tapes_full: float = 0.0


ALL: Final = tuple(Fates.__dataclass_fields__)


class World:
    """Time, and what happens in it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.writes_each_second = 0.2
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), act))

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        self.at(self.now + seconds, act)

    def advance(self, seconds: float) -> None:
        """What is due by then happens."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            when, _, act = heapq.heappop(self._events)
            self.now = max(self.now, when)
            act()
        self.now = max(self.now, until)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


@dataclass
class FileSystem:
    """What the kernel holds, or not, and what its writer does. state: the number in each slot, as of the last whole
    write."""

    world: World
    path: Path
    disk: BlockDevice
    state: list[int] = field(default_factory=lambda: [0] * SLOTS)
    held: bool = False
    held_since: float = 0.0
    waited_seconds: float = 0.0
    waits_since: float | None = None
    half: tuple[int, int] | None = None  # a write in the middle: slot, number
    writing: bool = True
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def begin(self) -> None:
        for slot in range(SLOTS):
            self._put(slot, 0, 0)
            self._put(slot, HALF, 0)
        self.world.after(self.world.random.random(), self.write)

    def write(self) -> None:
        """The first half of a write; a held file system makes it wait."""
        if not self.writing:
            return
        if self.held:
            self.waits_since = self.waits_since or self.world.now
            return
        slot, number = self.world.random.randrange(SLOTS), next(self.numbers)
        self._put(slot, 0, number)
        self.half = slot, number
        self.world.after(self.world.random.expovariate(20), self.write_more)

    def write_more(self) -> None:
        """The second half, unless a freeze has waited for it."""
        if self.half is not None:
            self._finish()
        if self.waits_since is None:
            self.world.after(self.world.random.expovariate(self.world.writes_each_second), self.write)

    def _finish(self) -> None:
        assert self.half is not None
        slot, number = self.half
        self._put(slot, HALF, number)
        self.state[slot], self.half = number, None

    def _put(self, slot: int, offset: int, number: int) -> None:
        self.disk.medium.write(number.to_bytes(8, "big") * (SECTOR // 8), slot * CHUNK_BYTES + offset)

    def hold(self) -> None:
        """As FIFREEZE: what is at work is waited for."""
        if self.held:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if self.half is not None:
            self._finish()
        self.held, self.held_since = True, self.world.now

    def let_go(self) -> None:
        """As FITHAW."""
        if not self.held:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.held = False
        if self.waits_since is not None:
            self.waited_seconds = max(self.waited_seconds, self.world.now - self.waits_since)
            self.waits_since = None
            self.world.after(0.001, self.write)
