"""The file system fails under a cartridge: a clear error, nothing torn, nothing promised is lost. Faults are injected
below the engine, at the system calls."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datamover.engine import storage_fault, storage_faults_clear
from tests.unit.cartridge.conftest import contents
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import CartridgeError, DamagedBlock, NoSpace, StorageError

Make = Callable[..., Cartridge]
SMALL = SegmentLimits(segment_bytes=8192, segment_objects=1000)


def reopened(tmp_path: Path) -> list[bytes | None]:
    storage_faults_clear()
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        return contents(cartridge)


@pytest.mark.parametrize("length", [100, 300_000])
def test_a_full_disk_refuses_the_block_and_tears_nothing(make: Make, tmp_path: Path, length: int) -> None:
    with make() as cartridge:
        cartridge.write_block(b"a" * length)
        storage_fault("allocate", errno.ENOSPC, times=10**9)
        with pytest.raises(NoSpace):
            for _ in range(30_000):
                cartridge.write_block(b"b" * length)
        written = cartridge.end_of_data(0)
        assert cartridge.position == (0, written)
        cartridge.write_protected = False  # other files can still be written
        storage_faults_clear()
        cartridge.write_block(b"c" * length)  # someone made room
        expected = [b"a" * length, *[b"b" * length] * (written - 1), b"c" * length]
        assert contents(cartridge) == expected
    assert reopened(tmp_path) == expected


def test_a_full_disk_where_space_cannot_be_claimed_ahead(make: Make, tmp_path: Path) -> None:
    """Then a buffered block may meet ENOSPC after it was accepted; the next sync tells, and a later one succeeds."""
    storage_fault("allocate", errno.EOPNOTSUPP, times=10**9)
    with make() as cartridge:
        cartridge.write_block(b"promised")
        cartridge.synchronize()
        cartridge.write_block(b"accepted")
        storage_fault("write", errno.ENOSPC, times=3, partial=17)
        with pytest.raises(NoSpace):
            cartridge.synchronize()
        with pytest.raises(NoSpace) as stopped:
            cartridge.write_blocks(bytes(900_000), 300_000)
        assert stopped.value.blocks_written == 0
        with pytest.raises(NoSpace):
            cartridge.synchronize()
        cartridge.synchronize()  # there is room again
        assert contents(cartridge) == [b"promised", b"accepted"]
    assert reopened(tmp_path) == [b"promised", b"accepted"]


@pytest.mark.parametrize("partial", [0, 1, 32, 100_000])
def test_a_failed_write_leaves_nothing_torn(make: Make, tmp_path: Path, partial: int) -> None:
    with make() as cartridge:
        cartridge.write_block(b"before")
        storage_fault("write", errno.EIO, partial=partial)
        with pytest.raises(StorageError) as failed:
            cartridge.write_block(bytes(300_000))
        assert failed.value.errno == errno.EIO
        assert cartridge.position == (0, 1)
        cartridge.write_block(b"after")
        assert contents(cartridge) == [b"before", b"after"]
    assert reopened(tmp_path) == [b"before", b"after"]


def test_a_failed_fsync_is_final_until_reopened(make: Make, tmp_path: Path) -> None:
    """The kernel may have dropped the dirty pages: a second fsync that succeeds would prove nothing."""
    cartridge = make()
    cartridge.write_block(b"promised")
    cartridge.synchronize()
    cartridge.write_block(b"doubtful")
    storage_fault("sync", errno.EIO)
    with pytest.raises(StorageError, match="read-only until opened again"):
        cartridge.synchronize()
    for change in (
        cartridge.synchronize,
        lambda: cartridge.write_block(b"x"),
        lambda: cartridge.write_filemarks(1),
        lambda: (cartridge.rewind(), cartridge.write_block(b"x")),
        cartridge.erase,
    ):
        with pytest.raises(StorageError):
            change()
    assert contents(cartridge) == [b"promised", b"doubtful"]  # reading goes on
    with pytest.raises(StorageError):
        cartridge.close()
    assert reopened(tmp_path)[0] == b"promised"


@pytest.mark.parametrize("operation", ["sync", "exchange", "sync_directory", "write", "open"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("after", range(3))
def test_a_manifest_that_cannot_be_written(make: Make, tmp_path: Path, operation: str, error: int, after: int) -> None:
    """At a seal, a cut or a synchronize: whatever fails, what was promised before is there."""
    cartridge = make(limits=SMALL)
    for number in range(40):
        cartridge.write_block(bytes([number]) * 900)
    cartridge.synchronize()
    promised = contents(cartridge)
    storage_fault(operation, error, after=after, path="p0", times=2)
    failures = 0
    for position in (40, 30, 12):
        cartridge.locate_block(0, position)
        try:
            cartridge.write_block(bytes([position + 100]) * 900)
            cartridge.synchronize()
            promised = [*promised[:position], bytes([position + 100]) * 900]
        except CartridgeError:
            failures += 1
    assert failures
    storage_faults_clear()
    in_memory = contents(cartridge)
    try:
        cartridge.close()
    except CartridgeError:
        failures += 1
    found = reopened(tmp_path)
    allowed = [promised, in_memory]
    for position in (40, 30, 12):  # a cut whose write failed may have happened
        allowed += [promised[:position], [*promised[:position], bytes([position + 100]) * 900]]
    assert found in allowed


def test_an_unreadable_sector_is_a_damaged_block(make: Make) -> None:
    with make() as cartridge:
        for length in (100, 100, 200_000, 100):
            cartridge.write_block(b"x" * length)
        cartridge.synchronize()
        cartridge.rewind()
        into = bytearray(200_000)
        storage_fault("read", errno.EIO, path=".seg")
        with pytest.raises(DamagedBlock) as damaged:
            cartridge.read_block(into)
        assert (damaged.value.block, cartridge.position) == (0, (0, 1))
        assert [cartridge.read_block(into).length for _ in range(3)] == [100, 200_000, 100]
        cartridge.locate_block(0, 2)
        storage_fault("read", errno.EIO, path=".seg")
        with pytest.raises(DamagedBlock):
            cartridge.read_block(into)
        assert cartridge.read_block(into).length == 100


@pytest.mark.parametrize("blocks", [1, 3, 60, 400])
def test_an_unreadable_sector_never_shortens_the_log(make: Make, tmp_path: Path, blocks: int) -> None:
    """Whether what cannot be read was promised cannot be told: the cartridge does not open, and loses nothing."""
    cartridge = make()
    for _ in range(blocks):
        cartridge.write_block(b"x" * 5000)
    cartridge.synchronize()
    cartridge.write_block(b"y" * 5000)
    for partition in cartridge.storage.partitions:
        assert partition.segments.tail is not None
        partition.segments.tail.flush()
        partition.release()
    cartridge.storage.lock.close()  # as a kill -9 would leave it
    storage_fault("read", errno.EIO, path=".seg", times=10**9)
    with pytest.raises(StorageError):
        Cartridge.open(tmp_path / "T00001L8")
    assert reopened(tmp_path) == [*[b"x" * 5000] * blocks, b"y" * 5000]


def test_what_went_into_a_deleted_file_is_not_promised(make: Make, tmp_path: Path) -> None:
    """The kernel syncs a file that has no name any more without a word."""
    cartridge = make()
    cartridge.write_block(b"x")
    cartridge.synchronize()
    shutil.rmtree(tmp_path / "T00001L8")
    cartridge.write_block(b"y")
    for _ in range(2):
        with pytest.raises(StorageError, match="No such file"):
            cartridge.synchronize()
    with pytest.raises(StorageError):
        cartridge.close()


def test_a_cut_that_cannot_be_finished_is_finished_later(make: Make, tmp_path: Path) -> None:
    """The manifest shows the cut; the space comes back when the cartridge is opened again."""
    cartridge = make(limits=SMALL)
    for number in range(40):
        cartridge.write_block(bytes([number]) * 900)
    cartridge.synchronize()
    cartridge.locate_block(0, 3)
    storage_fault("truncate", errno.EIO, path="00000001.seg", times=10**9)
    with pytest.raises(StorageError):
        cartridge.write_block(b"new")
    assert cartridge.end_of_data(0) == 3
    cartridge.space_end_of_data()
    cartridge.write_block(b"new")
    cartridge.close()
    expected = [*(bytes([number]) * 900 for number in range(3)), b"new"]
    assert reopened(tmp_path) == expected
    assert (tmp_path / "T00001L8" / "p0" / "00000001.seg").stat().st_size < 8192


def test_creating_a_cartridge_fails_clean(make: Make, tmp_path: Path) -> None:
    storage_fault("write", errno.ENOSPC, after=2)
    with pytest.raises(NoSpace):
        make()
    storage_faults_clear()
    with pytest.raises(CartridgeError):
        Cartridge.open(tmp_path / "T00001L8")


def test_a_file_system_that_turns_read_only(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.write_block(b"promised")
        cartridge.synchronize()
        for operation in ("open", "write", "allocate", "truncate"):
            storage_fault(operation, errno.EROFS, times=10**9)
        with pytest.raises(StorageError):
            cartridge.write_block(bytes(300_000))
        with pytest.raises(StorageError):
            cartridge.write_protected = True
        assert contents(cartridge) == [b"promised"]
        storage_faults_clear()
    assert reopened(tmp_path) == [b"promised"]
