"""The walk of a snapshot's files: what it refuses to mount, and lines that are not all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from appliance.agent import snapshot_walk
from appliance.agent.file_systems import NotMapped
from appliance.agent.snapshot_walk import Order, WalkFailed, lines_of, needs_recovery, walked
from tests.support import packages
from tests.unit.backup.support import run, which

LENGTH = 8 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    packages.require("e2fsprogs")
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(LENGTH)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", path)
    return path


def test_one_that_was_not_held_still_is_never_mounted(image: Path) -> None:
    assert not needs_recovery(image)
    run(which("debugfs"), "-w", "-R", "feature needs_recovery", image)
    assert needs_recovery(image)
    with pytest.raises(NotMapped, match="was not held still when the snapshot was made"):
        list(walked(Order(str(image), "ext4", [[0, LENGTH, str(image), 0]])))


@pytest.mark.parametrize(
    ("printed", "why"),
    [
        ('{"a": 1}\n{"end": 2}', "1 lines came of 2"),
        ('{"a": 1}\n{"failed": "it is gone"}', "it is gone"),
        ('{"a": 1}', "the walk ended too early"),
    ],
)
def test_lines_that_are_not_all(monkeypatch: pytest.MonkeyPatch, printed: str, why: str) -> None:
    program = [sys.executable, "-c", f"import sys; sys.stdin.readline(); print({printed!r})"]
    monkeypatch.setattr(snapshot_walk, "own_command", lambda _module: program)
    lines = lines_of(Order("/dev/none", "ext4", []))
    assert next(lines) == '{"a": 1}'
    with pytest.raises(WalkFailed, match=why):
        next(lines)
