"""A writer process is killed with SIGKILL at random moments; what it had promised is there, bit for bit.

TAPEBAY_KILLS=n in the environment makes n kills (1,000 and more in the long run); the default is a sample.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sim.cartridge_workload import Oracle, Plan, read_all
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA

KILLS = int(os.environ.get("TAPEBAY_KILLS", "12"))
OBJECTS_MAX = 3000


def kill_a_writer(directory: Path, seed: int, rng: random.Random) -> None:
    """Runs the writer for some operations and a random moment more."""
    command = [sys.executable, "-m", "tests.sim.cartridge_writer", str(directory), str(seed)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        ready = writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.15))  # the moment of the kill: what is random here, not a synchronisation
    finally:
        writer.kill()
        _, errors = writer.communicate()
    assert ready == b"ready\n", errors.decode()
    assert writer.returncode == -9, errors.decode()


def follow_journal(oracle: Oracle, journal: Path) -> None:
    """A last line that the kill cut short is of an operation that had not begun."""
    for line in journal.read_bytes().split(b"\n")[:-1]:
        oracle.follow(json.loads(line))
    journal.unlink()


@pytest.mark.timeout(KILLS * 5 + 300)
def test_what_was_promised_survives_kill_9(tmp_path: Path) -> None:
    seed = 0
    while seed < KILLS:
        plan = Plan.draw(seed)
        medium = MEDIA["LTO-8 WORM" if plan.worm else "LTO-8"]
        Cartridge.create(
            tmp_path / "T", barcode="T00001L8", medium=medium, capacity_bytes=1 << 28, partitions=plan.partitions
        ).close()
        oracle = Oracle(plan.partitions)
        size = 0
        while seed < KILLS and size < OBJECTS_MAX:  # the same cartridge is killed again and again, then a new one
            kill_a_writer(tmp_path, seed, random.Random(seed))
            seed += 1
            follow_journal(oracle, tmp_path / "journal")
            with Cartridge.open(tmp_path / "T", limits=plan.limits) as cartridge:
                found = read_all(cartridge)
            try:
                oracle.check(found)
            except AssertionError as error:
                error.add_note(f"seed {seed - 1}, {plan}")
                raise
            size = sum(map(len, found))
        shutil.rmtree(tmp_path / "T")
