"""Small cartridges for the tests of this directory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datamover.engine import storage_faults_clear
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA


@pytest.fixture(autouse=True)
def no_faults_left() -> Iterator[None]:
    yield
    storage_faults_clear()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Cartridge]:
    """make(**what Cartridge.create takes): a cartridge of 1 GiB in tmp_path / "T00001L8"."""

    def create(**options: Any) -> Cartridge:
        row: dict[str, Any] = {"barcode": "T00001L8", "medium": MEDIA["LTO-8"], "capacity_bytes": 1 << 30, **options}
        return Cartridge.create(tmp_path / row["barcode"], **row)

    return create


def contents(cartridge: Cartridge, partition: int = 0) -> list[bytes | None]:
    """Every object of a partition; a filemark is None."""
    into = bytearray(1 << 24)
    cartridge.locate_block(partition, 0)
    found: list[bytes | None] = []
    for _ in range(cartridge.end_of_data(partition)):
        result = cartridge.read_block(into)
        found.append(bytes(into[: result.length]) if result.kind.name == "BLOCK" else None)
    return found
