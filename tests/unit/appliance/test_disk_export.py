"""A disk that is served is exported as it was at one instant, whatever initiators write meanwhile."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of, perform
from appliance.operations.verb import OnLibrary
from scsi_targets.devices.disk.block_device import BlockDevice
from tests.support import packages
from tests.support.in_process import declared

CONFIG = """
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "iqn.2026-11.io.tapebay:lib"
[[disks]]
name = "data"
size = "16 MiB"
removable = true
"""
SIZE = 16 << 20


@pytest.fixture
def context(tmp_path: Path) -> Iterator[OnLibrary]:
    made = declared(tmp_path, CONFIG)
    made.library.start()
    yield made
    made.library.stop()
    made.library.close()


def export(context: OnLibrary, file: Path, **options: Any) -> Any:
    verb = VERBS["disk.export"]
    return perform(verb, context, parameters_of(verb, {"name": "data", "file": str(file), **options}))


def disk(context: OnLibrary) -> BlockDevice:
    return context.library.disks()["data"]


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_it_is_of_one_instant(context: OnLibrary, tmp_path: Path, image_format: str) -> None:
    if image_format != "raw":
        packages.require("qemu-utils")
    medium = disk(context).medium
    before = os.urandom(5 << 20)
    medium.write(before, 1 << 20)
    told: list[int] = []

    def write_meanwhile(done: int, total: int) -> None:
        assert total == SIZE
        if not told:  # before what is read, and after it
            medium.write(b"new" * 4096, 1 << 20)
            medium.write(b"new" * 4096, 5 << 20)
            medium.write(b"new" * 4096, 12 << 20)
        told.append(done)

    made = export(replace(context, progress=write_meanwhile), tmp_path / "out", format=image_format)
    assert (made["name"], made["format"]) == ("data", image_format)
    assert told == sorted(told) and told[-1] == SIZE
    exported = tmp_path / "out"
    if image_format != "raw":
        verb = VERBS["disk.import"]
        perform(verb, context, parameters_of(verb, {"name": "again", "file": str(exported)}))
        exported = tmp_path / "disks" / "again.img"
    assert exported.read_bytes() == bytes(1 << 20) + before + bytes(10 << 20)
    (kept,) = context.library.snapshots.all()
    assert kept.state.over and kept.stored_bytes == 0


def test_where_no_instant_can_be_had_it_says_why(context: OnLibrary, tmp_path: Path) -> None:
    for _ in range(64):
        context.library.snapshots.create(["data"])
    with pytest.raises(OperatorError, match="64 snapshots are held already") as caught:
        export(context, tmp_path / "out.raw")
    assert caught.value.failure is Failure.REFUSED
    assert not (tmp_path / "out.raw").exists()


def test_a_snapshot_that_breaks_meanwhile_is_a_clear_error(context: OnLibrary, tmp_path: Path) -> None:
    disk(context).medium.write(os.urandom(SIZE), 0)

    def break_it(_done: int, _total: int) -> None:
        (kept,) = context.library.snapshots.all()
        kept.break_off("its store was full")

    with pytest.raises(OperatorError, match=r"could not be held as it was .* its store was full; try again") as caught:
        export(replace(context, progress=break_it), tmp_path / "out.raw")
    assert caught.value.failure is Failure.REFUSED
    assert not (tmp_path / "out.raw").exists()


def test_whoever_stops_it_leaves_nothing_behind(context: OnLibrary, tmp_path: Path) -> None:
    disk(context).medium.write(os.urandom(SIZE), 0)
    before = sorted(path.name for path in tmp_path.iterdir())

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(replace(context, progress=stop), tmp_path / "out.raw")
    assert sorted({path.name for path in tmp_path.iterdir()} - {"snapshots"}) == [n for n in before if n != "snapshots"]
    (kept,) = context.library.snapshots.all()
    assert kept.state.over
