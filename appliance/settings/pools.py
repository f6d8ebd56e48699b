"""Pools: which cartridges of a library belong together, a cartridge to one pool at most.

A pool names cartridges, and gives patterns of barcodes; a name counts before any pattern, so that a single cartridge
can be given to another pool. Patterns of two pools that a barcode could fit at once are refused, whether there is such
a cartridge or not: which pool it is in never depends on the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Final, NamedTuple, Protocol

from appliance.settings.patterns import overlap
from vlib_images.library.partition import admits

MOST_REMEMBERED: Final = 100_000


class Pool(Protocol):
    """What decides who is in a pool: patterns of barcodes between commas ("" for none), and barcodes."""

    @property
    def name(self) -> str: ...
    @property
    def barcodes(self) -> str: ...
    @property
    def cartridges(self) -> Sequence[str]: ...


class _Pool(NamedTuple):
    name: str
    barcodes: str
    cartridges: tuple[str, ...]


class Membership:
    """Which pool a cartridge is in; quick to ask. What two pools name, or both have a pattern for, is in the first."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        pools = list(pools)
        self._named = {barcode: pool.name for pool in reversed(pools) for barcode in pool.cartridges}
        self._patterns = [(pool.name, pool.barcodes) for pool in pools if pool.barcodes]
        self._remembered = lru_cache(maxsize=MOST_REMEMBERED)(self._look)

    def of(self, barcode: str) -> str | None:
        """The pool's name; None: it is in none."""
        return self._remembered(barcode)

    def _look(self, barcode: str) -> str | None:
        if (named := self._named.get(barcode)) is not None:
            return named
        return next((name for name, patterns in self._patterns if admits(patterns, barcode)), None)


def problems_with_pools(pools: Iterable[Pool]) -> Sequence[str]:
    """A line for each cartridge or pattern that two pools have."""
    return _problems(tuple(_Pool(pool.name, pool.barcodes, tuple(pool.cartridges)) for pool in pools))


@lru_cache(maxsize=16)  # asked at every change of anything
def _problems(pools: tuple[_Pool, ...]) -> Sequence[str]:
    return [*_members(pools), *_patterns(pools)]


def _members(pools: Sequence[_Pool]) -> Iterator[str]:
    owner: dict[str, str] = {}
    for pool in pools:
        if len(set(pool.cartridges)) != len(pool.cartridges):
            yield f"pool {pool.name}: a cartridge is given twice"
        for barcode in pool.cartridges:
            if (other := owner.setdefault(barcode, pool.name)) != pool.name:
                yield f"cartridge {barcode} is in pool {other} and in pool {pool.name}; it can be in one"


def _patterns(pools: Sequence[_Pool]) -> Iterator[str]:
    for one, another in combinations(pools, 2):
        for first in filter(None, one.barcodes.split(",")):
            for second in filter(None, another.barcodes.split(",")):
                if overlap(first, second):
                    message = f"a barcode could fit {first} of pool {one.name} and {second} of pool {another.name}"
                    yield f"{message}; a cartridge can be in one pool"
