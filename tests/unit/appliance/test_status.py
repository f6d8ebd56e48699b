"""`tapebay status` of a library with a gate: what an administrator is told of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.cli.status import _status
from appliance.operations.verb import OnLibrary
from tests.support.in_process import declared, do

CONFIG = """
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "iqn.2026-11.io.tapebay:lib"
[[drives]]
name = "drive0"
[[drives]]
name = "drive1"
[[disks]]
name = "disk"
size = "1 MiB"
"""
GATE = '[gate]\ntarget = "iqn.2026-11.io.tapebay:gate"\n'
PARTITION = '[[partitions]]\nname = "left"\nslots = "1-4"\ndrives = ["drive0", "drive1"]\n'


@contextmanager
def serving(folder: Path, more: str) -> Iterator[OnLibrary]:
    made = declared(folder, CONFIG + more)
    made.library.start()
    try:
        yield made
    finally:
        made.library.stop()
        made.library.close()


def lines(context: OnLibrary, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """As the command line prints it."""
    capsys.readouterr()
    _status(do(context, "status"), {})
    return capsys.readouterr().out.splitlines()


def test_it_shows_the_gate_and_what_stands_behind_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, GATE) as context:
        luns = {"1": "drive0", "2": "drive1"}
        assert do(context, "status")["gate"] == {"iqn": "iqn.2026-11.io.tapebay:gate", "luns": luns}
        said = lines(context, capsys)
        at = said.index("gate iqn.2026-11.io.tapebay:gate, which the keys of grants open")
        assert [line.split()[:4] for line in said[at + 3 : at + 5]] == [
            ["1", "drive0", "tape", "drive"], ["2", "drive1", "tape", "drive"],
        ]  # fmt: skip


def test_a_snapshot_that_only_grants_show_is_there_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, GATE) as context:
        context.library.offer("disk@1", context.library.units["disk"])
        assert do(context, "status")["gate"]["luns"] == {"1": "drive0", "2": "drive1", "128": "disk@1"}
        assert "128  disk@1" in lines(context, capsys)


def test_drives_of_partitions_are_not_behind_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, GATE + PARTITION) as context:
        assert do(context, "status")["gate"]["luns"] == {}
        said = lines(context, capsys)
        assert said[said.index("gate iqn.2026-11.io.tapebay:gate, which the keys of grants open") + 1] == "No devices."


def test_without_a_gate_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, "") as context:
        assert do(context, "status")["gate"] is None
        assert not [line for line in lines(context, capsys) if line.startswith("gate")]
