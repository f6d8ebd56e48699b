"""Snapshots of several images at one instant: what makes them, and what ends them together."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from vlib_images.disk.image import Image
from vlib_images.disk.snapshot import PATIENCE_SECONDS, Figures, Snapshot, SnapshotState
from vlib_images.disk.snapshot_store import SnapshotStore

_changing: Final = threading.Lock()  # held while an image's hook is set, changed or taken away


class _Hook:
    """What an image calls before it changes: all of its snapshots, of whatever set."""

    def __init__(self, snapshots: tuple[Snapshot, ...]) -> None:
        self.snapshots = snapshots

    def __call__(self, offset: int, length: int) -> None:
        for snapshot in self.snapshots:
            snapshot.preserve(offset, length)


class SnapshotSet:
    """One instant of several images; one of them BROKEN, all of them are. Made by take()."""

    def __init__(self, store: SnapshotStore) -> None:
        self.snapshots: list[Snapshot] = []
        self._store = store

    @classmethod
    def take(
        cls,
        images: Sequence[Image],
        store: SnapshotStore,
        *,
        hold: AbstractContextManager[object] | None = None,
        release_on_read: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> "SnapshotSet":
        """The instant is somewhere while `hold` is entered, which keeps every writer of every image away and has waited
        for those that were at work. The set closes the store in the end. Raises ValueError for an image twice."""
        if len({id(image) for image in images}) != len(images) or not images:
            raise ValueError("a snapshot is of one image or several, each of them once")
        made = cls(store)
        with hold or nullcontext():
            for image in images:
                snapshot = Snapshot(
                    image,
                    store,
                    release_on_read=release_on_read,
                    patience_seconds=patience_seconds,
                    on_broken=made._break_all,
                )
                made.snapshots.append(snapshot)
                _attach(image, snapshot)
        return made

    @property
    def state(self) -> SnapshotState:
        return self.snapshots[0].state

    @property
    def stored_bytes(self) -> int:
        """What the whole set has in its store."""
        return self._store.stored_bytes

    def figures(self) -> list[Figures]:
        """Of each image, in the order of take()."""
        return [snapshot.figures() for snapshot in self.snapshots]

    def release(self) -> None:
        """It is no longer wanted: all of its space is given back. Again: nothing happens."""
        for snapshot in self.snapshots:
            snapshot.release()
        self._give_back()

    def _break_all(self, reason: str) -> None:
        for snapshot in self.snapshots:
            snapshot.break_off(f"another disk of its set is broken ({reason})")
        self._give_back()

    def _give_back(self) -> None:
        for snapshot in self.snapshots:
            _detach(snapshot.image, snapshot)
        self._store.close()


def _attach(image: Image, snapshot: Snapshot) -> None:
    with _changing:
        hook = image.before_change
        others = hook.snapshots if isinstance(hook, _Hook) else ()
        image.before_change = _Hook((*others, snapshot))


def _detach(image: Image, snapshot: Snapshot) -> None:
    with _changing:
        hook = image.before_change
        if isinstance(hook, _Hook):
            left = tuple(other for other in hook.snapshots if other is not snapshot)
            image.before_change = _Hook(left) if left else None
