"""What a process asked of the storage of a file or a folder, and what may be there when the power fails in the middle.

For one file, `power_cut()` models storage that writes sectors. For a folder, `steps()` gives what storage_replay.py
replays: files made, renamed and deleted too.
"""

import random
import struct
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from tests.sim.storage_replay import Step

SOURCE = Path(__file__).with_name("storage_log.c")
SECTOR = 512
HEAD = struct.Struct("=IIQQQ")


class Operation(IntEnum):
    """As in storage_log.c."""

    WRITE = 0
    WRITE_DURABLY = 1
    DEALLOCATE = 2
    SYNCHRONIZE = 3
    ENDED = 4
    CREATE = 5
    TRUNCATE = 6
    RENAME = 7
    UNLINK = 8
    SYNCHRONIZE_DIRECTORY = 9


WRITES = (Operation.WRITE, Operation.WRITE_DURABLY)
STEPS = {
    Operation.CREATE: "open",
    Operation.WRITE: "write",
    Operation.TRUNCATE: "truncate",
    Operation.SYNCHRONIZE: "sync",
    Operation.RENAME: "rename",
    Operation.UNLINK: "unlink",
    Operation.SYNCHRONIZE_DIRECTORY: "sync_directory",
}


@dataclass(slots=True)
class Entry:
    """One call. began, ended: where the log ended when it began and when it was over; ended None: it never was."""

    operation: Operation
    path: str
    offset: int
    length: int
    data: memoryview | None
    began: int
    ended: int | None = None

    def step(self, root: Path) -> Step:
        """For storage_replay.py, which knows one operation after the other: it is there from its end on."""
        data = bytes(self.data or b"")
        if self.operation is Operation.RENAME:
            data = str(Path(data.decode()).relative_to(root)).encode()
        assert self.ended is not None
        return Step(STEPS[self.operation], str(Path(self.path).relative_to(root)), self.offset, data, self.ended)

    def ended_by(self, moment: int) -> bool:
        return self.ended is not None and self.ended <= moment


def build(folder: Path) -> Path:
    """Compiles storage_log.c; returns what to preload."""
    library = folder / "storage_log.so"
    compiler = (sysconfig.get_config_var("CC") or "gcc").split()[0]
    flags = ("-shared", "-fPIC", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *flags, "-o", library, SOURCE, "-ldl"], check=True)
    return library


class StorageLog:
    """The log of the storage of a file or a folder. A moment is a length of the log: what had been said until then."""

    def __init__(self, path: Path, logged: Path) -> None:
        self.path = path
        self.logged = logged.resolve()

    def environment(self, library: Path) -> dict[str, str]:
        """What the process under test has to have in its environment."""
        return {
            "LD_PRELOAD": str(library),
            "TAPEBAY_LOGGED": str(self.logged),
            "TAPEBAY_STORAGE_LOG": str(self.path),
        }

    def now(self) -> int:
        """This moment."""
        return self.path.stat().st_size

    @cached_property
    def entries(self) -> list[Entry]:
        """All calls by when they began; read once, when the process has ended."""
        content = memoryview(self.path.read_bytes())
        entries: list[Entry] = []
        open_ones: dict[int, Entry] = {}
        at = 0
        while at < len(content):
            kind, number, offset, length, path_length = HEAD.unpack_from(content, at)
            at += HEAD.size + path_length
            path = bytes(content[at - path_length : at]).decode()
            if kind == Operation.ENDED:
                finished = open_ones.pop(number)
                finished.ended = at
                if finished.operation in WRITES:
                    assert length == finished.length, "a write was cut short"
                continue
            data = None
            if kind in (*WRITES, Operation.RENAME):
                data = content[at : at + length]
                at += length
            entry = Entry(Operation(kind), path, offset, length, data, at)
            entries.append(entry)
            open_ones[number] = entry
        return entries

    def steps(self, *, without: str) -> list[Step]:
        """What was done to the files of the folder, in order, as one thread did it; without those whose name ends so.
        An operation that the process did not live to see the end of is the last, and is left out."""
        entries = [entry for entry in self.entries if not entry.path.endswith(without) and entry.ended is not None]
        for before, after in pairwise(entries):
            assert before.ended is not None
            assert before.ended < after.began, "more than one thread"
        return [entry.step(self.logged) for entry in entries]

    def power_cut(self, size: int, moment: int, rng: random.Random, *, honest: bool = True) -> bytearray:
        """The file, zeros before the log began, when the power failed at that moment: what had been synchronised, and
        of the rest any of its sectors. `honest` False: as if the process had never waited for its storage."""
        content = bytearray(size)
        kept = rng.choice((0.0, 0.5, 0.9, 1.0)) if honest else 0.5
        promised = self._promised(moment) if honest else 0
        for entry in self.entries:
            if entry.began > moment or entry.operation not in (*WRITES, Operation.DEALLOCATE):
                continue
            durable = entry.ended_by(promised) or (
                honest and entry.operation is Operation.WRITE_DURABLY and entry.ended_by(moment)
            )
            data = entry.data if entry.data is not None else bytes(entry.length)
            for start, end in [(0, entry.length)] if durable else _some_sectors(entry.length, kept, rng):
                content[entry.offset + start : entry.offset + end] = data[start:end]
        return content

    def _promised(self, moment: int) -> int:
        """What had ended before this is durable: the last synchronisation that was over had begun here."""
        over = (e.began for e in self.entries if e.operation is Operation.SYNCHRONIZE and e.ended_by(moment))
        return max(over, default=0)


def _some_sectors(length: int, kept: float, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Pieces of a range that got to the medium: each sector does or does not, mostly along with its neighbours."""
    at = 0
    while at < length:
        run = SECTOR * (rng.randint(1, 8) if rng.random() < 0.5 else rng.randint(8, 2048))
        end = min(length, at + run)
        if rng.random() < kept:
            yield at, end
        at = end
