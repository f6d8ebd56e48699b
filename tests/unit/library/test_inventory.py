"""The inventory: each cartridge in exactly one place, moves whole or not at all."""

from pathlib import Path

import pytest

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
from vlib_images.library.state import StateStore

IBM = Layout(transport=range(1, 2), storage=range(4096, 4100), import_export=range(16, 18), drives=range(256, 258))
HP = Layout(transport=range(1), storage=range(1001, 1005), import_export=range(101, 103), drives=range(1, 3))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    StateStore.create(tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def inventory(directory: Path) -> Inventory:
    inventory = Inventory(StateStore(directory), IBM)
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
    again = Inventory(StateStore(directory), IBM)
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
    assert places(Inventory(StateStore(directory), IBM)) == places(inventory)


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


def test_first_empty(inventory: Inventory) -> None:
    element = inventory.first_empty(ElementType.STORAGE)
    assert element is not None
    assert element.address == 4098
    inventory.add("A00004L6", 16)
    inventory.add("A00005L6", 17)
    assert inventory.first_empty(ElementType.IMPORT_EXPORT) is None


def test_another_model_keeps_cartridges_in_their_slots(inventory: Inventory, directory: Path) -> None:
    inventory.move(4096, 257)
    again = Inventory(StateStore(directory), HP)
    assert places(again) == {"A00001L6": 2, "A00002L6": 1002, "A00003L6": None}
    assert again.element(2).source == 1001
    assert again.evicted == []


def test_a_smaller_library_puts_the_rest_on_the_shelf(inventory: Inventory, directory: Path) -> None:
    inventory.move(4097, 4099)
    small = Layout(IBM.transport, range(4096, 4098), IBM.import_export, IBM.drives)
    again = Inventory(StateStore(directory), small)
    assert again.evicted == ["A00002L6"]
    assert again.shelf() == ["A00002L6", "A00003L6"]
    assert Inventory(StateStore(directory), IBM).shelf() == ["A00002L6", "A00003L6"]


def test_a_source_that_is_gone_is_unknown(inventory: Inventory, directory: Path) -> None:
    inventory.move(4097, 256)
    tiny = Layout(IBM.transport, range(4096, 4097), IBM.import_export, IBM.drives)
    assert Inventory(StateStore(directory), tiny).element(256).source is None


def test_a_failed_write_moves_nothing(inventory: Inventory, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = places(inventory)
    with monkeypatch.context() as patch:
        patch.setattr("vlib_images.library.state.write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            inventory.move(4096, 256)
    assert places(inventory) == before == places(Inventory(StateStore(directory), IBM))


def test_contradicting_records_are_refused(directory: Path) -> None:
    store = StateStore(directory)
    record = {"place": "storage:0", "source": None, "by_operator": False}
    store.update("inventory", {"A00001L6": record, "A00002L6": record})  # type: ignore[dict-item]
    with pytest.raises(InventoryError, match="both in storage:0"):
        Inventory(store, IBM)
    store.update("inventory", {"A00001L6": "nonsense", "A00002L6": None})
    with pytest.raises(InventoryError, match="not understood"):
        Inventory(store, IBM)


def test_layouts_do_not_overlap() -> None:
    with pytest.raises(ValueError, match="overlap"):
        Layout(range(1), range(16, 20), range(16, 18), range(256, 258))
    with pytest.raises(ValueError, match="65535"):
        Layout(range(1), range(65530, 65540), range(16, 18), range(256, 258))
