"""Bulk work in transactions short enough that a move or a reservation never waits long behind one."""

import time
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

BATCH_SECONDS: Final = 0.05  # the longest that bulk work keeps another change waiting
FIRST_BATCH, LARGEST_BATCH = 32, 1000


def batches(items: Sequence[T], seconds: float = BATCH_SECONDS) -> Iterator[Sequence[T]]:
    """Slices of `items`, each of a size that, as fast as the last one went, takes half of `seconds`."""
    size, at = FIRST_BATCH, 0
    while at < len(items):
        began = time.monotonic()
        yield items[at : at + size]
        took = max(time.monotonic() - began, 1e-6)
        at += size
        size = max(1, min(size * 2, int(size * seconds / 2 / took), LARGEST_BATCH))
