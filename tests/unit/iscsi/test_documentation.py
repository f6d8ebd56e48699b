"""docs/iscsi.md says what the code does: every key with its value, every limit, every line of the log."""

import re
from pathlib import Path

import pytest

from scsi_targets.iscsi.keys import KEYS, TextKey
from scsi_targets.iscsi.limits import Limits

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "iscsi.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]


def row_of(name: str) -> list[str]:
    return next(row for row in ROWS if name in row[0].split(", "))


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_key_with_our_value(key: TextKey) -> None:
    documented = row_of(key.name)[1]
    if key.name == "MaxRecvDataSegmentLength":
        assert documented == str(Limits().max_recv_data_segment_length)
    elif key.ours is not None:
        ours = key.ours(Limits())
        assert documented == ({True: "Yes", False: "No"}[ours] if isinstance(ours, bool) else str(ours))
    elif key.values and isinstance(key.values[0], str):
        assert documented == ", ".join(map(str, key.values))


NEGOTIATED = {
    name for name in Limits.__slots__ if any(word in name for word in ("length", "r2t", "time2", "immediate"))
}


@pytest.mark.parametrize("name", sorted(set(Limits.__slots__) - NEGOTIATED))
def test_every_limit_with_its_default(name: str) -> None:
    names, defaults = row_of(name)[0].split(", "), row_of(name)[1].split(", ")
    documented = defaults[names.index(name)]
    number = re.match(r"(\d+)( MiB)?", documented)
    assert number is not None
    assert int(number[1]) * (1 << 20 if number[2] else 1) == getattr(Limits(), name)


def test_every_line_of_the_log() -> None:
    sources = [path.read_text() for path in (ROOT / "scsi_targets" / "iscsi").glob("*.py")]
    logged = {
        event for source in sources for event in re.findall(r'(?:log\.\w+(?:\(|,)\s*|failure = )"([a-z ]+)"', source)
    }
    assert logged - {"connection failed inside the target"} == {row_of(event)[0] for event in logged - {
        "connection failed inside the target"
    }}  # fmt: skip


def test_the_files_that_the_table_names_exist() -> None:
    for code, tests in (row[2:4] for row in ROWS if len(row) == 4 and row[2].startswith("`")):
        for name in re.findall(r"`([^`]+)`", code):
            assert (ROOT / "scsi_targets" / "iscsi" / name).exists(), name
        for name in re.findall(r"`([^`]+)`", tests):
            assert (ROOT / name if "/" in name else ROOT / "tests" / "unit" / "iscsi" / name).exists(), name
