"""What was found out about cartridges that are in no drive, for as long as their files stay as they were.

To describe a cartridge is to open it: half a millisecond, in which nobody else of this process computes. Programs that
watch a library ask for the same ones again and again, so what was told is kept beside a stamp of the files that it came
from: their sizes, times and numbers. Of the segments of a partition the last two files count; those before are sealed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

MOST_KEPT: Final = 10_000
SETTLED_NANOSECONDS: Final = 2_000_000_000  # a change within a clock's tick after another one leaves no trace

Stamp = bytes


class CartridgeFacts:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Stamp, Mapping[str, Any]]] = {}

    def get(self, barcode: str, stamp: Stamp | None) -> dict[str, Any] | None:
        """What was told of a cartridge whose files had that stamp; None: nothing, or they have changed."""
        kept = self._kept.get(barcode)
        return dict(kept[1]) if kept is not None and kept[0] == stamp else None

    def keep(self, barcode: str, stamp: Stamp | None, told: Mapping[str, Any]) -> None:
        """stamp: from before it was found out; None: it may change unnoticed, and is not kept. Nor is a problem, which
        may pass by itself (another process has the cartridge open)."""
        self._kept.pop(barcode, None)
        if stamp is None or told["problem"] is not None:
            return
        if len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[barcode] = stamp, dict(told)


def stamp_of(folder: Path) -> Stamp | None:
    """Of a cartridge's directory; None: one of its files has changed just now, or cannot be looked at."""
    digest, settled = blake2b(digest_size=16), time.time_ns() - SETTLED_NANOSECONDS
    try:
        for path in _files(os.fspath(folder)):
            told = os.lstat(path)
            if max(told.st_mtime_ns, told.st_ctime_ns) > settled:
                return None
            stamp = path, told.st_ino, told.st_dev, told.st_mode, told.st_size, told.st_mtime_ns, told.st_ctime_ns
            digest.update(repr(stamp).encode())
    except OSError:
        return None
    return digest.digest()


def _files(folder: str) -> Iterator[str]:
    yield folder
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            names = sorted(name.name for name in os.scandir(entry.path))
            sealed = set([name for name in names if name[:1].isdigit()][:-2])
            yield from (f"{entry.path}/{name}" for name in names if name not in sealed)
