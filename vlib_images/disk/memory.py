"""An image in memory: the twin of a raw image for tests, and the measure of what the contract says."""

import errno
import threading
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from vlib_images.disk.image import MAX_ATOMIC_BYTES, BeforeChange, Extent, Provisioning, fill_steps

if TYPE_CHECKING:
    from typing_extensions import Buffer

UNIT_BYTES = 4096


class MemoryImage:
    """Units of 4096 bytes; one that is not there is deallocated. Thread-safe."""

    def __init__(self, size_bytes: int, *, name: str = "memory", read_only: bool = False) -> None:
        if size_bytes <= 0:
            raise ValueError(f"a disk of {size_bytes} bytes")
        self.name = name
        self.read_only = read_only
        self.size_bytes = size_bytes
        self.allocation_unit = UNIT_BYTES
        self.can_deallocate = not read_only
        self.before_change: BeforeChange | None = None
        self._units: dict[int, bytearray] = {}
        self._anchored: set[int] = set()
        self._lock = threading.Lock()

    @property
    def max_atomic_bytes(self) -> int:
        return 0 if self.read_only else MAX_ATOMIC_BYTES

    def read_into(self, buffer: "Buffer", offset: int) -> None:
        view = memoryview(buffer).cast("B")
        if offset + len(view) > self.size_bytes:
            raise OSError(errno.EIO, "the image is shorter than the disk", self.name)
        with self._lock:
            for unit, start, stop, at in _pieces(offset, len(view)):
                held = self._units.get(unit)
                view[at : at + stop - start] = bytes(stop - start) if held is None else held[start:stop]

    def write(self, buffer: "Buffer", offset: int, *, durable: bool = False) -> None:
        view = memoryview(buffer).cast("B")
        self._check(offset, len(view))
        if self.before_change is not None:
            self.before_change(offset, len(view))
        with self._lock:
            for unit, start, stop, at in _pieces(offset, len(view)):
                self._anchored.discard(unit)
                self._units.setdefault(unit, bytearray(UNIT_BYTES))[start:stop] = view[at : at + stop - start]

    def fileno(self) -> None:
        """There is no file."""

    def write_atomic(self, buffer: "Buffer", offset: int) -> None:
        self.write(buffer, offset, durable=True)

    def synchronize(self) -> None:
        """Nothing outlives the process, so nothing is owed."""

    def prefetch(self, offset: int, length: int) -> None:
        """It is in memory."""

    def pass_over(self, offset: int, length: int) -> None:
        """Nobody waits for a reader here."""

    def deallocate(self, offset: int, length: int) -> None:
        self._release(offset, length, anchor=False)

    def anchor(self, offset: int, length: int) -> None:
        self._release(offset, length, anchor=True)

    def _release(self, offset: int, length: int, *, anchor: bool) -> None:
        self._check(offset, length)
        if length and self.before_change is not None:
            self.before_change(offset, length)
        with self._lock:
            for unit, start, stop, _ in _pieces(offset, length):
                if stop - start < UNIT_BYTES:
                    if unit in self._units:
                        self._units[unit][start:stop] = bytes(stop - start)
                    elif anchor:
                        self._anchored.add(unit)
                    continue
                self._units.pop(unit, None)
                (self._anchored.add if anchor else self._anchored.discard)(unit)

    def fill(self, pattern: bytes, offset: int, length: int) -> None:
        for at, count in fill_steps(offset, length, len(pattern)):
            self.write(pattern * (count // len(pattern)), at)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        end = min(offset + length, self.size_bytes)
        with self._lock:
            states = dict.fromkeys(self._anchored, Provisioning.ANCHORED)
            states |= dict.fromkeys(self._units, Provisioning.MAPPED)
        units = sorted(unit for unit in states if offset < (unit + 1) * UNIT_BYTES and unit * UNIT_BYTES < end)
        for start, stop, state in _runs(units, states):
            start, stop = max(offset, start), min(end, stop)
            if offset < start:
                yield Extent(offset, start - offset, Provisioning.DEALLOCATED)
            yield Extent(start, stop - start, state)
            offset = stop
        if offset < end:
            yield Extent(offset, end - offset, Provisioning.DEALLOCATED)

    def _check(self, offset: int, length: int) -> None:
        if self.read_only:
            raise OSError(errno.EBADF, "the image is open for reading", self.name)
        if offset + length > self.size_bytes:
            raise OSError(errno.EINVAL, "behind the end of the image", self.name)

    def grow(self, size_bytes: int) -> None:
        if size_bytes < self.size_bytes:
            raise ValueError(f"{self.name} cannot become {size_bytes} bytes: it has {self.size_bytes}")
        self.size_bytes = size_bytes

    def refresh_size(self) -> bool:
        return False

    def close(self) -> None:
        self._units.clear()


def _runs(units: list[int], states: dict[int, Provisioning]) -> Iterator[tuple[int, int, Provisioning]]:
    """(start, end, state) of neighbouring units of one state."""
    for _, group in groupby(enumerate(units), lambda row: (row[1] - row[0], states[row[1]])):
        run = [unit for _, unit in group]
        yield run[0] * UNIT_BYTES, (run[-1] + 1) * UNIT_BYTES, states[run[0]]


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """(unit, first byte in it, end in it, offset in the buffer) of a range."""
    at = 0
    while at < length:
        unit, start = divmod(offset + at, UNIT_BYTES)
        stop = min(UNIT_BYTES, start + length - at)
        yield unit, start, stop, at
        at += stop - start
