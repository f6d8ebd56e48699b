"""Partitions: own addresses for some of the inventory's elements, and which slots are somebody's home."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.database import new_database
from vlib_images.library.homes import free_slots, home_of, homes
from vlib_images.library.inventory import ElementType, Inventory, Layout, NoSuchElement
from vlib_images.library.partition import Partition

LIBRARY = Layout(transport=range(1, 2), storage=range(4096, 4106), import_export=range(16, 18), drives=range(256, 259))
OWN = Layout(transport=range(1), storage=range(1001, 1004), import_export=range(101, 102), drives=range(1, 3))
ELEMENTS = {
    ElementType.TRANSPORT: (1,),
    ElementType.STORAGE: (4100, 4105, 4097),
    ElementType.IMPORT_EXPORT: (17,),
    ElementType.DRIVE: range(257, 259),
}
PART = Partition("beta", "HP MSL G3 Series", "LIB_B", OWN, ELEMENTS, barcodes="B*")


def test_addresses_go_both_ways() -> None:
    pairs = {0: 1, 1001: 4100, 1002: 4105, 1003: 4097, 101: 17, 1: 257, 2: 258}
    assert {own: PART.inside(own) for own in pairs} == pairs
    assert {PART.outside(address): address for address in pairs.values()} == pairs
    assert PART.members(ElementType.STORAGE, range(1002, 1004)) == (4105, 4097)
    assert PART.members(ElementType.STORAGE, [1003, 1001]) == [4097, 4100]
    assert PART.members(ElementType.DRIVE, range(2, 3)) == range(258, 259)


@pytest.mark.parametrize("address", [1000, 1004, 4100, 3, 100, 102, 65535, -1])
def test_there_is_nothing_else_inside(address: int) -> None:
    with pytest.raises(NoSuchElement):
        PART.inside(address)


@pytest.mark.parametrize("address", [4096, 4098, 16, 256])
def test_what_is_in_no_partition_has_no_address_in_it(address: int) -> None:
    assert PART.outside(address) is None


def test_the_whole_library_is_a_partition_with_the_same_addresses() -> None:
    whole = Partition.whole("changer", "IBM 3573-TL", "LIB", LIBRARY)
    for _, addresses in LIBRARY.ranges():
        assert [(whole.inside(address), whole.outside(address)) for address in addresses] == [
            (address, address) for address in addresses
        ]
    assert whole.admits("ANYTHING")


def test_barcodes_that_belong_to_it() -> None:
    assert PART.admits("B00001L8")
    assert not PART.admits("A00001L8")


def test_what_is_no_partition() -> None:
    with pytest.raises(ValueError, match="partition beta: 3 addresses for 2 STORAGE"):
        replace(PART, elements={**ELEMENTS, ElementType.STORAGE: (4100, 4101)})
    with pytest.raises(ValueError, match="the same STORAGE element twice"):
        replace(PART, elements={**ELEMENTS, ElementType.STORAGE: (4100, 4101, 4100)})


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    inventory = Inventory(new_database(tmp_path / "state"), LIBRARY)
    for number in range(8):
        inventory.add(f"A0000{number}L6", 4096 + number)
    return inventory


def test_homes_come_last_among_the_free_slots(inventory: Inventory) -> None:
    assert homes(inventory) == {}
    inventory.move(4096, 256)
    inventory.move(4099, 257)
    assert homes(inventory) == {4096: "A00000L6", 4099: "A00003L6"}
    assert list(free_slots(inventory)) == [4104, 4105, 4096, 4099]
    assert list(free_slots(inventory, among=[4096, 4105])) == [4105, 4096]
    assert home_of(inventory, inventory.element(257)) == 4099
    inventory.move(4101, 4099)
    assert homes(inventory) == {4096: "A00000L6"}
    assert home_of(inventory, inventory.element(257)) == 4101
    assert home_of(inventory, inventory.element(257), among=[4104, 4096]) == 4104


def test_when_all_else_is_full_a_home_is_taken_and_then_nothing(inventory: Inventory) -> None:
    inventory.move(4096, 256)
    inventory.add("A00008L6", 4104)
    inventory.add("A00009L6", 4105)
    assert list(free_slots(inventory)) == [4096]
    inventory.add("A00010L6", 4096)
    assert home_of(inventory, inventory.element(256)) is None
