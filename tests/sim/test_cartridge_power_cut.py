"""Log and replay: every prefix of a cartridge's writes is a possible kill -9, and with what no sync had covered dropped
and reordered, a possible power cut. After each the cartridge opens in a state that it once had, not before the promise.

TAPEBAY_CRASH_SEEDS=n in the environment runs n seeds (the long run); the default is a sample for every day.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from datamover.engine import storage_trace
from tests.sim.cartridge_workload import Event, Oracle, Plan, draw_operation, perform, read_all
from tests.sim.storage_replay import Disk, Step, killed, power_cut, read_trace
from vlib_images.cartridge import partition
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA

SEEDS = int(os.environ.get("TAPEBAY_CRASH_SEEDS", "12"))
CRASHES_PER_SEED = 40
OPERATIONS = 40


class Recording:
    """A run of the workload with its trace, and a journal of (bytes of trace so far, event)."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.root = directory / "library"
        self.trace = directory / "trace"
        self.journal: list[tuple[int, Event]] = []
        medium = MEDIA["LTO-8 WORM" if plan.worm else "LTO-8"]
        Cartridge.create(
            self.root, barcode="T00001L8", medium=medium, capacity_bytes=1 << 24, partitions=plan.partitions
        ).close()
        self.before = Disk.snapshot(self.root)
        storage_trace(str(self.trace))
        try:
            self._run(random.Random(plan.seed + 1))
        finally:
            storage_trace(None)
        self.steps = read_trace(self.trace, self.root)

    def _run(self, rng: random.Random) -> None:
        with Cartridge.open(self.root, limits=self.plan.limits) as cartridge:
            for serial in range(0, OPERATIONS * 100, 100):
                perform(cartridge, draw_operation(rng, serial, cartridge.partition_count), self._tell)

    def _tell(self, event: Event) -> None:
        self.journal.append((self.trace.stat().st_size, event))

    def oracle_at(self, steps: list[Step]) -> Oracle:
        """What is allowed when the crash comes after these steps: what had begun by then may have happened."""
        oracle = Oracle(self.plan.partitions)
        reached = steps[-1].end if steps else 0
        for size, event in self.journal:
            if size > reached:
                break
            oracle.follow(event)
        return oracle


def check_recovery(disk: Disk, oracle: Oracle, plan: Plan, directory: Path, rng: random.Random) -> None:
    """The cartridge opens in an allowed state, and works from there on."""
    shutil.rmtree(directory, ignore_errors=True)
    disk.write_to(directory)
    with Cartridge.open(directory, read_only=True, limits=plan.limits) as cartridge:
        as_read = read_all(cartridge)
    oracle.check(as_read)
    with Cartridge.open(directory, limits=plan.limits) as cartridge:
        assert read_all(cartridge) == as_read
        assert all(report.damaged_blocks == 0 for report in cartridge.storage.recovery)
        oracle.promise()
        for serial in range(10**6, 10**6 + 500, 100):
            perform(cartridge, draw_operation(rng, serial, cartridge.partition_count), oracle.follow)
        for number, state in enumerate(read_all(cartridge)):
            oracle.check_latest(number, state)
    with Cartridge.open(directory, limits=plan.limits) as cartridge:
        assert all(report.clean for report in cartridge.storage.recovery)
        for number, state in enumerate(read_all(cartridge)):
            oracle.check_latest(number, state)


def crash_again(disk: Disk, plan: Plan, directory: Path, rng: random.Random) -> Disk:
    """A second crash, while the cartridge recovers from the first and writes a little."""
    shutil.rmtree(directory, ignore_errors=True)
    disk.write_to(directory)
    before = Disk.snapshot(directory)
    trace = directory.with_suffix(".trace")
    storage_trace(str(trace))
    try:
        Cartridge.open(directory, limits=plan.limits).close()
    finally:
        storage_trace(None)
    steps = read_trace(trace, directory)
    return power_cut(before, steps[: rng.randint(0, len(steps))], rng)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_crash_leaves_a_state_at_or_after_the_promise(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.draw(seed)
    monkeypatch.setattr(partition, "UNSYNCED_SEGMENTS", (2, 3, 5, partition.UNSYNCED_SEGMENTS)[seed % 4])
    recording = Recording(plan, tmp_path)
    rng = random.Random(seed + 2)
    for crash in range(CRASHES_PER_SEED):
        steps = recording.steps[: rng.randint(0, len(recording.steps))]
        oracle = recording.oracle_at(steps)
        if crash % 2:
            disk = killed(recording.before, steps, rng.choice([0, 1, 31, 32, 4096, 1 << 30]))
        else:
            disk = power_cut(recording.before, steps, rng)
        if crash % 8 == 0:
            disk = crash_again(disk, plan, tmp_path / "again", rng)
        try:
            check_recovery(disk, oracle, plan, tmp_path / "crashed", rng)
        except Exception as error:
            error.add_note(f"seed {seed}, crash {crash} after step {len(steps)} of {len(recording.steps)}, {plan}")
            raise
