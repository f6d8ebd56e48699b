"""A snapshot as an image that can be read: what a read-only disk, a copy or a mount sees of the instant."""

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from vlib_images.disk.image import BeforeChange, Extent
from vlib_images.disk.snapshot import Snapshot

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SnapshotImage:
    """Keeps the contract of an image that is open for reading. Closing it does not end the snapshot."""

    read_only = True
    can_deallocate = False
    max_atomic_bytes = 0

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.name = f"snapshot of {snapshot.image.name}"
        self.size_bytes = snapshot.size_bytes
        self.allocation_unit = snapshot.image.allocation_unit
        self.before_change: BeforeChange | None = None

    def read_into(self, buffer: "Buffer", offset: int) -> None:
        view = memoryview(buffer).cast("B")
        if offset + len(view) > self.size_bytes:
            raise OSError(errno.EIO, "the image is shorter than the disk", self.name)
        self.snapshot.read_into(view, offset)

    def fileno(self) -> None:
        """No file holds an instant: what changes meanwhile lies elsewhere."""

    def prefetch(self, offset: int, length: int) -> None:
        """What is still live is read ahead."""
        self.snapshot.image.prefetch(offset, length)

    def pass_over(self, offset: int, length: int) -> None:
        """With release_on_read: a range that extents() said holds nothing counts as read."""
        self.snapshot.pass_over(offset, length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self.snapshot.extents(offset, length)

    def synchronize(self) -> None:
        """Nothing is written here."""

    def refresh_size(self) -> bool:
        """An instant does not grow."""
        return False

    def close(self) -> None:
        """The snapshot has its own end."""

    def write(self, buffer: "Buffer", offset: int, *, durable: bool = False) -> NoReturn:
        raise self._refusal()

    def write_atomic(self, buffer: "Buffer", offset: int) -> NoReturn:
        raise self._refusal()

    def deallocate(self, offset: int, length: int) -> NoReturn:
        raise self._refusal()

    def anchor(self, offset: int, length: int) -> NoReturn:
        raise self._refusal()

    def fill(self, pattern: bytes, offset: int, length: int) -> NoReturn:
        raise self._refusal()

    def grow(self, size_bytes: int) -> NoReturn:
        raise ValueError(f"{self.name} cannot become {size_bytes} bytes: it is of one instant")

    def _refusal(self) -> OSError:
        return OSError(errno.EROFS, "a snapshot is only read", self.name)
