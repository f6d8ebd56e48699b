"""SIMH tape files with everything that the specification has in them, and with what is broken off."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.documents import read_document, write_document
from tests.unit.cartridge.conftest import contents
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.interchange import InterchangeError, export_tape, import_tape

Make = Callable[..., Cartridge]

TAPE_MARK, END_OF_MEDIUM, GAP = bytes(4), b"\xff" * 4, b"\xfe\xff\xff\xff"
NOTHING_RECOVERED = struct.pack("<II", 0x80000000, 0x80000000)


def record(data: bytes, kind: int = 0, *, padded: bool = True) -> bytes:
    word = struct.pack("<I", kind << 28 | len(data))
    return word + data + bytes(len(data) % 2 if padded else 0) + word


def marker(kind: int, value: int) -> bytes:
    return struct.pack("<I", kind << 28 | value)


def imported(make: Make, path: Path, content: bytes, name: str = "simh") -> tuple[list[bytes | None], list[str]]:
    path.write_bytes(content)
    with make() as cartridge:
        report = import_tape(name, path, cartridge)
        return contents(cartridge), report.notes


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14])
@pytest.mark.parametrize("length", [0, 1, 2, 100_001])
def test_records_that_are_no_data_are_passed_over(make: Make, tmp_path: Path, kind: int, length: int) -> None:
    other = record(bytes(length), kind)
    content = other + record(b"odd") + other + TAPE_MARK + record(b"even") + other + END_OF_MEDIUM
    found, notes = imported(make, tmp_path / "t", content)
    assert found == [b"odd", None, b"even"]
    (note,) = notes
    assert f"class {kind:X}h" in note
    assert "(3 times)" in note


@pytest.mark.parametrize("word", [marker(7, 0), marker(7, 0xFFFFFFF), marker(15, 0), marker(15, 0xFFDFFFF), GAP])
def test_markers_that_are_no_data_are_passed_over(make: Make, tmp_path: Path, word: bytes) -> None:
    content = word * 2 + record(b"a") + word * 3 + TAPE_MARK + word + record(b"b") + word + END_OF_MEDIUM
    found, notes = imported(make, tmp_path / "t", content)
    assert found == [b"a", None, b"b"]
    (note,) = notes
    assert "passed over (7 times)" in note


def test_what_comes_after_the_end_of_medium_is_said(make: Make, tmp_path: Path) -> None:
    found, notes = imported(make, tmp_path / "t", record(b"a") + END_OF_MEDIUM + b"left from before")
    assert found == [b"a"]
    assert notes == ["16 bytes after the end of medium were passed over"]


@pytest.mark.parametrize("lost", [NOTHING_RECOVERED, NOTHING_RECOVERED[:4]], ids=["twice", "once"])
def test_a_record_of_which_nothing_was_recovered_is_no_block(make: Make, tmp_path: Path, lost: bytes) -> None:
    content = lost + record(b"a") + TAPE_MARK + lost + record(b"b") + lost + END_OF_MEDIUM
    found, notes = imported(make, tmp_path / "t", content)
    assert found == [b"a", None, b"b"]
    twice = "records without data that had their length once have it twice, as every record does, when exported"
    odd = [f"{twice} (3 times)"] if len(lost) == 4 else []
    assert notes == [*odd, "records of which no data was recovered; there is no block for them: 3"]


@pytest.mark.parametrize("name", ["simh", "e11"])
@pytest.mark.parametrize("end", [END_OF_MEDIUM, b""], ids=["end of medium", "end of file"])
@pytest.mark.parametrize("seed", range(4))
def test_bit_for_bit_there_and_back(make: Make, tmp_path: Path, name: str, end: bytes, seed: int) -> None:
    rng, padded = random.Random(seed), name == "simh"
    parts = [record(b"odd", padded=padded)]  # which of the two it is shows here
    for _ in range(60):
        data = rng.randbytes(rng.choice((1, 2, 3, 80, 512, 10_241)))
        good, bad = record(data, padded=padded), record(data, 8, padded=padded)
        parts.append(rng.choice((good, good, bad, bad, TAPE_MARK, NOTHING_RECOVERED, NOTHING_RECOVERED)))
    (tmp_path / "t").write_bytes(b"".join(parts) + end)
    with make() as cartridge:
        import_tape(name, tmp_path / "t", cartridge)
    with Cartridge.open(tmp_path / "T00001L8", read_only=True) as cartridge:
        export_tape(name, cartridge, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "t").read_bytes()


def test_awstape_bit_for_bit_there_and_back(make: Make, tmp_path: Path) -> None:
    rng, content, previous = random.Random(1), b"", 0
    for length in [80, 0, 65535, 1, 0, 0, 32760, 0, 0]:
        flags = 0xA0 if length else 0x40
        content += struct.pack("<HHBB", length, previous, flags, 0) + rng.randbytes(length)
        previous = length
    (tmp_path / "t").write_bytes(content)
    with make() as cartridge:
        import_tape("awstape", tmp_path / "t", cartridge)
        export_tape("awstape", cartridge, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content


def test_marks_go_with_the_data_they_are_of(make: Make, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(record(b"bad!", 8) + record(b"good"))
    with make() as cartridge:
        import_tape("simh", tmp_path / "t", cartridge)
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        cartridge.locate_block(0, 0)
        cartridge.write_block(b"new!")
        cartridge.write_block(b"good")
        export_tape("simh", cartridge, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == record(b"new!") + record(b"good") + END_OF_MEDIUM


@pytest.mark.parametrize("name", ["awstape", "directory"])
def test_a_format_without_marks_says_so(make: Make, tmp_path: Path, name: str) -> None:
    (tmp_path / "t").write_bytes(record(b"bad!", 8) + NOTHING_RECOVERED + record(b"good"))
    with make() as cartridge:
        import_tape("simh", tmp_path / "t", cartridge)
        notes = export_tape(name, cartridge, tmp_path / "out").notes
    assert any("read with errors: their data is kept" in note for note in notes)
    assert any("nothing could be read: they are left out" in note for note in notes)
    with make(barcode="T00002L8") as cartridge:
        import_tape(name, tmp_path / "out", cartridge)
        assert contents(cartridge) == [b"bad!", b"good"]
        export_tape("simh", cartridge, tmp_path / "simh")
    assert (tmp_path / "simh").read_bytes() == record(b"bad!") + record(b"good") + END_OF_MEDIUM


@pytest.mark.parametrize(
    "change",
    [
        {"bad": [[0, 1 << 60]]}, {"lost": [[0, 1 << 60]]}, {"lost": [[-1, 1]]}, {"bad": "x"}, {"bad": [[1]]},
        {"lost": [[0, 0]]}, {"changes": None},
    ],
)  # fmt: skip
def test_marks_of_nonsense_are_none(make: Make, tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "t").write_bytes(record(b"bad!", 8))
    with make() as cartridge:
        import_tape("simh", tmp_path / "t", cartridge)
        path = tmp_path / "T00001L8" / "interchange.json"
        write_document(path, read_document(path) | change)
        export_tape("simh", cartridge, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == record(b"bad!") + END_OF_MEDIUM


@pytest.mark.parametrize("length", [1 << 24, (1 << 28) - 1])
def test_a_record_longer_than_any_block_is_refused(make: Make, tmp_path: Path, length: int) -> None:
    with pytest.raises(InterchangeError, match=f"a block of {length} bytes"):
        imported(make, tmp_path / "t", struct.pack("<I", length) + bytes(100))


# ---- salvage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simh", "e11", "awstape"])
def test_of_a_truncated_image_what_reads_is_kept(make: Make, tmp_path: Path, name: str) -> None:
    tape = [b"label", None, b"x" * 1000, b"y" * 1001, None, b"last"]
    with make() as cartridge:
        for item in tape:
            if item is None:
                cartridge.write_filemarks(1)
            else:
                cartridge.write_block(item)
        export_tape(name, cartridge, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for number, length in enumerate(range(1, len(whole), 97)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with make(barcode=f"V{number:05}L8") as cartridge:
            report = import_tape(name, tmp_path / "cut", cartridge, salvage=True)
            found = contents(cartridge)
            assert found == tape[: len(found)]
            assert report.incomplete == any("could not be read and is missing" in note for note in report.notes)
            try:
                with make(barcode=f"U{number:05}L8") as strict:
                    assert not import_tape(name, tmp_path / "cut", strict).incomplete
                assert not report.incomplete
            except InterchangeError:
                assert report.incomplete


def test_salvage_keeps_the_blocks_before_a_damage(make: Make, tmp_path: Path) -> None:
    content = bytearray(record(b"a") + record(b"b") + record(b"c"))
    content[-1] ^= 0x40
    (tmp_path / "t").write_bytes(content)
    with make() as cartridge:
        report = import_tape("simh", tmp_path / "t", cartridge, salvage=True)
        assert contents(cartridge) == [b"a", b"b"]
        assert report.incomplete
        assert any("offset 20: the length behind the record" in note for note in report.notes)
