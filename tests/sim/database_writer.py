"""The process whose storage is logged: random changes of a library's database, each told with what it leads to.

python -m tests.sim.database_writer DIRECTORY SEED CHANGES

Prints a JSON line for each change that has returned: how long the log of its storage was, and what the library holds.
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from vlib_images.library.database import events
from vlib_images.library.database.database import FILE_NAME, Database
from vlib_images.library.database.takeover import open_database
from vlib_images.library.inventory import ElementType, Inventory, Layout
from vlib_images.library.state import LibraryState

LAYOUT = Layout(range(1, 2), range(4096, 4116), range(16, 18), range(256, 258))
PAGES_BETWEEN_CHECKPOINTS = 12  # many of them, where a thousand is usual


def content(inventory: Inventory, store: LibraryState, database: Database) -> dict[str, Any]:
    """Everything that the library holds, as JSON has it."""
    with database.read() as connection:
        newest = events.latest(connection, 1)
    places = {e.barcode: [e.address, e.source, e.placed_by_operator] for e in inventory.elements() if e.barcode}
    return {
        "places": places,
        "shelf": inventory.shelf(),
        "devices": store.items("devices"),
        "events": newest[0].number if newest else 0,
    }


class Writer:
    """A library whose changes are told."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self.rng = rng
        self.made = 0
        if not any(directory.iterdir()):
            Database.create(directory / FILE_NAME).close()
        self.open()

    def open(self) -> None:
        self.database = open_database(self.directory)
        self.inventory, self.store = Inventory(self.database, LAYOUT), LibraryState(self.database)
        with self.database.change() as connection:
            connection.exec_driver_sql(f"PRAGMA wal_autocheckpoint = {PAGES_BETWEEN_CHECKPOINTS}")
        self.tell()

    def tell(self) -> None:
        moment = Path(os.environ["TAPEBAY_STORAGE_LOG"]).stat().st_size
        print(json.dumps([moment, content(self.inventory, self.store, self.database)]), flush=True)

    def change(self) -> None:
        """One change, or a few; whatever is possible now."""
        kinds = [self.move, self.exchange, self.add, self.add_all, self.take_out, self.put_in, self.keep, self.restart]
        self.rng.choices(kinds, [12, 6, 3, 2, 3, 3, 8, 1])[0]()

    def _addresses(self, *, full: bool) -> list[int]:
        return [e.address for e in self.inventory.elements() if (e.barcode is not None) == full]

    def move(self) -> None:
        full, empty = self._addresses(full=True), self._addresses(full=False)
        if full and empty:
            self.inventory.move(self.rng.choice(full), self.rng.choice(empty))
            self.tell()

    def exchange(self) -> None:
        full = self._addresses(full=True)
        if len(full) > 1:
            first, second = self.rng.sample(full, 2)
            self.inventory.exchange(first, second, self.rng.choice([first, *self._addresses(full=False)]))
            self.tell()

    def add(self) -> None:
        self.made += 1
        self.inventory.add(f"A{self.made:05}L6", self.rng.choice([None, *self._addresses(full=False)]))
        self.tell()

    def add_all(self) -> None:
        new = [(f"B{self.made + number:05}L6", None) for number in range(self.rng.randint(1, 60))]
        self.made += len(new)
        for _ in self.inventory.add_all(new):
            self.tell()

    def take_out(self) -> None:
        if full := self._addresses(full=True):
            self.inventory.remove(self.rng.choice(full))
            self.tell()

    def put_in(self) -> None:
        empty = [e.address for e in self.inventory.elements(ElementType.STORAGE) if e.barcode is None]
        if empty and (shelf := self.inventory.shelf()):
            self.inventory.insert(self.rng.choice(shelf), self.rng.choice(empty))
            self.tell()

    def keep(self) -> None:
        unit = self.rng.choice(["drive0", "drive1", "disk0"])
        value = {"bytes": self.rng.randbytes(self.rng.choice([8, 300, 6000])).hex()}
        kinds = ["reservations", "mode", "life"]
        some = self.rng.sample(kinds, self.rng.randint(1, 3))
        self.store.update("devices", {f"{unit}/{kind}": self.rng.choice([None, value, value]) for kind in some})
        self.tell()

    def restart(self) -> None:
        self.database.close()
        self.open()


def main(directory: Path, seed: int, changes: int) -> None:
    """Makes changes and ends without closing anything, as a kill would end it."""
    writer = Writer(directory, random.Random(seed))
    for _ in range(changes):
        writer.change()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
