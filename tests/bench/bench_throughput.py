"""Tape throughput beside an independent target, in one run on one machine:  python -m tests.bench.bench_throughput

Every measurement of Tapebay is followed at once by the same one of Debian's tgt with its defaults, several rounds of
it, so that what else the machine does meets both; the best round of each counts. Needs the Debian packages tgt,
libiscsi-dev and a C compiler.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.appliance import Appliance
from tests.support.tgt import TgtTarget

BLOCK_BYTES = (10 << 10, 64 << 10, 256 << 10)
DEPTHS = (1, 8)
MODES = ("write", "read")
_LIMIT_COMMANDS = 20_000
_TAPE_MEGABYTES = 8192


@dataclass(frozen=True, slots=True)
class Place:
    """A tape drive with a cartridge in it: where it is and who serves it."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Row:
    """The best round of both for one kind of load; rates in bytes a second."""

    mode: str
    block_bytes: int
    depth: int
    tapebay: float
    tgt: float

    @property
    def ratio(self) -> float:
        return self.tapebay / self.tgt


def build_load_generator(folder: Path) -> Path:
    """Compile load.c; return the program."""
    program = folder / "load"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    source = Path(__file__).with_name("load.c")
    flags = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *flags, "-o", str(program), str(source), "-liscsi"], check=True)
    return program


def measure(program: Path, mode: str, place: Place, block_bytes: int, count: int, depth: int) -> dict[str, Any]:
    """One run of the load generator; raise RuntimeError when a command failed or a block was not the one written."""
    command = [str(program), mode, place.url, str(block_bytes), str(count), str(depth)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{place.name}: {' '.join(command[1:])}: {done.stdout.strip()} {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


@contextlib.contextmanager
def places(folder: Path) -> Iterator[tuple[Place, Place]]:
    """Tapebay and tgt, each with a cartridge in a drive."""
    with Appliance.with_loaded_drive(folder) as tapebay, TgtTarget(tape_megabytes=_TAPE_MEGABYTES) as tgt:
        yield (
            Place("tapebay", f"iscsi://{tapebay.portal}/{tapebay.target_name}/{tapebay.lun('drive0')}"),
            Place("tgt", f"iscsi://{tgt.portal}/{tgt.target_name}/{tgt.tape_lun}"),
        )


def compare(
    program: Path, pair: Sequence[Place], block_bytes: int, depth: int, total_bytes: int, rounds: int
) -> list[Row]:
    """Write, then read what was written; the best of several rounds."""
    count = max(depth, min(_LIMIT_COMMANDS, total_bytes // block_bytes))
    best: dict[tuple[str, str], float] = {}
    for _round in range(rounds):
        for mode in MODES:
            for place in pair:
                result = measure(program, mode, place, block_bytes, count, depth)
                rate = result["bytes"] / result["seconds"]
                best[mode, place.name] = max(rate, best.get((mode, place.name), 0.0))
    return [Row(mode, block_bytes, depth, best[mode, "tapebay"], best[mode, "tgt"]) for mode in MODES]


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'':5} {'block':>8} {'depth':>5}  {'tapebay':>22}  {'tgt':>22}  ratio"]
    for row in rows:
        sides = (f"{rate / 1e6:8.1f} MB/s {rate / row.block_bytes:7.0f}/s" for rate in (row.tapebay, row.tgt))
        lines.append(f"{row.mode:5} {row.block_bytes >> 10:4} KiB {row.depth:5}  {'  '.join(sides)}  {row.ratio:5.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (default 3)")
    parser.add_argument("--megabytes", type=int, default=256, help="MiB moved in a measurement, at most (default 256)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    chosen = parser.parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench.") as name:
        program = build_load_generator(Path(name))
        with places(Path(name)) as pair:
            for block_bytes in BLOCK_BYTES:
                for depth in DEPTHS:
                    rows += compare(program, pair, block_bytes, depth, chosen.megabytes << 20, chosen.rounds)
                    print(f"measured {block_bytes >> 10} KiB at depth {depth}", file=sys.stderr)
    print(table(rows))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows], indent=1) + "\n")
    slower = [row for row in rows if row.ratio < 1]
    print(f"{len(rows) - len(slower)} of {len(rows)} at least as fast as tgt")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
