"""The appliance of the simulation: real verbs, snapshots and lists, and a mover that does what a backup's job does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance.access.caller import OWNER
from appliance.backup.listing import ListRefused
from appliance.backup.lists import FileLists
from appliance.failures import Failure, OperatorError
from appliance.library.snapshots.keeper import NoSuchSnapshot, Snapshots
from appliance.library.snapshots.kept_set import KeptSet
from appliance.library.snapshots.states import SetState, SnapshotStateError
from appliance.operations.backup import check_lists
from appliance.operations.perform import find, parameters_of, perform
from scsi_targets.devices.disk.block_device import BlockDevice
from tests.sim.agent_world import Fates, World


class Appliance:
    """The verbs that an agent asks for, over real snapshots; backups are those of Mover."""

    def __init__(self, world: World, folder: Path, disks: Mapping[str, BlockDevice], *, budget_bytes: int) -> None:
        self.world, self.folder, self._disks, self._budget_bytes = world, folder, disks, budget_bytes
        self.movers: dict[int, Mover] = {}
        self.made: list[KeptSet] = []
        self.answers: dict[str, Any] = {}
        self.fates = Fates()
        self._rows: dict[str, Any] = {}
        self.down = False
        self._start()

    def _start(self) -> None:
        state = SimpleNamespace(items=lambda _space: dict(self._rows), update=self._update, put=self._put)
        self.file_lists = FileLists(self.folder / "lists", self._is_over)
        self.snapshots = Snapshots(
            lambda: self._disks, self.folder / "stores", state, budget_bytes=self._budget_bytes,  # type: ignore[arg-type]
            clock=lambda: self.world.now, looked=lambda: self.file_lists.forget_those_over(),
        )  # fmt: skip
        library = SimpleNamespace(snapshots=self.snapshots, held=self._held, file_lists=self.file_lists)
        self.context = SimpleNamespace(library=library, caller=OWNER)

    def _put(self, _space: str, name: str, value: Any) -> None:
        self._rows[name] = value
        if value is None:
            del self._rows[name]

    def _update(self, space: str, rows: Mapping[str, Any]) -> None:
        for name, value in rows.items():
            self._put(space, name, value)

    def _held(self, name: str) -> KeptSet:
        try:
            return self.snapshots.get(name)
        except NoSuchSnapshot as error:
            raise OperatorError(Failure.NOT_FOUND, str(error)) from None

    def _is_over(self, name: str) -> bool:
        try:
            return self.snapshots.get(name).state.over
        except NoSuchSnapshot:
            return True

    def crash(self) -> None:
        """It is gone, and back after a while."""
        self.down = True
        self.snapshots.close()
        for mover in self.movers.values():
            mover.end("interrupted", "the daemon ended while it ran")
        self.world.after(self.world.random.uniform(0.5, 30), self._come_back)

    def _come_back(self) -> None:
        self._start()
        self.down = False

    def look(self) -> None:
        """What the thread of the snapshots does each second."""
        if not self.down:
            self.snapshots.look()

    def do(self, verb: str, parameters: Mapping[str, Any], key: str = "") -> Any:
        """Raises OperatorError."""
        if key and key in self.answers:
            return self.answers[key]
        answer = self._do(verb, parameters)
        if key:
            self.answers[key] = answer
        return answer

    def _do(self, verb: str, parameters: Mapping[str, Any]) -> Any:
        if verb == "backup.start":
            return self._begin_backup(**parameters)
        if verb == "backup.resume":
            self.movers[parameters["number"]].resume()
        if verb in ("backup.wait", "backup.account", "backup.resume"):
            return self.movers[parameters["number"]].report()
        found = find(verb)
        answer = perform(found, self.context, parameters_of(found, parameters))  # type: ignore[arg-type]
        if verb == "snapshot.create":
            self.made.append(self.snapshots.get(answer["snapshot"]))
        return answer

    def _begin_backup(self, *, snapshot: str, disks: list[str], **_wanted: Any) -> Any:
        try:
            check_lists(self.context, snapshot, disks)  # type: ignore[arg-type]
        except ListRefused as error:
            raise OperatorError(Failure.USAGE, str(error)) from error
        for other in self.movers.values():
            if other.kept.name == snapshot and other.state == "running":
                raise OperatorError(Failure.REFUSED, f"backup {other.number} writes snapshot {snapshot} already")
        mover = Mover(self, len(self.movers) + 1, self.snapshots.get(snapshot))
        self.movers[mover.number] = mover
        mover.begin()
        return mover.report()


@dataclass
class Mover:
    """Does what appliance.backup.job does with its snapshot. tape: what it has written, by disk and offset. room: for
    how much of it there are cartridges; None: for all."""

    appliance: Appliance
    number: int
    kept: KeptSet
    state: str = "running"
    reason: str = ""
    tape: dict[tuple[str, int], int] = field(default_factory=dict)
    room: int | None = None

    def report(self) -> dict[str, Any]:
        return {"number": self.number, "state": self.state, "reason": self.reason}

    def end(self, state: str, reason: str) -> None:
        if self.state == "running":
            self.state, self.reason = state, reason

    def begin(self) -> None:
        """Again, perhaps with another cartridge."""
        world = self.appliance.world
        full = world.chance(self.appliance.fates.tapes_full)
        self.room = len(self.tape) + 2 * world.random.randrange(4) if full else None
        self._guarded(self._list)

    def _guarded(self, step: Callable[[], object]) -> None:
        """A step of its own thread; whatever ends it leaves the snapshot to the agent."""
        if self.state != "running":
            return
        try:
            step()
        except (SnapshotStateError, ListRefused, OSError, OperatorError) as error:
            self.end("failed", self.kept.over_because or str(error))

    def resume(self) -> None:
        """Where its last checkpoint was."""
        if self.state != "failed":
            raise OperatorError(Failure.REFUSED, f"backup {self.number} is {self.state}")
        self.state, self.reason = "running", ""
        self.begin()

    def _list(self) -> None:
        self.entries = [
            (disk, entry)
            for disk in self.kept.disks
            for entry in self.appliance.file_lists.get(self.kept.name, disk).walk()
            if (disk, entry.extents[0].disk_offset) not in self.tape  # type: ignore[union-attr]
        ]
        wanted: dict[str, list[tuple[int, int]]] = {disk: [] for disk in self.kept.disks}
        for disk, entry in self.entries:
            wanted[disk] += [(extent.disk_offset, extent.length) for extent in entry.extents]  # type: ignore[union-attr]
        if self.kept.state is SetState.HELD:
            self.kept.narrow(wanted)
        self.kept.start()
        self._later()

    def _later(self) -> None:
        world, fates = self.appliance.world, self.appliance.fates
        slow = world.chance(fates.slow_mover)
        seconds = world.random.uniform(0, 90) if slow else world.random.expovariate(10)
        for renewal in range(1, int(seconds // 20) + 1 if world.chance(0.5) else 0):  # one that hangs renews nothing
            world.after(renewal * 20.0, lambda: self._guarded(self.kept.renew))
        world.after(seconds, lambda: self._guarded(self._copy))

    def _copy(self) -> None:
        """One file, and its checkpoint."""
        if self.appliance.world.chance(self.appliance.fates.mover_fails):
            self.kept.fail("segment 3: the drive does not answer")
            raise OperatorError(Failure.REFUSED, "the drive does not answer")
        if self.entries and self.room is not None and len(self.tape) >= self.room:
            self.kept.fail("the cartridges are full")
            raise OperatorError(Failure.REFUSED, "the cartridges are full; give more")
        if not self.entries:
            self.kept.finish()
            self.kept.release()
            self.end("done", "")
            return
        disk, entry = self.entries.pop(0)
        extents = [(extent.disk_offset, extent.length) for extent in entry.extents]  # type: ignore[union-attr]
        for offset, length in extents:
            data = bytearray(length)
            self.kept.images[disk].read_into(data, offset)
            self.tape[disk, offset] = int.from_bytes(data[:8], "big")
        self.kept.commit(disk, extents)
        self._later()
