"""What is remembered of cartridges: only while each of their files is what it was."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.library import cartridge_facts
from appliance.library.cartridge_facts import CartridgeFacts, stamp_of
from appliance.library.cartridges import CartridgeStore
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA

BARCODE = "A00001L6"


@pytest.fixture
def cartridges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CartridgeStore:
    """With one that was written; the time since counts as long."""
    made = CartridgeStore(tmp_path)
    made.create_all({BARCODE: MEDIA["LTO-6"]}, None)
    write(tmp_path, b"first")
    monkeypatch.setattr(cartridge_facts, "SETTLED_NANOSECONDS", 0)
    return made


def write(directory: Path, data: bytes) -> None:
    with Cartridge.open(directory / BARCODE) as cartridge:
        cartridge.write_block(data)
        cartridge.write_filemarks(1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every cartridge that is opened from now on."""
    seen, really = list[Path](), Cartridge.open

    def watched(path: Path, **options: Any) -> Cartridge:
        seen.append(path)
        return really(path, **options)

    monkeypatch.setattr(Cartridge, "open", watched)
    return seen


def test_it_is_opened_once_while_its_files_stay(cartridges: CartridgeStore, opened: list[Path]) -> None:
    first = cartridges.describe(BARCODE)
    assert 5 <= first["used_bytes"] < 1000
    assert cartridges.describe(BARCODE) == first
    assert len(opened) == 1
    cartridges.describe(BARCODE)["medium"] = "what a caller does to it"
    assert cartridges.describe(BARCODE) == first
    assert cartridges.describe(BARCODE, anew=True) == first
    assert len(opened) == 2


def test_whatever_becomes_of_a_file_is_seen(cartridges: CartridgeStore, tmp_path: Path, opened: list[Path]) -> None:
    names = [path for path in (tmp_path / BARCODE).rglob("*") if path.is_file()]
    assert {"cartridge.json", "manifest", "00000001.seg", "00000001.idx"} <= {path.name for path in names}
    for path in names:
        cartridges.describe(BARCODE)
        seen = len(opened)
        os.utime(path, (1, 1))  # as a write, a truncation or a replacement would, with another time
        cartridges.describe(BARCODE)
        assert len(opened) == seen + 1, path
    (tmp_path / BARCODE / "cartridge.json").write_text("{}")
    assert cartridges.describe(BARCODE)["problem"] is not None


def test_what_is_written_and_protected_is_seen(cartridges: CartridgeStore, tmp_path: Path) -> None:
    cartridges.describe(BARCODE)
    write(tmp_path, bytes(1000))
    assert cartridges.describe(BARCODE)["used_bytes"] >= 1000
    cartridges.protect(BARCODE, True)
    assert cartridges.describe(BARCODE)["write_protected"] is True
    cartridges.protect(BARCODE, False)
    assert cartridges.describe(BARCODE)["write_protected"] is False


def test_a_change_of_just_now_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one within the same tick of the clock could not be told from it."""
    monkeypatch.setattr(cartridge_facts, "SETTLED_NANOSECONDS", 600 * 10**9)  # "just now", however slow this machine is
    (tmp_path / "file").touch()
    assert stamp_of(tmp_path) is None
    long_ago = time.time() - 6000
    os.utime(tmp_path / "file", (long_ago, long_ago))
    assert stamp_of(tmp_path) is None  # its times were set just now (ctime)


def test_what_cannot_be_looked_at_has_no_stamp(tmp_path: Path) -> None:
    assert stamp_of(tmp_path / "nothing") is None


def test_the_oldest_gives_way_and_problems_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cartridge_facts, "MOST_KEPT", 2)
    facts = CartridgeFacts()
    for name in ("a", "b", "c"):
        facts.keep(name, b"stamp", {"problem": None})
    facts.keep("b", b"later", {"problem": "another process has it open"})
    facts.keep("d", None, {"problem": None})
    assert [facts.get(name, b"stamp") for name in ("a", "b", "c", "d")] == [None, None, {"problem": None}, None]
