"""What FORMAT MEDIUM and a long ERASE took away is on disk no more, and the next load finds nothing to recover."""

import contextlib
import errno
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from datamover.engine import storage_fault, storage_faults_clear
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.files import DirectoryFiles
from vlib_images.cartridge.identity import CartridgeIdentity
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import StorageError

Make = Callable[..., Cartridge]
MARK = b"a secret of the tape's last owner "
CAPACITY = 100_000_000
SMALL = SegmentLimits(segment_bytes=1 << 16, segment_objects=1000)


def everything(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def fill(cartridge: Cartridge, blocks: int) -> None:
    """In every partition."""
    for partition in range(cartridge.partition_count):
        cartridge.locate_block(partition, 0)
        for number in range(blocks):
            cartridge.write_block(MARK * 100)
            if number % 7 == 6:
                cartridge.write_filemarks(1)
    cartridge.locate_block(0, 0)


def open_quietly(directory: Path) -> Cartridge:
    """Opens it; a recovery that is logged is a failure."""
    with capture_logs() as logs:
        cartridge = Cartridge.open(directory)
    assert [entry for entry in logs if entry["log_level"] not in ("info", "debug")] == []
    assert all(report.clean for report in cartridge.storage.recovery), [*map(str, cartridge.storage.recovery)]
    return cartridge


SHAPES = [(CAPACITY,), (CAPACITY // 2,) * 2, (CAPACITY // 4,) * 4]


@pytest.mark.parametrize("limits", [None, SMALL], ids=["one segment", "many segments"])
@pytest.mark.parametrize("synchronized", [True, False], ids=["durable", "buffered"])
@pytest.mark.parametrize(("before", "after"), [*itertools.product(SHAPES, SHAPES)], ids=lambda shape: str(len(shape)))
def test_a_format_leaves_nothing(
    make: Make,
    tmp_path: Path,
    before: tuple[int, ...],
    after: tuple[int, ...],
    synchronized: bool,
    limits: SegmentLimits | None,
) -> None:
    directory = tmp_path / "T00001L8"
    with make(partitions=before, limits=limits) as cartridge:
        fill(cartridge, 50)
        if synchronized:
            cartridge.synchronize()
        cartridge.format(after)
        assert MARK not in everything(directory)
        assert sorted(path.name for path in directory.glob("p*")) == [f"p{number}" for number in range(len(after))]
        assert list(directory.rglob("*.seg")) == list(directory.rglob("*.idx")) == []
    with open_quietly(directory) as cartridge:
        assert [cartridge.end_of_data(number) for number in range(cartridge.partition_count)] == [0] * len(after)
        fill(cartridge, 3)
        cartridge.format(before)  # and back, over what the first format took away
    open_quietly(directory).close()
    assert MARK not in everything(directory)


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("position", [0, 20])
@pytest.mark.parametrize("limits", [None, SMALL], ids=["one segment", "many segments"])
def test_an_erase_leaves_a_well_closed_cartridge(
    make: Make, tmp_path: Path, long: bool, position: int, limits: SegmentLimits | None
) -> None:
    directory = tmp_path / "T00001L8"
    with make(limits=limits) as cartridge:
        fill(cartridge, 50)
        cartridge.synchronize()
        cartridge.locate_block(0, position)
        cartridge.erase(long=long)
    if long:  # a short one may leave a little, unreadable (FORMAT.md, Writing)
        assert everything(directory).count(MARK) <= 100 * position
    with open_quietly(directory) as cartridge:
        assert cartridge.end_of_data(0) == position


def test_overwriting_leaves_a_well_closed_cartridge(make: Make, tmp_path: Path) -> None:
    directory = tmp_path / "T00001L8"
    make(limits=SMALL).close()
    for position in (0, 40, 10, 0, 3, 1):
        with open_quietly(directory) as cartridge:
            cartridge.locate_block(0, position)
            fill(cartridge, 50)
            cartridge.locate_block(0, position)
            cartridge.write_block(b"short")


FAULTS = [("unlink", 0), ("unlink", 1), ("rename", 0), ("rename", 1), ("rename", 2), ("exchange", 0), ("exchange", 1),
          ("sync_directory", 0), ("sync_directory", 2), ("open", 0), ("open", 3), ("sync", 0), ("sync", 2)]  # fmt: skip


@pytest.mark.parametrize(("operation", "after"), FAULTS)
@pytest.mark.parametrize(("old", "new"), [(SHAPES[1], SHAPES[0]), (SHAPES[0], SHAPES[1]), (SHAPES[2], SHAPES[1])])
def test_a_format_that_fails_on_the_way_can_be_done_again(
    make: Make, tmp_path: Path, operation: str, after: int, old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    """Whichever call fails: the partitions are the old ones or the new ones, and what comes next works."""
    directory = tmp_path / "T00001L8"
    cartridge = make(partitions=old, limits=SMALL)
    fill(cartridge, 50)
    cartridge.synchronize()
    storage_fault(operation, errno.EIO, after=after)
    with contextlib.suppress(StorageError):
        cartridge.format(new)
    storage_faults_clear()
    assert cartridge.partition_count in (len(old), len(new))
    cartridge.locate_block(cartridge.partition_count - 1, 0)
    cartridge.space_end_of_data()
    with contextlib.suppress(StorageError):  # a partition whose sync failed says so to the end
        cartridge.close()
    with Cartridge.open(directory) as cartridge:
        assert cartridge.partition_count in (len(old), len(new))
        cartridge.format(new)
        fill(cartridge, 3)
        cartridge.format(new)
    assert MARK not in everything(directory)
    assert sorted(path.name for path in directory.glob("p*")) == [f"p{number}" for number in range(len(new))]
    open_quietly(directory).close()


def test_what_an_older_version_left_of_a_partition_goes_with_the_next_opening(make: Make, tmp_path: Path) -> None:
    """It emptied the partition by a record in its log, and then forgot it."""
    directory = tmp_path / "T00001L8"
    with make(partitions=SHAPES[1]) as cartridge:
        fill(cartridge, 5)
        cartridge.locate_block(1, 0)
        cartridge.erase()
        cartridge.synchronize()
    assert MARK in (directory / "p1" / "00000001.seg").read_bytes()
    identity = CartridgeIdentity.read(DirectoryFiles(directory))
    replace(identity, partition_bytes=identity.partition_bytes[:1]).write(DirectoryFiles(directory))
    open_quietly(directory).close()
    assert not (directory / "p1").exists()


def test_a_partition_with_data_is_never_taken_for_a_leftover(make: Make, tmp_path: Path) -> None:
    """cartridge.json may be an old copy: what it does not know of stays, and is told."""
    directory = tmp_path / "T00001L8"
    with make(partitions=SHAPES[1]) as cartridge:
        fill(cartridge, 5)
    identity = CartridgeIdentity.read(DirectoryFiles(directory))
    replace(identity, partition_bytes=identity.partition_bytes[:1]).write(DirectoryFiles(directory))
    before = (directory / "p1" / "00000001.seg").read_bytes()
    with capture_logs() as logs:
        Cartridge.open(directory).close()
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert (directory / "p1" / "00000001.seg").read_bytes() == before


def test_a_foreign_file_stays(make: Make, tmp_path: Path) -> None:
    directory = tmp_path / "T00001L8"
    with make(partitions=SHAPES[1]) as cartridge:
        (directory / "p1" / "notes.txt").write_text("keep me")
        cartridge.format(SHAPES[0])
    open_quietly(directory).close()
    assert [path.name for path in (directory / "p1").iterdir()] == ["notes.txt"]
