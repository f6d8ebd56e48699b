"""The load generator, against an independent target: it moves what it says, and notices wrong blocks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datamover.initiator import InitiatorSession
from tests.bench.bench_throughput import Place, Row, build_load_generator, measure, table
from tests.support import packages
from tests.support.scsi import REWIND, Device, write_6
from tests.support.tgt import TgtTarget


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages.require("libiscsi-dev", "gcc")
    return build_load_generator(tmp_path_factory.mktemp("load"))


@pytest.fixture(scope="module")
def target() -> Iterator[TgtTarget]:
    packages.require("tgt")
    with TgtTarget() as running:
        yield running


@pytest.fixture
def place(target: TgtTarget) -> Place:
    return Place("tgt", f"iscsi://{target.portal}/{target.target_name}/{target.tape_lun}")


@pytest.mark.parametrize("depth", [1, 8])
def test_what_was_written_is_read(program: Path, place: Place, depth: int) -> None:
    for mode in ("write", "read"):
        result = measure(program, mode, place, 65536, 100, depth)
        assert (result["commands"], result["bytes"], result["errors"], result["wrong_blocks"]) == (100, 6553600, 0, 0)
        assert result["seconds"] > 0


def test_a_wrong_block_is_noticed(program: Path, target: TgtTarget, place: Place) -> None:
    measure(program, "write", place, 65536, 3, 1)
    with InitiatorSession(target.portal, target.target_name) as session:
        tape = Device(session, target.tape_lun)
        tape.good(REWIND)
        tape.good(write_6(65536), bytes(65536))
        tape.good(write_6(65536), bytes(65536))
    with pytest.raises(RuntimeError, match='"wrong_blocks": 2'):
        measure(program, "read", place, 65536, 2, 1)


def test_an_error_is_not_a_figure(program: Path, place: Place) -> None:
    with pytest.raises(RuntimeError, match=r"login|connect"):
        measure(program, "write", Place("nobody", "iscsi://127.0.0.1:1/iqn.x/0"), 65536, 2, 1)


def test_the_table_shows_both_and_their_ratio() -> None:
    text = table([Row("write", 65536, 8, 2e9, 1e9)])
    assert text.splitlines()[1].split() == [
        *("write", "64", "KiB", "8", "2000.0", "MB/s", "30518/s", "1000.0", "MB/s", "15259/s", "2.00")
    ]
