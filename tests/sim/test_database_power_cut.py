"""Log and replay of the state directory: after a kill or a power cut at any moment the library holds what it held
after some whole number of changes, at or after the last that had been answered.

What a process asks of storage is logged by a library that is loaded into it (every file of the directory: made,
written, cut, renamed, deleted, and every synchronisation). Each prefix of that is a possible kill -9; with what no
sync had covered dropped and torn, a possible power cut. The -shm file is never there: it is memory, and lost with the
power.

TAPEBAY_CRASH_SEEDS=n in the environment runs n seeds (the long run); the default is a sample for every day.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sim.database_writer import LAYOUT, content
from tests.sim.storage_replay import Disk, Step, killed, power_cut
from tests.support import storage_log
from tests.support.storage_log import StorageLog
from tests.unit.library.test_takeover import OLD, old_file
from vlib_images.library.database.errors import DatabaseMissing
from vlib_images.library.database.takeover import open_database
from vlib_images.library.inventory import Inventory
from vlib_images.library.state import LibraryState

SEEDS = int(os.environ.get("TAPEBAY_CRASH_SEEDS", "6"))
CHANGES = 60
CRASHES_PER_SEED = 60
TEARS = (0, 1, 24, 32, 512, 4096, 1 << 30)

Content = dict[str, Any]


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return storage_log.build(tmp_path_factory.mktemp("log"))


class Recording:
    """A run with its steps, and what the library held after each change, with when that was promised."""

    def __init__(self, directory: Path, preloaded: Path, seed: int, changes: int, old: dict[str, bytes]) -> None:
        self.root = directory / "state"
        self.root.mkdir()
        for name, data in old.items():
            (self.root / name).write_bytes(data)
        self.before = Disk.snapshot(self.root)
        log = StorageLog(directory / "storage.log", self.root)
        command = [sys.executable, "-m", "tests.sim.database_writer", str(self.root), str(seed), str(changes)]
        environment = {**os.environ, **log.environment(preloaded)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = [line for line in done.stdout.splitlines() if line.startswith("[")]  # the rest is its log
        self.promises: list[tuple[int, Content]] = [tuple(json.loads(line)) for line in told]
        self.steps = log.steps(without="-shm")

    def allowed(self, steps: list[Step]) -> list[Content | None]:
        """What may be found after these steps: what was promised last, and what the next change leads to; None: nothing
        at all, while the library was being made."""
        reached = steps[-1].end if steps else 0
        kept = sum(moment <= reached for moment, _ in self.promises)
        before = [self.promises[kept - 1][1]] if kept else [None]
        return [*before, *(held for _, held in self.promises[kept : kept + 1])]


def found(directory: Path) -> Content | None:
    """What a start of the library finds there."""
    try:
        database = open_database(directory)
    except DatabaseMissing:
        return None
    try:
        return content(Inventory(database, LAYOUT), LibraryState(database), database)
    finally:
        database.close()


def check(recording: Recording, directory: Path, disk: Disk, steps: list[Step]) -> None:
    """It opens with what it may hold, says so twice, and can be changed."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    disk.write_to(directory)
    holds = found(directory)
    assert holds in recording.allowed(steps)
    assert found(directory) == holds
    if holds is not None:
        database = open_database(directory)
        Inventory(database, LAYOUT).add("Z00001L6")
        database.close()
        assert "Z00001L6" in (found(directory) or {})["shelf"]


def crash_everywhere(recording: Recording, directory: Path, rng: random.Random, moments: list[int]) -> None:
    for crash, moment in enumerate(moments):
        steps = recording.steps[:moment]
        crashes: list[Callable[[], Disk]] = [
            lambda steps=steps: killed(recording.before, steps, rng.choice(TEARS)),  # type: ignore[misc]
            lambda steps=steps: power_cut(recording.before, steps, rng),  # type: ignore[misc]
        ]
        try:
            check(recording, directory, crashes[crash % 2](), steps)
        except Exception as error:
            last = f"{steps[-1].operation} {steps[-1].path}" if steps else "nothing"
            error.add_note(f"crash {crash} after step {moment} of {len(recording.steps)}: {last}")
            raise


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_crash_leaves_whole_changes_at_or_after_the_promise(seed: int, tmp_path: Path, preloaded: Path) -> None:
    recording = Recording(tmp_path, preloaded, seed, CHANGES, {})
    assert {step.operation for step in recording.steps} >= {
        "open", "write", "sync", "rename", "unlink", "sync_directory",
    }  # fmt: skip
    rng = random.Random(seed + 1)
    moments = [rng.randint(0, len(recording.steps)) for _ in range(CRASHES_PER_SEED)]
    crash_everywhere(recording, tmp_path / "crashed", rng, moments)


@pytest.mark.timeout(300)
def test_every_crash_of_a_takeover_loses_nothing(tmp_path: Path, preloaded: Path) -> None:
    recording = Recording(tmp_path, preloaded, 0, 0, {name: old_file(data) for name, data in OLD.items()})
    (promised,) = recording.promises
    recording.promises = [(0, promised[1])]  # from the beginning on: it is in the old files
    every = list(range(len(recording.steps) + 1))
    crash_everywhere(recording, tmp_path / "crashed", random.Random(1), [step for step in every for _ in range(2)])


FAILING = """
import os, sys
from pathlib import Path
from vlib_images.library.database.database import Database
from vlib_images.library.state import LibraryState

directory, fault, ends = Path(sys.argv[1]), Path(os.environ["TAPEBAY_SYNC_FAILS"]), sys.argv[2]
database = Database.create(directory / "tapebay.db")
store = LibraryState(database)
store.put("devices", "a", 1)
fault.touch()
for _ in range(2):
    try:
        store.put("devices", "b", 2)
    except OSError:
        continue
    raise SystemExit("a change was promised that the medium had not taken")
if ends == "killed":
    os._exit(0)
fault.unlink()
store.put("devices", "c", 3)
os._exit(0)
"""


@pytest.mark.parametrize("ends", ["killed", "goes on"])
def test_a_change_that_the_medium_did_not_take_has_not_happened(tmp_path: Path, preloaded: Path, ends: str) -> None:
    """Its frames are whole in the log, so only opening the database anew in the right way keeps it from coming back."""
    state = tmp_path / "state"
    state.mkdir()
    environment = {
        **os.environ,
        **StorageLog(tmp_path / "log", state).environment(preloaded),
        "TAPEBAY_SYNC_FAILS": str(tmp_path / "fails"),
    }
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(state), ends], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    held = LibraryState(open_database(state)).items("devices")
    if ends == "killed":  # nobody has been told anything of "b" but that it failed: it may be there, whole
        assert held in ({"a": 1}, {"a": 1, "b": 2})
    else:
        assert held == {"a": 1, "c": 3}


def test_the_harness_finds_a_promise_that_was_not_kept(tmp_path: Path, preloaded: Path) -> None:
    recording = Recording(tmp_path, preloaded, 3, CHANGES, {})
    recording.steps = [step for step in recording.steps if step.operation != "sync"]
    rng = random.Random(3)
    with pytest.raises(Exception):  # noqa: B017 - a change that is missing, or a database that is damaged
        crash_everywhere(recording, tmp_path / "crashed", rng, [len(recording.steps) - n for n in range(40)])
