"""The snapshot sets of a library: made, kept until somebody or a deadline ends them, and remembered for a while.

A restart ends them all, since what they saved is worth nothing without the process that saw every write. The next start
removes what is left in their folder, and answers whoever asks for one of them that it is broken, and why.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from appliance.failures import Failure, OperatorError
from appliance.library.changes import Changes
from appliance.library.snapshots.kept_set import KeptSet, Release
from appliance.library.snapshots.states import RENEW_SECONDS, SetState, Terms
from appliance.settings.units import format_size
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.device import Device
from scsi_targets.t10.sense import CheckCondition
from vlib_images.disk.snapshot_store import CHUNK_BYTES, SUFFIX, FileStore
from vlib_images.library.state import LibraryState

_STORE_NAME: Final = re.compile(f"[0-9a-f]{{16}}{re.escape(SUFFIX)}")  # nothing else in the folder is ours
log = structlog.get_logger(__name__)

NAMESPACE: Final = "snapshots"
MOST_LIVE: Final = 64
MOST_OVER: Final = 64  # remembered, for who asks what became of them
LOOK_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 5.0
LEAST_BUDGET_BYTES: Final = 64 << 20
RESTARTED: Final = "the appliance ended while it was held; make another one"


class NoSuchSnapshot(Exception):
    """str() says so to an operator."""


class Snapshots:
    """Thread-safe. disks: those that are served now, by name. directory: where stores are, which nobody else uses.
    offer, withdraw: make the unit of a snapshot's disk one that may be asked for, and end that. A set that expired or
    broke is offered on, so that its readers are told; until it is released or forgotten. record: takes what became of
    one (action, name, details) into the audit record. looked: called after each look(), for what is to go with a set.

    start() ends what has expired without being asked; close() ends everything."""

    def __init__(
        self,
        disks: Callable[[], Mapping[str, BlockDevice]],
        directory: Path,
        state: LibraryState,
        *,
        budget_bytes: int | None = None,
        changes: Changes | None = None,
        clock: Callable[[], float] = time.monotonic,
        offer: Callable[[str, Device], object] = lambda _name, _unit: None,
        withdraw: Callable[[str], object] = lambda _name: None,
        record: Callable[[str, str, dict[str, object]], object] = lambda _action, _name, _details: None,
        looked: Callable[[], object] = lambda: None,
    ) -> None:
        self._disks = disks
        self._directory = directory
        self._state = state
        self._budget_bytes = budget_bytes
        self._changes = changes
        self._clock = clock
        self._offer, self._withdraw, self._record, self._looked = offer, withdraw, record, looked
        self._lock = threading.Lock()
        self._sets: dict[str, KeptSet] = {}
        self._lost = self._of_a_dead_daemon()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="snapshots", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """All of them end, with all of their space."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        for kept in self.all():
            kept.break_off("the appliance is stopped")
        for kept in self.all():
            kept.join(CLOSE_SECONDS)
            for unit in kept.units.values():
                unit.close()

    # ---- making ------------------------------------------------------------------------------------------------------

    def create(
        self,
        disks: Sequence[str],
        *,
        budget_bytes: int | None = None,
        terms: Terms | None = None,
        release: Release = "commit",
        increments: bool = False,
    ) -> KeptSet:
        """The disks at one instant, HELD. Raises as prepare() and KeptSet.take() do."""
        kept = self.prepare(disks, budget_bytes=budget_bytes, terms=terms, release=release, increments=increments)
        self.take(kept)
        return kept

    def take(self, kept: KeptSet) -> None:
        """The instant of a set that was prepared. Raises OperatorError REFUSED, NotNow."""
        try:
            kept.take()
        except (CheckCondition, TimeoutError) as error:
            message = f"no instant of {', '.join(kept.disks)} can be had now: {error}"
            raise OperatorError(Failure.REFUSED, message) from None
        details: dict[str, object] = {"disks": list(kept.disks), "budget_bytes": kept.budget_bytes}
        log.info("a snapshot is held", snapshot=kept.name, **details)
        try:
            self._record("snapshot held", kept.name, details)
            for disk, unit in kept.units.items():
                self._offer(kept.device_name(disk), unit)
        except BaseException:
            self.release(kept)
            raise

    def prepare(
        self,
        disks: Sequence[str],
        *,
        budget_bytes: int | None = None,
        terms: Terms | None = None,
        release: Release = "commit",
        increments: bool = False,
    ) -> KeptSet:
        """A set FREEZING: its space is claimed, and take() has no more to do than the instant.

        budget_bytes: the most that it may store. increments: the changes of its disks are counted from the instant on
        (KeptSet.frozen). Raises OperatorError: NOT_FOUND for a disk, REFUSED where there is no
        room or there are too many; OSError."""
        found = self._found(disks)
        name = secrets.token_hex(8)
        store = self._make_store(name, found, budget_bytes)
        kept = KeptSet(
            name,
            found,
            store,
            terms or Terms(),
            release=release,
            changes=self._changes if increments else None,
            clock=self._clock,
            on_change=self._changed,
        )
        try:
            self._remember(kept)
        except BaseException:
            kept.release()
            raise
        return kept

    def _found(self, names: Sequence[str]) -> dict[str, BlockDevice]:
        served = self._disks()
        if not names or len(set(names)) != len(names):
            raise OperatorError(Failure.USAGE, "a snapshot is of one disk or several, each named once")
        for name in names:
            if name not in served:
                raise OperatorError(Failure.NOT_FOUND, f"there is no disk {name}; see: tapebay disk list")
            try:
                served[name].medium  # noqa: B018 - raises where it is not ready
            except CheckCondition as error:
                raise OperatorError(Failure.REFUSED, f"disk {name} cannot be read now: {error}") from None
        return {name: served[name] for name in names}

    def _make_store(self, name: str, disks: Mapping[str, BlockDevice], wanted: int | None) -> FileStore:
        self._directory.mkdir(mode=0o750, exist_ok=True)
        total = sum(-(-disk.medium.size_bytes // CHUNK_BYTES) * CHUNK_BYTES for disk in disks.values())
        free = shutil.disk_usage(self._directory).free
        budget = wanted or self._budget_bytes or min(max(total // 5, LEAST_BUDGET_BYTES), free // 2)
        budget = min(max(budget, CHUNK_BYTES), total)
        if budget > free:
            message = (
                f"{self._directory} has {format_size(free)} free, not the {format_size(budget)} that the snapshot may "
                "take; give it less (budget), or make room"
            )
            raise OperatorError(Failure.REFUSED, message)
        return FileStore(self._directory, name, budget)

    def _remember(self, kept: KeptSet) -> None:
        with self._lock:
            over = [other for other in self._sets.values() if other.state.over]
            if len(self._sets) - len(over) >= MOST_LIVE:
                raise OperatorError(Failure.REFUSED, f"{MOST_LIVE} snapshots are held already; release some")
            self._state.put(NAMESPACE, kept.name, {"devices": [kept.device_name(disk) for disk in kept.disks]})
            forgotten = over[: max(0, len(over) + 1 - MOST_OVER)]
            for other in forgotten:
                del self._sets[other.name]
            self._sets[kept.name] = kept
        for other in forgotten:
            self._forget(other)

    def _forget(self, kept: KeptSet) -> None:
        """Of one that is over: nobody asks for its units any more."""
        try:
            for disk in kept.units:
                self._withdraw(kept.device_name(disk))
            self._state.put(NAMESPACE, kept.name, None)
        except OSError as error:  # the next start forgets it too
            log.warning("the end of a snapshot could not be stored", snapshot=kept.name, reason=str(error))

    # ---- finding -----------------------------------------------------------------------------------------------------

    def all(self) -> list[KeptSet]:
        """The oldest first; those that are over too, for a while."""
        with self._lock:
            return list(self._sets.values())

    def get(self, name: str) -> KeptSet:
        """Raises NoSuchSnapshot, which says it when a restart ended it."""
        with self._lock:
            kept = self._sets.get(name)
        if kept is None:
            lost = f"snapshot {name} is broken: {RESTARTED}" if name in self._lost else ""
            raise NoSuchSnapshot(lost or f"there is no snapshot {name}; see: tapebay snapshot list")
        return kept

    def of_disks(self, names: Iterable[str]) -> list[KeptSet]:
        """Those that are not over and have one of these disks."""
        wanted = set(names)
        return [kept for kept in self.all() if wanted & set(kept.disks) and not kept.state.over]

    def release(self, kept: KeptSet, reason: str = "") -> None:
        """It is no longer wanted; one that is over is not offered any longer either."""
        kept.release(reason)
        self._forget(kept)

    # ---- ending ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """What has expired or broken ends, and gives its space back."""
        for kept in self.all():
            kept.settle()
        self._looked()

    def _look(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.look()

    def _changed(self, kept: KeptSet) -> None:
        if kept.state.over:
            details: dict[str, object] = {"disks": list(kept.disks), "reason": kept.reason}
            log.info("a snapshot is over", snapshot=kept.name, state=kept.state.value, **details)
            try:
                self._record(f"snapshot {kept.state.value}", kept.name, details)
            except OSError as error:
                log.warning("the end of a snapshot could not be recorded", snapshot=kept.name, reason=str(error))
            if kept.state is SetState.RELEASED:
                self._forget(kept)

    def _of_a_dead_daemon(self) -> frozenset[str]:
        """The names of those that the last daemon had when it ended; nothing is left of them after this."""
        rows = self._state.items(NAMESPACE)
        names = frozenset(rows)
        for row in rows.values():
            match row:
                case {"devices": [*devices]}:
                    for device in devices:
                        self._withdraw(str(device))
        if names:
            log.warning("snapshots ended with the daemon that held them", snapshots=sorted(names))
            self._state.update(NAMESPACE, dict.fromkeys(names))
        for left in self._directory.glob(f"*{SUFFIX}"):
            if _STORE_NAME.fullmatch(left.name) and left.is_file() and not left.is_symlink():
                left.unlink()
        return names


__all__ = ["RENEW_SECONDS", "NoSuchSnapshot", "Snapshots"]
