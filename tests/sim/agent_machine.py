"""The server of the simulation: its kernel, watchdog, network and agent; and the judge of what came of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance.agent.asking import Asking
from appliance.agent.backup import AgentJob, HotBackup, MountedSource
from appliance.agent.block_devices import DeviceRange, Stack
from appliance.agent.file_systems import MountedFileSystem
from appliance.agent.freeze import FreezeFailed, Kernel, held_still
from appliance.agent.snapshot_walk import Order, WalkFailed
from appliance.backup.entries import Entry, FileExtent, Kind
from appliance.backup.listing import to_line
from appliance.failures import Failure, NoAnswer, OperatorError
from appliance.library.snapshots.states import SetState
from tests.sim.agent_appliance import Appliance, Mover
from tests.sim.agent_world import (
    DISKS,
    FREED_SECONDS,
    HALF,
    LIMIT_SECONDS,
    SECTOR,
    SLOTS,
    Dies,
    Fates,
    FileSystem,
    World,
)
from tests.unit.devices.disk.support import make_disk
from vlib_images.disk.snapshot_store import CHUNK_BYTES


class Watchdog:
    """As the process is: it acts at the limit, at once when the agent is gone, and again until it is dismissed."""

    def __init__(self, machine: Machine, descriptors: Sequence[int], limit_seconds: float, kernel: Kernel) -> None:
        self._machine, self._acted, self._over = machine, False, False
        self._file_systems = [machine.by_descriptor(descriptor) for descriptor in descriptors]
        machine.watchdogs.append(self)
        machine.world.after(limit_seconds, self.act)

    def act(self) -> None:
        if self._over:
            return
        for file_system in self._file_systems:
            if file_system.held:
                file_system.let_go()
        self._acted = True
        if not self._machine.dead:
            self._machine.world.after(0.1, self.act)

    def dismiss(self) -> bool:
        self._machine.alive()
        self._over = True
        return self._acted


class Machine:
    """The server: its kernel, its agent's process, its network. frozen: what the file systems of a run were while all
    of them were held."""

    def __init__(
        self, world: World, folder: Path, file_systems: Mapping[str, FileSystem], appliance: Appliance
    ) -> None:
        self.world, self.folder, self.file_systems, self.appliance = world, folder, file_systems, appliance
        self.fates = Fates()
        self.dead = False
        self.frozen: list[dict[str, list[int]]] = []
        self.watchdogs: list[Watchdog] = []
        self.said: list[str] = []
        self.dies_at = -1
        self._steps = 0

    def alive(self) -> None:
        """Before and after everything that the agent does. Raises Dies."""
        self._steps += 1
        if self._steps == self.dies_at and not self.dead:
            self.dead = True
            for watchdog in self.watchdogs:
                self.world.after(0.01, watchdog.act)
        if self.dead:
            raise Dies

    def by_descriptor(self, descriptor: int) -> FileSystem:
        number = os.fstat(descriptor).st_ino
        return next(one for one in self.file_systems.values() if one.path.stat().st_ino == number)

    # ---- the kernel, as held_still() asks it -------------------------------------------------------------------------

    def freeze(self, descriptor: int) -> None:
        self.alive()
        slow = self.world.chance(self.fates.slow_freeze)
        self.world.advance(self.world.random.uniform(0, 12) if slow else 0.01)
        self.by_descriptor(descriptor).hold()
        if all(one.held for one in self.file_systems.values()):
            self.frozen.append({name: list(one.state) for name, one in self.file_systems.items()})
        self.alive()

    def thaw(self, descriptor: int) -> None:
        self.alive()
        self.by_descriptor(descriptor).let_go()

    def sync_file_system(self, _descriptor: int) -> None:
        self.alive()
        self.world.advance(0.05)

    def lock_memory(self) -> None:
        self.alive()

    def unlock_memory(self) -> None:
        self.alive()

    # ---- the server, as HotBackup asks it ----------------------------------------------------------------------------

    def sync(self, _points: Sequence[Path]) -> None:
        self.alive()
        self.world.advance(0.05)

    def held(self, points: Sequence[Path], *, limit_seconds: float) -> AbstractContextManager[None]:
        self.world.writes_each_second = 30.0  # until the instant is made, and rarely after that: it takes time here
        if self.world.chance(self.fates.thawed_by_another):
            self.world.after(self.world.random.uniform(0.1, 0.17), self._let_go_one)
        if self.world.chance(self.fates.held_by_another):
            self._hold_one()
        return held_still(
            points, limit_seconds=limit_seconds, kernel=self,
            watcher=lambda descriptors, limit, kernel: Watchdog(self, descriptors, limit, kernel),
        )  # fmt: skip

    def _let_go_one(self) -> None:
        one = self.world.random.choice(list(self.file_systems.values()))
        if one.held:
            one.let_go()

    def _hold_one(self) -> None:
        one = self.world.random.choice(list(self.file_systems.values()))
        if not one.held:
            one.hold()
            self.world.after(2.0, lambda: one.let_go() if one.held else None)

    def hook(self, _when: str, _command: Sequence[str], _facts: Mapping[str, str]) -> None:
        self.alive()

    def lines(self, order: Order) -> Iterator[str]:
        """What walking the snapshot finds: a file for each slot, of two extents."""
        self.world.writes_each_second = 0.2
        self.alive()
        for slot in range(SLOTS):
            self.world.advance(0.01)
            if self.world.chance(self.fates.walk_fails):
                raise WalkFailed("the walk ended too early")
            at = slot * CHUNK_BYTES
            extents = [FileExtent(0, at, SECTOR), FileExtent(SECTOR, at + HALF, SECTOR)]
            name = f"{order.prefix}/{slot}".encode()
            yield to_line(Entry(name, Kind.FILE, size=2 * SECTOR, extents=extents))
        self.alive()

    def moved_bytes(self, _device: str) -> int:
        return 0

    @contextmanager
    def mounted(self, device: list[str]) -> Iterator[Any]:
        self.alive()
        self.world.advance(self.world.random.expovariate(1))
        if any(self.appliance.down for _ in device):
            raise OperatorError(Failure.NOT_RUNNING, "the appliance is away")
        yield SimpleNamespace(devices={name: f"/dev/{name}" for name in device})
        self.alive()

    # ---- the network -------------------------------------------------------------------------------------------------

    def call(
        self, verb: str, /, *, timeout_seconds: float, idempotency_key: str = "", **parameters: Any
    ) -> Any:  # fmt: skip
        self.alive()
        world, fates = self.world, self.fates
        if verb == "filelist.add" and world.chance(fates.list_torn):
            parameters = {**parameters, "lines": parameters["lines"][:-1]}
        if world.chance(fates.late):
            world.after(timeout_seconds + world.random.expovariate(0.3), lambda: self._late(verb, parameters))
            return self._no_answer(timeout_seconds)
        if world.chance(fates.lost):
            return self._no_answer(timeout_seconds)
        world.advance(world.random.expovariate(100))
        if self.appliance.down:
            self.alive()
            raise OperatorError(Failure.NOT_RUNNING, "nobody listens")
        answer = self._waited(verb, parameters, idempotency_key)
        if world.chance(fates.doubled):
            world.after(world.random.expovariate(2), lambda: self._late(verb, parameters, idempotency_key))
        if world.chance(fates.answer_lost):
            return self._no_answer(timeout_seconds)
        world.advance(world.random.expovariate(100))
        self.alive()
        return answer

    def _waited(self, verb: str, parameters: Mapping[str, Any], key: str) -> Any:
        answer = self.appliance.do(verb, parameters, key)
        while verb == "backup.wait" and answer["state"] == "running":
            self.world.advance(0.5)
            self.alive()
            answer = self.appliance.do(verb, parameters)
        return answer

    def _late(self, verb: str, parameters: Mapping[str, Any], key: str = "") -> None:
        """Nobody waits for its answer."""
        if not self.appliance.down and verb != "backup.wait":
            try:
                self.appliance.do(verb, parameters, key)
            except OperatorError as error:
                self.said.append(str(error))

    def _no_answer(self, timeout_seconds: float) -> Any:
        self.world.advance(timeout_seconds)
        self.alive()
        raise NoAnswer(Failure.REFUSED, f"the daemon did not answer in {timeout_seconds:g} seconds")

    @contextmanager
    def every(self, seconds: float, act: Callable[[], object]) -> Iterator[None]:
        """The agent's renewals, as events."""
        over = False

        def again() -> None:
            if not over and not self.dead:
                self.world.after(seconds, again)
                act()

        self.world.after(seconds, again)
        try:
            yield
        finally:
            over = True

    def backup(self) -> Any:
        sources = [
            MountedSource(
                MountedFileSystem(one.path, "/", (8, number), "ext4", frozenset()),
                Stack((name,), (DeviceRange(0, 1, name, 0),)),
                name,
                name,
            )
            for number, (name, one) in enumerate(self.file_systems.items())
        ]
        asking = Asking(self, lambda: self.world.now, self.world.advance)  # type: ignore[arg-type]
        hot = HotBackup(asking, self, self.said.append, self, every=self.every)  # type: ignore[arg-type]
        return hot.run(AgentJob([one.path for one in self.file_systems.values()]), sources, to=["A00001L6"])


