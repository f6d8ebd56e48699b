"""The process that the kill -9 test kills: random operations, told to a journal file as JSON lines.

python -m tests.sim.cartridge_writer DIRECTORY SEED
"""

import json
import os
import random
import sys
from pathlib import Path

from tests.sim.cartridge_workload import Event, Plan, draw_operation, perform
from vlib_images.cartridge.cartridge import Cartridge


def main(directory: Path, seed: int) -> None:
    """Writes until it is killed. A journal line is one write; a kill in the middle of it leaves a line without end."""
    plan = Plan.draw(seed)
    journal = os.open(directory / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    rng = random.Random(os.urandom(8) if seed < 0 else seed)

    def tell(event: Event) -> None:
        os.write(journal, json.dumps(event).encode() + b"\n")

    with Cartridge.open(directory / "T", limits=plan.limits) as cartridge:
        tell({"event": "ready"})
        print("ready", flush=True)
        for serial in range(0, 10**9, 100):
            perform(cartridge, draw_operation(rng, serial, cartridge.partition_count), tell)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
