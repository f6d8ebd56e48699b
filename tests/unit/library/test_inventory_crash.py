"""A process that moves cartridges is killed at a moment nobody chose: a move either happened or did not."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.database import new_database, open_again
from vlib_images.library.inventory import Inventory, Layout

LAYOUT = Layout(range(1, 2), range(4096, 4108), range(16, 18), range(256, 258))
CARTRIDGES = [f"A{number:05}L6" for number in range(8)]

# Says where everything is before and after each move, unbuffered: a move that may have happened has been announced.
MOVER = """
import json, os, random, sys
from pathlib import Path
from vlib_images.library.inventory import ElementEmpty, ElementFull, Inventory, Layout
from vlib_images.library.database.database import Database

layout = Layout(range(1, 2), range(4096, 4108), range(16, 18), range(256, 258))
inventory = Inventory(Database.open(Path(sys.argv[1], "tapebay.db")), layout)
chooser = random.Random(int(sys.argv[2]))
addresses = [element.address for element in inventory.elements()]

def say(word):
    places = {element.barcode: element.address for element in inventory.elements() if element.barcode}
    os.write(1, (json.dumps([word, places, move]) + "\\n").encode())

move = None
say("done")
while True:
    full = [element.address for element in inventory.elements() if element.barcode]
    empty = [address for address in addresses if address not in full]
    if chooser.random() < 0.3:
        first, second = chooser.sample(full, 2)
        move = [first, second, chooser.choice([first, *empty])]
        say("begin")
        inventory.exchange(*move)
    else:
        move = [chooser.choice(full), chooser.choice(empty)]
        say("begin")
        inventory.move(*move)
    say("done")
"""


def applied(places: dict[str, int], move: list[int]) -> dict[str, int]:
    """What the move makes of `places`, computed without the code under test."""
    where = {address: barcode for barcode, address in places.items()}
    first = where.pop(move[0])
    if len(move) == 3:
        where[move[2]] = where.pop(move[1])
    where[move[1]] = first
    return {barcode: address for address, barcode in where.items()}


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_leaves_the_state_before_or_after_its_move(tmp_path: Path, seed: int) -> None:
    directory = tmp_path / "state"
    inventory = Inventory(new_database(directory), LAYOUT)
    for index, barcode in enumerate(CARTRIDGES):
        inventory.add(barcode, 4096 + index)
    process = subprocess.Popen([sys.executable, "-c", MOVER, str(directory), str(seed)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(random.Random(seed).randrange(2, 120))]
    process.send_signal(signal.SIGKILL)
    lines += [line for line in process.stdout if line.endswith(b"\n")]
    process.stdout.close()
    process.wait()

    word, places, move = json.loads(lines[-1])
    allowed = [places] if word == "done" else [places, applied(places, move)]
    again = Inventory(open_again(directory), LAYOUT)
    found = {element.barcode: element.address for element in again.elements() if element.barcode}
    assert found in allowed, f"seed {seed}: {found} is neither of {allowed}"
    assert sorted(found) == again.barcodes() == CARTRIDGES
    assert again.evicted == []
