"""Elements as operators name them."""

from pathlib import Path

import pytest

from appliance.failures import Failure, OperatorError
from appliance.operations.places import format_place, parse_place
from tests.support.database import new_database
from vlib_images.library.inventory import Inventory, Layout

LAYOUT = Layout(range(1, 2), range(4096, 4116), range(16, 18), range(256, 258))
DRIVES = {"lto-a": 256, "lto-b": 257}


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return Inventory(new_database(tmp_path), LAYOUT)


@pytest.mark.parametrize(
    ("text", "address", "name"),
    [
        ("slot:1", 4096, "slot:1"),
        ("slot:20", 4115, "slot:20"),
        ("ie:2", 17, "ie:2"),
        ("drive:0", 256, "drive:0"),
        ("lto-b", 257, "drive:1"),
        ("picker:0", 1, "picker:0"),
        ("4100", 4100, "slot:5"),
    ],
)
def test_names_and_addresses(inventory: Inventory, text: str, address: int, name: str) -> None:
    element = parse_place(inventory, DRIVES, text)
    assert element is not None
    assert element.address == address
    assert format_place(element) == name


def test_the_shelf(inventory: Inventory) -> None:
    assert parse_place(inventory, DRIVES, "shelf") is None
    assert format_place(None) == "shelf"


@pytest.mark.parametrize("text", ["", "slot:0", "slot:21", "slot:-1", "slot:x", "drive:2", "lto-c", "70000", "slot"])
def test_no_such_place(inventory: Inventory, text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_place(inventory, DRIVES, text)
    assert caught.value.failure is Failure.NOT_FOUND
    assert "slot:1 to slot:20, ie:1 to ie:2, drive:0 to drive:1, lto-a, lto-b and shelf" in str(caught.value)
