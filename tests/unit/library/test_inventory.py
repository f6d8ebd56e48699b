"""The inventory: each cartridge in exactly one place, moves whole or not at all."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from tests.support.database import new_database, open_again
from tests.support.full_disk import nothing_can_be_written
from tests.support.waiting import eventually
from vlib_images.library.actor import acting_as
from vlib_images.library.database import events, inventory_rows
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.database.inventory_rows import Record
from vlib_images.library.inventory import (
    BadBarcode,
    BarcodeExists,
    ElementEmpty,
    ElementFull,
    ElementType,
    Inventory,
    InventoryError,
    Layout,
    NoSuchCartridge,
    NoSuchElement,
)

IBM = Layout(transport=range(1, 2), storage=range(4096, 4100), import_export=range(16, 18), drives=range(256, 258))
LARGEST = Layout(range(1, 2), storage=range(4096, 65536), import_export=range(16, 4000), drives=range(4000, 4096))
HP = Layout(transport=range(1), storage=range(1001, 1005), import_export=range(101, 103), drives=range(1, 3))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def inventory(directory: Path) -> Inventory:
    inventory = Inventory(new_database(directory), IBM)
    inventory.add("A00001L6", 4096)
    inventory.add("A00002L6", 4097)
    inventory.add("A00003L6")
    return inventory


def places(inventory: Inventory) -> dict[str, int | None]:
    return {barcode: (element := inventory.find(barcode)) and element.address for barcode in inventory.barcodes()}


def test_elements_follow_the_layout(inventory: Inventory) -> None:
    assert [element.address for element in inventory.elements()] == [1, 4096, 4097, 4098, 4099, 16, 17, 256, 257]
    drives = inventory.elements(ElementType.DRIVE)
    assert [(drive.address, drive.index, drive.barcode) for drive in drives] == [(256, 0, None), (257, 1, None)]


def test_move_sets_the_source_and_survives_reopening(inventory: Inventory, directory: Path) -> None:
    assert inventory.move(4096, 256) == "A00001L6"
    again = Inventory(open_again(directory), IBM)
    drive = again.element(256)
    assert (drive.barcode, drive.source, drive.placed_by_operator) == ("A00001L6", 4096, False)
    assert again.element(4096).barcode is None
    assert again.elements() == inventory.elements()


def test_source_is_the_last_slot_not_a_drive(inventory: Inventory) -> None:
    inventory.move(4096, 256)
    inventory.move(256, 257)
    assert inventory.element(257).source == 4096
    inventory.move(257, 4099)
    inventory.move(4099, 256)
    assert inventory.element(256).source == 4099


def test_the_operator_flag_falls_when_the_robot_moves(inventory: Inventory) -> None:
    inventory.insert("A00003L6", 16)
    assert inventory.element(16).placed_by_operator
    inventory.move(16, 17)
    assert not inventory.element(17).placed_by_operator
    assert inventory.element(17).source == 16


def test_move_refusals_change_nothing(inventory: Inventory) -> None:
    before = inventory.elements()
    with pytest.raises(ElementEmpty, match="4098"):
        inventory.move(4098, 256)
    with pytest.raises(ElementFull, match="A00002L6"):
        inventory.move(4096, 4097)
    with pytest.raises(NoSuchElement, match="9999"):
        inventory.move(4096, 9999)
    with pytest.raises(NoSuchElement, match="9999"):
        inventory.move(9999, 4096)
    assert inventory.move(4096, 4096) == "A00001L6"
    assert inventory.elements() == before


def test_exchange_in_one_step(inventory: Inventory, directory: Path) -> None:
    inventory.move(4097, 256)
    assert inventory.exchange(4096, 256, 4099) == ("A00001L6", "A00002L6")
    assert places(inventory) == {"A00001L6": 256, "A00002L6": 4099, "A00003L6": None}
    assert places(Inventory(open_again(directory), IBM)) == places(inventory)


def test_exchange_can_swap(inventory: Inventory) -> None:
    assert inventory.exchange(4096, 4097, 4096) == ("A00001L6", "A00002L6")
    assert places(inventory) == {"A00001L6": 4097, "A00002L6": 4096, "A00003L6": None}
    assert inventory.element(4097).source == 4096
    assert inventory.element(4096).source == 4097


@pytest.mark.parametrize(
    ("elements", "error"),
    [
        ((4098, 4096, 4099), ElementEmpty),
        ((4096, 4098, 4099), ElementEmpty),
        ((4096, 4096, 4099), ElementFull),
        ((4096, 4097, 4097), ElementFull),
        ((4096, 4097, 5), NoSuchElement),
    ],
)
def test_exchange_refusals_change_nothing(
    inventory: Inventory, elements: tuple[int, int, int], error: type[InventoryError]
) -> None:
    before = inventory.elements()
    with pytest.raises(error):
        inventory.exchange(*elements)
    assert inventory.elements() == before


def test_shelf_and_back(inventory: Inventory) -> None:
    assert inventory.shelf() == ["A00003L6"]
    inventory.insert("A00003L6", 16)
    assert inventory.shelf() == []
    with pytest.raises(NoSuchCartridge, match="not on the shelf"):
        inventory.insert("A00003L6", 17)
    assert inventory.remove(16) == "A00003L6"
    with pytest.raises(ElementEmpty):
        inventory.remove(16)
    assert inventory.find("A00003L6") is None


def test_barcodes_are_unique_in_and_outside(inventory: Inventory) -> None:
    for barcode in ("A00001L6", "A00003L6"):
        with pytest.raises(BarcodeExists, match=barcode):
            inventory.add(barcode, 4099)
    inventory.discard("A00003L6")
    inventory.add("A00003L6", 4099)
    with pytest.raises(NoSuchCartridge):
        inventory.discard("NONE01L6")


@pytest.mark.parametrize("barcode", ["", "a00001l6", "../../x", "A B", "-A", "A" * 33, "A\n", "A/B"])
def test_barcodes_that_could_not_name_a_directory(inventory: Inventory, barcode: str) -> None:
    with pytest.raises(BadBarcode):
        inventory.add(barcode)


def test_another_model_keeps_cartridges_in_their_slots(inventory: Inventory, directory: Path) -> None:
    inventory.move(4096, 257)
    again = Inventory(open_again(directory), HP)
    assert places(again) == {"A00001L6": 2, "A00002L6": 1002, "A00003L6": None}
    assert again.element(2).source == 1001
    assert again.evicted == []


def test_a_smaller_library_puts_the_rest_on_the_shelf(inventory: Inventory, directory: Path) -> None:
    inventory.move(4097, 4099)
    small = Layout(IBM.transport, range(4096, 4098), IBM.import_export, IBM.drives)
    again = Inventory(open_again(directory), small)
    assert again.evicted == ["A00002L6"]
    assert again.shelf() == ["A00002L6", "A00003L6"]
    assert Inventory(open_again(directory), IBM).shelf() == ["A00002L6", "A00003L6"]


def test_a_source_that_is_gone_is_unknown(inventory: Inventory, directory: Path) -> None:
    inventory.move(4097, 256)
    tiny = Layout(IBM.transport, range(4096, 4097), IBM.import_export, IBM.drives)
    assert Inventory(open_again(directory), tiny).element(256).source is None


def test_a_failed_write_moves_nothing(inventory: Inventory, directory: Path) -> None:
    before = places(inventory)
    with nothing_can_be_written(), pytest.raises(OSError, match=r"tapebay\.db"):
        inventory.move(4096, 256)
    assert places(inventory) == before == places(Inventory(open_again(directory), IBM))
    assert inventory.move(4096, 256) == "A00001L6"
    assert places(inventory) == places(Inventory(open_again(directory), IBM))


def test_two_cartridges_in_one_element_cannot_be_stored(inventory: Inventory, directory: Path) -> None:
    rows = {"A00001L6": Record((ElementType.STORAGE, 3)), "A00002L6": Record((ElementType.STORAGE, 3))}
    database = open_again(directory)
    with pytest.raises(IntegrityError), database.change() as connection:
        inventory_rows.write(connection, rows, known=rows)
    assert places(Inventory(database, IBM)) == places(inventory)


def test_a_record_that_was_changed_by_hand_is_refused(inventory: Inventory, directory: Path) -> None:
    connection = sqlite3.connect(directory / "tapebay.db")
    connection.execute("UPDATE inventory SET element_index = 2 WHERE barcode = 'A00002L6'")
    connection.commit()
    with pytest.raises(StateDamaged, match=r"tapebay\.db: damaged: the record of cartridge 'A00002L6' .* Restore"):
        Inventory(open_again(directory), IBM)


def test_elements_of_a_range_cost_what_they_are(directory: Path) -> None:
    inventory = Inventory(new_database(directory), LARGEST)
    chosen = inventory.elements(ElementType.STORAGE, range(65_000, 65_100))
    assert [element.address for element in chosen] == list(range(65_000, 65_100))
    assert [element.address for element in inventory.elements(addresses=range(15, 20))] == [16, 17, 18, 19]
    assert inventory.elements(ElementType.DRIVE, range(5000, 5005)) == []
    assert len(inventory.elements()) == 1 + 61_440 + 3_984 + 96


def test_any_number_of_cartridges_at_once(inventory: Inventory, directory: Path) -> None:
    large = Inventory(open_again(directory), LARGEST)
    new = [(f"N{number:05}L6", 5000 + number) for number in range(3000)]
    counts = list(large.add_all(new))
    assert counts == sorted(set(counts))
    assert counts[-1] == 3000
    assert "N02999L6" in large
    assert "N03000L6" not in large
    again = Inventory(open_again(directory), LARGEST)
    assert places(again) == places(large)
    assert again.element(7999).placed_by_operator


def test_a_batch_with_a_fault_adds_nothing_of_it(inventory: Inventory, directory: Path) -> None:
    before = places(inventory)
    for fault, error in (("A00001L6", BarcodeExists), ("N00001L6", BarcodeExists), ("n1", BadBarcode)):
        with pytest.raises(error):
            list(inventory.add_all([("N00001L6", None), (fault, None)]))
    with pytest.raises(ElementFull, match="given twice"):
        list(inventory.add_all([("N00001L6", 4099), ("N00002L6", 4099)]))
    assert places(inventory) == before == places(Inventory(open_again(directory), IBM))


def test_every_change_has_its_audit_record(inventory: Inventory, directory: Path) -> None:
    with acting_as("operator"):
        inventory.move(4096, 256)
        inventory.exchange(4097, 256, 4098)
    inventory.insert("A00003L6", 16)
    inventory.remove(16)
    inventory.discard("A00003L6")
    with open_again(directory).read() as connection:
        told = [(e.actor, e.action, e.subject, e.details) for e in reversed(events.latest(connection, 100))]
    assert told == [
        ("library", "cartridge added", "A00001L6", {"to": "storage:0"}),
        ("library", "cartridge added", "A00002L6", {"to": "storage:1"}),
        ("library", "cartridge added", "A00003L6", {"to": "shelf"}),
        ("operator", "cartridge moved", "A00001L6", {"from": "storage:0", "to": "drive:0"}),
        ("operator", "cartridge moved", "A00002L6", {"from": "storage:1", "to": "drive:0"}),
        ("operator", "cartridge moved", "A00001L6", {"from": "drive:0", "to": "storage:2"}),
        ("library", "cartridge put in", "A00003L6", {"to": "import_export:0"}),
        ("library", "cartridge taken out", "A00003L6", {"from": "import_export:0"}),
        ("library", "cartridge forgotten", "A00003L6", {"from": "shelf"}),
    ]


def test_bulk_work_lets_a_move_through(directory: Path, inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that comes while a batch is at work is done before the next batch."""
    large = Inventory(open_again(directory), LARGEST)
    add, found = large._add, list[str | None]()
    moving = threading.Thread(target=lambda: large.move(4096, 256))

    def watched(batch: Sequence[tuple[str, int | None]]) -> None:
        found.append(large.element(256).barcode)
        if len(found) == 3:
            moving.start()
            eventually(lambda: large._changing.waiting == 1)
        add(batch)

    monkeypatch.setattr(large, "_add", watched)
    assert list(large.add_all([(f"N{number:05}L6", None) for number in range(2000)]))[-1] == 2000
    moving.join(60)
    assert found[:3] == [None] * 3
    assert len(found) > 4 and set(found[3:]) == {"A00001L6"}
    assert len(large.barcodes()) == 2003


def test_layouts_do_not_overlap() -> None:
    with pytest.raises(ValueError, match="overlap"):
        Layout(range(1), range(16, 20), range(16, 18), range(256, 258))
    with pytest.raises(ValueError, match="65535"):
        Layout(range(1), range(65530, 65540), range(16, 18), range(256, 258))


@pytest.mark.parametrize("committed", [False, True])
def test_a_thread_that_is_ended_in_a_move_leaves_what_the_database_has(
    directory: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    class Killed(BaseException):
        pass

    database = new_database(directory)
    inventory = Inventory(database, IBM)
    inventory.add("A00001L6", 4096)
    change = Database.change

    @contextmanager
    def cut_off(*given: object) -> Iterator[object]:
        with change(*given) as connection:  # type: ignore[arg-type]
            yield connection
            if not committed:
                raise Killed
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Database, "change", cut_off)
        inventory.move(4096, 256)
    assert inventory.places() == Inventory(database, IBM).places()
    assert (inventory.element(256).barcode is not None) == committed
    inventory.move(256 if committed else 4096, 4097)
    assert [element.barcode for element in inventory.elements() if element.barcode] == ["A00001L6"]
