"""What a tape of another program says of its blocks and a cartridge does not: interchange.json, beside the cartridge's
own files, so that an export gives the tape back as it was. FORMAT.md, "interchange.json".

It holds for the data that was imported. Once anything is written to the cartridge after that, it no longer counts.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final

from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.files import read_document, write_document
from vlib_images.errors import CartridgeDamaged

FILE: Final = "interchange.json"
RUNS_MAX: Final = 100_000
"""Runs that are kept of one kind; they take about 2 MiB of JSON."""
RECORDS_MAX: Final = 1 << 32
"""More than any tape file has."""


@dataclass(slots=True)
class Marks:
    """The marks of partition 0: no format that has marks has more partitions.

    bad: runs (first object, count) of blocks that were read with errors. lost: (object, count): before that object
    stood so many records of which no data could be read. end_of_medium: whether the tape ended with a mark that says
    so. overflow: there were more than are kept.
    """

    bad: list[tuple[int, int]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    end_of_medium: bool = True
    overflow: bool = False

    def add_bad(self, number: int) -> None:
        """The object of that number; in ascending order."""
        if self.bad and sum(self.bad[-1]) == number:
            self.bad[-1] = (self.bad[-1][0], self.bad[-1][1] + 1)
        elif not self._full(self.bad):
            self.bad.append((number, 1))

    def add_lost(self, number: int) -> None:
        """A record before the object of that number; in ascending order."""
        if self.lost and self.lost[-1][0] == number:
            self.lost[-1] = (number, self.lost[-1][1] + 1)
        elif not self._full(self.lost):
            self.lost.append((number, 1))

    def _full(self, runs: list[tuple[int, int]]) -> bool:
        self.overflow |= len(runs) >= RUNS_MAX
        return len(runs) >= RUNS_MAX

    def is_bad(self, number: int) -> bool:
        at = bisect_right(self.bad, number, key=lambda run: run[0]) - 1
        return at >= 0 and number < sum(self.bad[at])

    def lost_before(self, number: int) -> int:
        at = bisect_right(self.lost, number, key=lambda run: run[0]) - 1
        return self.lost[at][1] if at >= 0 and self.lost[at][0] == number else 0

    def write(self, cartridge: Cartridge) -> None:
        """Keep them with the cartridge, whose data is as they say now. Raises OSError."""
        content = {
            "changes": cartridge.usage.changes,
            "end_of_medium": self.end_of_medium,
            "bad": [list(run) for run in self.bad],
            "lost": [list(run) for run in self.lost],
        }
        write_document(cartridge.storage.files, FILE, content)

    @classmethod
    def read(cls, cartridge: Cartridge) -> "Marks":
        """None of them where there are none, or they are of data that is no longer there. Raises OSError."""
        try:
            content = read_document(cartridge.storage.files, FILE)
            if content["changes"] != cartridge.usage.changes:
                return cls()
            return cls(_runs(content["bad"]), _runs(content["lost"]), bool(content["end_of_medium"]))
        except (FileNotFoundError, CartridgeDamaged, KeyError, TypeError, ValueError):
            return cls()


def _runs(rows: list[list[int]]) -> list[tuple[int, int]]:
    """Raises ValueError for what add_bad() and add_lost() never make."""
    runs = [(int(first), int(count)) for first, count in rows]
    if runs != sorted(runs) or any(first < 0 or not 0 < count <= RECORDS_MAX for first, count in runs):
        raise ValueError("no runs of records")
    return runs
