"""The contract of a disk's image: what a disk, a copy and a snapshot ask of the store behind it, whatever that is.

`raw.DiskImage` keeps it in a file or block device, `memory.MemoryImage` in memory, `snapshot.SnapshotImage` shows one
instant of another image. All offsets and lengths are bytes. Reads and writes may run in any number of threads at once;
whoever needs more than what pread(2) and pwrite(2) promise must exclude the others.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Bytes written in one call when a range is filled: enough to keep a disk busy, little enough to stop soon after.
FILL_CHUNK_BYTES = 1 << 20
# The most that write_atomic() takes: it is written twice.
MAX_ATOMIC_BYTES = 1 << 20

BeforeChange = Callable[[int, int], None]
"""before_change(offset, length): the bytes of that range are about to change. It may wait, and raises nothing."""


class Provisioning(Enum):
    """What is behind a range of an image (SBC-4 4.7.4 names these states)."""

    MAPPED = "mapped"  # holds data
    DEALLOCATED = "deallocated"  # holds no data, takes no space, reads as zeros
    ANCHORED = "anchored"  # holds no data, has its space, reads as zeros


class Extent(NamedTuple):
    """A range of an image and what is behind it."""

    offset: int
    length: int
    state: Provisioning


class Image(Protocol):
    """An open image.

    name: for messages. allocation_unit: bytes that are given back or reserved at a time. can_deallocate: whether
    deallocate() gives back space at all. max_atomic_bytes: the most that write_atomic() takes; 0: this store cannot.
    before_change: called before every change of the bytes, when it is not None. Whoever sets it keeps all writers away
    meanwhile.
    """

    name: str
    read_only: bool
    size_bytes: int
    allocation_unit: int
    can_deallocate: bool
    before_change: BeforeChange | None

    @property
    def max_atomic_bytes(self) -> int: ...

    # ---- data ------------------------------------------------------------------------------------------------------

    def read_into(self, buffer: "Buffer", offset: int) -> None:
        """Fills the whole buffer from `offset`. Raises OSError; EIO when the image ends before the buffer is full."""

    def write(self, buffer: "Buffer", offset: int, *, durable: bool = False) -> None:
        """Writes the whole buffer at `offset`; `durable`: it is on stable storage when this returns. Raises OSError."""

    def fileno(self) -> int | None:
        """The descriptor of a file whose byte N is byte N of the disk; None: there is none."""

    def write_atomic(self, buffer: "Buffer", offset: int) -> None:
        """Writes the whole buffer at `offset`, durable when it returns: a power cut before leaves all of it or nothing.
        Nothing else may touch the range meanwhile. At most max_atomic_bytes. Raises OSError."""

    def synchronize(self) -> None:
        """Everything written before is on stable storage when this returns. Raises OSError, and from then on always."""

    def prefetch(self, offset: int, length: int) -> None:
        """Starts reading a range into memory and does not wait. Raises OSError."""

    def pass_over(self, offset: int, length: int) -> None:
        """A reader does not read a range, because extents() said that it holds nothing."""

    # ---- ranges without payload ------------------------------------------------------------------------------------

    def deallocate(self, offset: int, length: int) -> None:
        """Makes a range read as zeros and gives back what space it can. Raises OSError."""

    def anchor(self, offset: int, length: int) -> None:
        """Makes a range read as zeros with its space reserved for it. Raises OSError (ENOSPC)."""

    def fill(self, pattern: bytes, offset: int, length: int) -> None:
        """Writes `pattern` over and over; `length` is a multiple of its length. Raises OSError."""

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What is behind a range, in order and without gaps. Raises OSError."""

    # ---- size and life ---------------------------------------------------------------------------------------------

    def grow(self, size_bytes: int) -> None:
        """Lengthens the image with zeros, durable when this returns. ValueError: it is not longer, or its size is not
        ours to change (see refresh_size). Raises OSError."""

    def refresh_size(self) -> bool:
        """Takes over the size that the store has now; True when it has changed."""

    def close(self) -> None:
        """Gives the image up. What was not synchronised is left to the store."""


def fill_steps(offset: int, length: int, unit: int) -> Iterator[tuple[int, int]]:
    """(offset, length) pieces of a range for writing it step by step: multiples of `unit`, about FILL_CHUNK_BYTES."""
    step = max(unit, FILL_CHUNK_BYTES // unit * unit)
    for at in range(offset, offset + length, step):
        yield at, min(step, offset + length - at)
