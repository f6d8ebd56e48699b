"""Tables for people: drawn when they are short, aligned lines when they are long."""

import pytest

from appliance.cli.tables import LARGE_TABLE, table


def test_a_long_table_has_the_same_cells(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"slot:{n}", 4096 + n, f"A{n:05}L6" if n % 2 else None, "drive:0") for n in range(LARGE_TABLE + 1)]
    table(["place", ">address", "cartridge", "from"], rows, title="Cartridges")
    title, head, *lines = capsys.readouterr().out.splitlines()
    assert title == "Cartridges"
    assert head.split() == ["place", "address", "cartridge", "from"]
    assert [line.split() for line in lines] == [[str(cell) for cell in row if cell is not None] for row in rows]
    assert len({line.index("drive:0") for line in lines}) == 1
    table(["place", ">address", "cartridge", "from"], rows[:LARGE_TABLE])
    drawn = capsys.readouterr().out.splitlines()
    assert [line.split() for line in drawn if "drive:0" in line] == [line.split() for line in lines[:LARGE_TABLE]]


def test_nothing_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    table(["place"], [], title="Cartridges", empty="No cartridges.")
    assert capsys.readouterr().out == "No cartridges.\n"
