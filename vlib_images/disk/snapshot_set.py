"""Snapshots of several images at one instant: what makes them, and what ends them together."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from vlib_images.disk.image import Image
from vlib_images.disk.snapshot import PATIENCE_SECONDS, Figures, Snapshot, SnapshotState
from vlib_images.disk.snapshot_saver import BUFFERS
from vlib_images.disk.snapshot_spill import Spill
from vlib_images.disk.snapshot_store import SnapshotStore
from vlib_images.disk.watchers import unwatch, watch, watchers_of

CLOSE_SECONDS: Final = 5.0


class SnapshotSet:
    """One instant of several images; one of them BROKEN, all of them are. Made by take()."""

    def __init__(self, spill: Spill, on_broken: Callable[[str], None]) -> None:
        self.snapshots: list[Snapshot] = []
        self._spill = spill
        self._on_broken = on_broken
        self._has_broken = False

    @classmethod
    def take(
        cls,
        images: Sequence[Image],
        store: SnapshotStore,
        *,
        hold: AbstractContextManager[object] | None = None,
        release_on_read: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
        on_broken: Callable[[str], None] = lambda _reason: None,
        buffers: int = BUFFERS,
    ) -> "SnapshotSet":
        """The instant is somewhere while `hold` is entered, which keeps every writer of every image away and has waited
        for those that were at work. The set closes the store in the end, also when this raises. on_broken is called
        once, from any thread, when the set has broken; it must not wait for anything. Raises ValueError for an image
        twice, and what `hold` raises."""
        if len({id(image) for image in images}) != len(images) or not images:
            raise ValueError("a snapshot is of one image or several, each of them once")
        made = cls(Spill(list(images), store, buffers), on_broken)
        try:
            made._prepare(images, release_on_read=release_on_read, patience_seconds=patience_seconds)
            with hold or nullcontext():
                for snapshot in made.snapshots:
                    snapshot.begin()
                    watch(snapshot.image, snapshot.preserve)
        except BaseException:
            made.release()
            made.join(CLOSE_SECONDS)
            raise
        return made

    def _prepare(self, images: Sequence[Image], *, release_on_read: bool, patience_seconds: float) -> None:
        """What can be done before the instant, while writers go on."""
        self.snapshots = [
            Snapshot(
                image,
                self._spill,
                release_on_read=release_on_read,
                patience_seconds=patience_seconds,
                on_broken=self._break_all,
            )
            for image in images
        ]

    @property
    def state(self) -> SnapshotState:
        """BROKEN where its store has failed, even before anybody meets it there."""
        if self.snapshots[0].state is SnapshotState.HELD and (failure := self._spill.failure) is not None:
            self.snapshots[0].break_off(failure)
        return self.snapshots[0].state

    @property
    def stored_bytes(self) -> int:
        """What the whole set has in its store."""
        return self._spill.stored_bytes

    @property
    def budget_bytes(self) -> int:
        """The most that it may have there."""
        return self._spill.budget_bytes

    def figures(self) -> list[Figures]:
        """Of each image, in the order of take()."""
        return [snapshot.figures() for snapshot in self.snapshots]

    def release(self) -> None:
        """It is no longer wanted: all of its space is given back. Again: nothing happens."""
        for snapshot in self.snapshots:
            snapshot.release()
        self._give_back()

    def join(self, timeout_seconds: float) -> bool:
        """After its end: whether its threads have ended and the store is closed by then."""
        return self._spill.join(timeout_seconds)

    def _break_all(self, reason: str) -> None:
        """One has broken. On whichever thread found it, a writer's perhaps: nothing here waits."""
        if self._has_broken:
            return
        self._has_broken = True
        for snapshot in self.snapshots:
            snapshot.break_off(f"another disk of its set is broken ({reason})")
        self._give_back()
        self._on_broken(reason)

    def _give_back(self) -> None:
        for snapshot in self.snapshots:
            unwatch(snapshot.image, snapshot.preserve)
        self._spill.close()


def break_snapshots_of(image: Image, reason: str) -> None:
    """The image is about to go: who reads it through a snapshot is told so, and has ended when this returns."""
    broken = [watcher.__self__ for watcher in watchers_of(image) if isinstance(watcher.__self__, Snapshot)]
    for snapshot in broken:
        snapshot.break_off(reason)
    for snapshot in broken:
        snapshot.wait_for_readers(CLOSE_SECONDS)