@dataclass
class Outcome:
    """What became of one schedule. why: in the agent's words; empty where the backup is done."""

    seed: int
    fates: Fates
    state: str
    why: str
    waited_seconds: float
    said: list[str]


class Site:
    """Disks that schedules run on, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disks = {name: make_disk(folder, name=name, blocks=SLOTS * CHUNK_BYTES // SECTOR) for name in DISKS}
        for name in DISKS:
            (folder / "mounted" / name).mkdir(parents=True)

    def close(self) -> None:
        for disk in self.disks.values():
            assert disk.medium.before_change is None
            disk.close()

    def run(self, seed: int, fates: Fates) -> Outcome:
        """One schedule, judged. Raises AssertionError."""
        world = World(seed)
        budget = CHUNK_BYTES if world.chance(fates.small_store) else 2 * SLOTS * CHUNK_BYTES
        appliance = Appliance(world, self.folder, self.disks, budget_bytes=budget)
        file_systems = {
            name: FileSystem(world, self.folder / "mounted" / name, disk) for name, disk in self.disks.items()
        }
        machine = Machine(world, self.folder, file_systems, appliance)
        machine.fates = appliance.fates = fates
        for file_system in file_systems.values():
            file_system.begin()
        if world.chance(fates.agent_dies):
            machine.dies_at = world.random.randrange(1, 60)
        if world.chance(fates.appliance_dies):
            world.after(world.random.expovariate(0.3), appliance.crash)
        self._look_each_second(world, appliance)
        try:
            outcome = self._outcome(seed, fates, machine)
            self._judge(machine, outcome)
        finally:
            appliance.snapshots.close()
            shutil.rmtree(self.folder / "lists", ignore_errors=True)
        return outcome

    def _look_each_second(self, world: World, appliance: Appliance) -> None:
        def look() -> None:
            appliance.look()
            world.after(1.0, look)

        world.after(1.0, look)

    def _outcome(self, seed: int, fates: Fates, machine: Machine) -> Outcome:
        state, why = "dead", "the agent died"
        try:
            report = machine.backup()
            state, why = report["state"], report["reason"]
        except Dies:
            pass
        except (OperatorError, FreezeFailed, WalkFailed) as error:
            state, why = "refused", str(error)
        machine.world.advance(FREED_SECONDS)
        waited = max(one.waited_seconds for one in machine.file_systems.values())
        return Outcome(seed, fates, state, why, waited, machine.said)

    def _judge(self, machine: Machine, outcome: Outcome) -> None:
        for one in machine.file_systems.values():
            assert not one.held, "a file system is held for ever"
            one.writing = False
        assert outcome.waited_seconds <= LIMIT_SECONDS + 0.2, outcome
        for mover in machine.appliance.movers.values():
            assert mover.state != "running", "a backup hangs"
            assert mover.state == "done" or mover.reason, "nobody says why a backup ended"
            self._judge_tape(machine, mover)
        if outcome.state == "done":
            assert sum(mover.state == "done" for mover in machine.appliance.movers.values()) == 1
        else:
            assert outcome.why, outcome
        for kept in machine.appliance.made:
            assert kept.state.over, kept.state
            assert kept.reason or kept.state is SetState.RELEASED, "nobody says why a snapshot ended"
            assert kept.stored_bytes == 0
        assert not list((self.folder / "lists").glob("*")), "a list takes room for ever"
        assert all(disk.medium.before_change is None for disk in self.disks.values())

    @staticmethod
    def _judge_tape(machine: Machine, mover: Mover) -> None:
        """What is on tape, whole or in part, is of one instant at which all file systems were held."""

        def agrees(state: Mapping[str, list[int]]) -> bool:
            return all(state[disk][offset // CHUNK_BYTES] == number for (disk, offset), number in mover.tape.items())

        assert not mover.tape or any(map(agrees, machine.frozen)), (mover.tape, machine.frozen)
        if mover.state == "done":
            assert len(mover.tape) == len(DISKS) * SLOTS * 2, "files are missing"
