"""One snapshot set of the library: its disks at one instant, what of it is still kept, and who is to be heard from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from appliance.library.changes import Changes
from appliance.library.snapshots.block_list import BadList, BlockList, checked
from appliance.library.snapshots.signals import Signals
from appliance.library.snapshots.states import Life, SetState, SetStep, SnapshotStateError, Terms
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.disk.instant import held_still
from scsi_targets.devices.unit.identity import Identity
from vlib_images.disk.changes import Frozen, Mark, NoIncrement
from vlib_images.disk.image import Image
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot import SnapshotState
from vlib_images.disk.snapshot_image import SnapshotImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import SnapshotStore
from vlib_images.disk.wanted import WantedSectors

STILL_SECONDS: Final = 2.0  # what an instant waits at most until its disks are still
# Vendor, product, revision of its units. The udev rule and the LVM filter in packaging/ know them by the product.
NAMES: Final = ("TAPEBAY", "DISK SNAPSHOT", "0100")

Release = Literal["commit", "read"]


@dataclass(frozen=True, slots=True)
class DiskFigures:
    """Of one disk of a set, in bytes: live is still read from the disk itself, saved from the store."""

    disk: str
    size_bytes: int
    live_bytes: int = 0
    saved_bytes: int = 0
    retired_bytes: int = 0


class KeptSet:
    """Made by Snapshots; thread-safe. Every step asks first whether a deadline has passed or the set has broken.

    name: 16 digits and letters. disks: their names. release: what gives a chunk back: a commit() of all that is wanted
    of it, or that it was read once. changes: where the changes of its disks are counted, if they are; frozen: what had
    changed by the instant, whose mark a later snapshot is asked for increments with. changing: nobody but who
    holds it makes a step. Where a step does not follow the state, SnapshotStateError is raised.
    """

    def __init__(
        self,
        name: str,
        disks: Mapping[str, BlockDevice],
        store: SnapshotStore,
        terms: Terms,
        *,
        release: Release = "commit",
        changes: Changes | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[KeptSet], None] = lambda _kept: None,
    ) -> None:
        self.name = name
        self.created_at = time.time()
        self.release_by = release
        self.images: dict[str, Image] = {}
        self.units: dict[str, BlockDevice] = {}
        self.checkpoint = 0
        self.budget_bytes = store.budget_bytes
        self.signals = Signals()
        self.frozen: dict[str, Frozen] = {}
        self._disks = dict(disks)
        self._changes = changes
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._life = Life(terms, clock())
        self.changing = threading.RLock()
        self._set: SnapshotSet | None = None
        self._list: BlockList | None = None
        self._narrowed = False
        self._broken: str | None = None
        self._last_figures = [DiskFigures(disk, unit.medium.size_bytes) for disk, unit in disks.items()]

    # ---- how it is ---------------------------------------------------------------------------------------------------

    @property
    def disks(self) -> tuple[str, ...]:
        """The names of its disks."""
        return tuple(self._disks)

    @property
    def sizes(self) -> dict[str, int]:
        """In bytes, by disk."""
        return {disk: image.size_bytes for disk, image in self.images.items()}

    @property
    def state(self) -> SetState:
        """As it is now: a deadline that has passed has ended it."""
        self.settle()
        return self._life.state

    @property
    def reason(self) -> str:
        """Why it ended, or why its last copy failed."""
        return self._life.reason

    @property
    def over_because(self) -> str:
        """Why nothing of it can be read any more; empty: it is as it should be."""
        state = self.state
        return f"the snapshot is {state.value}: {self.reason}" if state.over else ""

    @property
    def is_narrowed(self) -> bool:
        """Whether only what a list names is kept."""
        return self._narrowed

    @property
    def age_seconds(self) -> float:
        return time.time() - self.created_at

    @property
    def stored_bytes(self) -> int:
        """What it takes of its store now."""
        # The set is asked, not the store: what was given back on its way to the store is free when it has come there.
        return self._store.stored_bytes if self._set is None else self._set.stored_bytes

    def seconds_left(self) -> float | None:
        """Until it expires if nothing happens; None: it is over."""
        with self.changing:
            ends = [at for at, _ in self._life.deadlines()]
            return max(0.0, min(ends) - self._clock()) if ends else None

    def figures(self) -> list[DiskFigures]:
        """Of each disk, as it is now; of one that is over, as it was."""
        with self.changing:
            if self._set is not None and self._set.state is SnapshotState.HELD:
                self._last_figures = [
                    DiskFigures(disk, found.size_bytes, found.live_bytes, found.saved_bytes, found.retired_bytes)
                    for disk, found in zip(self._disks, self._set.figures(), strict=True)
                ]
            return self._last_figures

    # ---- the instant -------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """The instant, over all the disks at once. Raises SnapshotStateError, CheckCondition where a medium may not
        be touched now, TimeoutError where a disk does not come to rest; then the set is over."""
        with self.changing:
            self._expect(SetState.FREEZING, SetStep.TAKE)
            disks = list(self._disks.values())
            try:
                self._set = SnapshotSet.take(
                    [disk.medium for disk in disks],
                    self._store,
                    hold=self._instant(disks),
                    release_on_read=self.release_by == "read",
                    on_broken=self._has_broken,
                )
            except BaseException as error:
                self._end(SetStep.BREAK, f"the instant failed: {error}")
                raise
            self._show(self._set)
            self._step(SetStep.TAKE)

    @contextmanager
    def _instant(self, disks: list[BlockDevice]) -> Iterator[None]:
        """The disks held still; what has changed on them before the instant, and what will change after it, are told
        apart there."""
        with held_still(disks, STILL_SECONDS):
            yield
            for name, disk in self._disks.items():
                if self._changes is not None and isinstance(disk.medium, DiskImage):
                    image = disk.medium
                    self.frozen[name] = self._changes.of(name, image).mark(image.size_bytes)

    @property
    def marks(self) -> dict[str, Mark]:
        """The instant, by disk, of those whose changes are counted."""
        return {disk: frozen.mark for disk, frozen in self.frozen.items()}

    def changed_since(self, disk: str, mark: Mark) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of what changed on a disk between an earlier snapshot's mark (frozen[disk].mark)
        and this one's. Raises NoIncrement: only a full copy will do, and why."""
        if (frozen := self.frozen.get(disk)) is None:
            raise NoIncrement(f"only a full copy will do: this snapshot does not count the changes of {disk}")
        return frozen.since(mark)

    def _show(self, taken: SnapshotSet) -> None:
        for (disk, unit), snapshot in zip(self._disks.items(), taken.snapshots, strict=True):
            image = SnapshotImage(snapshot)
            self.images[disk] = image
            serial = f"{self.name[:12].upper()}{len(self.units):02X}"
            self.units[disk] = BlockDevice(
                Identity(*NAMES, serial),
                image,
                block_length=unit.block_length,
                physical_block_length=unit.physical_block_length,
                read_only=True,
            )

    def device_name(self, disk: str) -> str:
        """What a request calls the unit of one of its disks."""
        return f"{disk}@{self.name}"

    def signal(self, sender: str, number: int, effect: Callable[[], object]) -> None:
        """A numbered signal, which has its effect once, whatever is lost or doubled. Raises OutOfTurn, what `effect`
        raises; then it may come again."""
        with self.changing:
            if self.signals.is_new(sender, number):
                effect()
                self.signals.took_effect(sender, number)

    # ---- what its holder says ----------------------------------------------------------------------------------------

    def renew(self) -> float:
        """Its holder is alive; after how many seconds it expires without another word."""
        with self.changing:
            self.settle()
            self._life.renew(self._clock())
            return self.seconds_left() or 0.0

    def list_comes(self) -> None:
        """A part of a list of files has come, or is looked through: what is wanted is not known yet, but will be."""
        with self.changing:
            self.settle()
            self._life.list_comes(self._clock())

    def begin_list(self) -> None:
        """A list of what is wanted comes, from its beginning."""
        with self.changing:
            self._expect(SetState.HELD, SetStep.LIST)
            self._life.list_comes(self._clock())
            self._list = BlockList(self.name, self.sizes)

    def add_to_list(self, disk: str, extents: Iterable[tuple[int, int]]) -> None:
        """A part of it: (offset, length) in bytes. Raises BadList."""
        with self.changing:
            self._expect(SetState.HELD, SetStep.LIST)
            self._life.list_comes(self._clock())
            self._begun_list().add(disk, extents)

    def end_list(self, count: int, digest: str) -> None:
        """Its end: how many extents there were, and digest_of() them. Only they are kept from now on. Raises BadList;
        then the list may be begun again until its deadline."""
        with self.changing:
            self._expect(SetState.HELD, SetStep.LIST)
            try:
                wanted = self._begun_list().end(count, digest)
            finally:
                self._list = None
            self._narrow(wanted)

    def narrow(self, extents: Mapping[str, Iterable[tuple[int, int]]]) -> None:
        """The same for a list that is at hand: (offset, length) in bytes, by disk. Raises BadList."""
        with self.changing:
            self._expect(SetState.HELD, SetStep.LIST)
            wanted = {disk: WantedSectors(size) for disk, size in self.sizes.items()}
            for disk, rows in extents.items():
                for offset, length in checked(self.sizes, disk, rows):
                    wanted[disk].add(offset, length)
            self._narrow(wanted)

    def start(self) -> None:
        """A copy has begun, perhaps again."""
        with self.changing:
            if self.state is SetState.COPYING:
                self._life.renew(self._clock())
            else:
                self._step(SetStep.START)

    def commit(self, disk: str, extents: Iterable[tuple[int, int]]) -> None:
        """These (offset, length) in bytes are safe on tape: what is wanted of them is given back. Raises BadList."""
        with self.changing:
            self._expect(SetState.COPYING, SetStep.CHECKPOINT)
            rows = checked(self.sizes, disk, extents)
            self._step(SetStep.CHECKPOINT)
            snapshot = self._taken().snapshots[self.disks.index(disk)]
        for offset, length in rows:  # without the lock: it may take a while
            snapshot.retire(offset, length)

    def fail(self, reason: str) -> None:
        """The copy failed; it may be begun again at its checkpoint until the lease ends."""
        with self.changing:
            self._step(SetStep.FAIL, reason)

    def finish(self) -> None:
        """All of it is safe: the space goes back, and the set stays only to be released."""
        with self.changing:
            self._step(SetStep.FINISH)
            self.figures()
            self._taken().release()

    def release(self, reason: str = "") -> None:
        """It is no longer wanted. Again, or after another end: nothing happens."""
        with self.changing:
            if not self.state.over:
                self._end(SetStep.RELEASE, reason)

    def break_off(self, reason: str) -> None:
        """It cannot be kept."""
        with self.changing:
            if not self.state.over:
                self._end(SetStep.BREAK, reason)

    def join(self, timeout_seconds: float) -> None:
        """After its end: until its store is closed, if that is soon."""
        if self._set is not None:
            self._set.join(timeout_seconds)

    # ---- its end -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """What has happened of itself takes its effect: it broke, or a deadline has passed."""
        with self.changing:
            if self._life.state.over:
                return
            broke = self._set is not None and self._set.state is SnapshotState.BROKEN
            if broke and self._life.state is not SetState.COMMITTED:
                self._end(SetStep.BREAK, self._broken or self._taken().snapshots[0].reason)
            elif self._life.expire(self._clock()):
                self._over()

    def _has_broken(self, reason: str) -> None:
        """On whatever thread, perhaps a write's: nothing here waits."""
        self._broken = reason

    def _end(self, step: SetStep, reason: str) -> None:
        self.figures()
        self._life.step(step, self._clock(), reason)
        self._over()

    def _over(self) -> None:
        self._list = None
        self.frozen = {}
        if self._set is not None:
            self._set.release()
        else:
            self._store.give_back_all()
            self._store.close()
        self._on_change(self)

    # ---- steps -------------------------------------------------------------------------------------------------------

    def _expect(self, state: SetState, step: SetStep) -> None:
        if self.state is not state:
            why = f" ({self.reason})" if self.reason else ""
            raise SnapshotStateError(f"the snapshot is {self.state.value}{why}: it cannot be {step.value}")

    def _step(self, step: SetStep, reason: str = "") -> None:
        self.settle()
        before = self._life.state
        self._life.step(step, self._clock(), reason)
        if self._life.state is not before:
            self._on_change(self)

    def _narrow(self, wanted: Mapping[str, WantedSectors]) -> None:
        for snapshot, disk in zip(self._taken().snapshots, self._disks, strict=True):
            snapshot.narrow(wanted[disk])
        self._step(SetStep.LIST)
        self._narrowed = True

    def _begun_list(self) -> BlockList:
        if self._list is None:
            raise BadList("no list was begun; begin it again")
        return self._list

    def _taken(self) -> SnapshotSet:
        assert self._set is not None
        return self._set
