"""What a cartridge promises, one promise a test."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datamover.engine import PROTECTION_CRC32C
from tests.support.documents import read_document, write_document
from tests.support.processes import thread_names
from tests.unit.cartridge.conftest import contents
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Encoder, Encryption, EncryptionKey
from vlib_images.cartridge.manifest import Manifest
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.partition import UNSYNCED_SEGMENTS
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import (
    CartridgeInUse,
    EndOfPartition,
    InvalidPartition,
    NotACartridge,
    WormViolation,
    WriteProtected,
)

Make = Callable[..., Cartridge]


def test_identity_survives_reopening(make: Make, tmp_path: Path) -> None:
    with make(partitions=2) as cartridge:
        uuid = cartridge.uuid
        cartridge.write_protected = True
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        assert (cartridge.barcode, cartridge.medium, cartridge.capacity_bytes) == ("T00001L8", MEDIA["LTO-8"], 1 << 30)
        assert (cartridge.uuid, cartridge.partition_count, cartridge.write_protected) == (uuid, 2, True)


@pytest.mark.parametrize("length", [1, 65535, 65536, 2**24 - 1])
def test_block_lengths_at_the_limits(make: Make, length: int) -> None:
    block = bytes(range(256)) * (length // 256 + 1)
    with make() as cartridge:
        cartridge.write_block(memoryview(block)[:length])
        assert contents(cartridge) == [block[:length]]


@pytest.mark.parametrize("length", [0, 2**24])
def test_block_lengths_beyond_the_limits_are_refused(make: Make, length: int) -> None:
    with make() as cartridge:
        with pytest.raises(ValueError, match="a block has 1 to 16777215 bytes"):
            cartridge.write_block(bytes(length))
        assert cartridge.end_of_data(0) == 0


def test_an_empty_cartridge_of_18_terabytes_costs_a_few_kilobytes(make: Make, tmp_path: Path) -> None:
    with make(barcode="T00001L9", medium=MEDIA["LTO-9"], capacity_bytes=None) as cartridge:
        assert cartridge.capacity_bytes == 18 * 10**12
    blocks = sum(path.stat().st_blocks for path in (tmp_path / "T00001L9").rglob("*"))
    assert blocks * 512 <= 64 << 10


def test_two_handles_in_one_process_are_refused(make: Make, tmp_path: Path) -> None:
    with make(), pytest.raises(CartridgeInUse):
        Cartridge.open(tmp_path / "T00001L8")


def test_two_processes_are_refused(make: Make, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from vlib_images.cartridge.cartridge import Cartridge; "
        "Cartridge.open(pathlib.Path(sys.argv[1]))"
    )
    with make():
        run = subprocess.run([sys.executable, "-c", program, tmp_path / "T00001L8"], capture_output=True, check=False)
    assert run.returncode == 1
    assert b"CartridgeInUse" in run.stderr


def test_readers_share_and_change_nothing(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.write_block(b"data")
    before = {path: path.read_bytes() for path in (tmp_path / "T00001L8").rglob("*") if path.is_file()}
    with (
        Cartridge.open(tmp_path / "T00001L8", read_only=True) as one,
        Cartridge.open(tmp_path / "T00001L8", read_only=True) as two,
    ):
        assert contents(one) == contents(two) == [b"data"]
        with pytest.raises(WriteProtected):
            one.write_block(b"more")
    assert before == {path: path.read_bytes() for path in (tmp_path / "T00001L8").rglob("*") if path.is_file()}


def test_a_directory_without_a_cartridge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotACartridge):
        Cartridge.open(tmp_path)


def test_a_directory_with_files_is_not_overwritten(make: Make, tmp_path: Path) -> None:
    (tmp_path / "T00001L8").mkdir()
    (tmp_path / "T00001L8" / "precious").touch()
    with pytest.raises(FileExistsError):
        make()


def test_write_protection_refuses_every_change(make: Make) -> None:
    with make() as cartridge:
        cartridge.write_block(b"data")
        cartridge.write_protected = True
        cartridge.rewind()
        for change in (
            lambda: cartridge.write_block(b"x"),
            lambda: cartridge.write_blocks(b"xx", 1),
            lambda: cartridge.write_filemarks(1),
            cartridge.erase,
            lambda: cartridge.format([1 << 30]),
        ):
            with pytest.raises(WriteProtected):
                change()
        assert contents(cartridge) == [b"data"]


def test_worm_appends_but_never_overwrites(make: Make) -> None:
    with make(barcode="T00001LY", medium=MEDIA["LTO-8 WORM"]) as cartridge:
        assert cartridge.worm
        cartridge.write_block(b"one")
        cartridge.write_filemarks(2)
        cartridge.rewind()
        for change in (lambda: cartridge.write_block(b"x"), cartridge.erase, lambda: cartridge.format([1 << 30])):
            with pytest.raises(WormViolation):
                change()
        cartridge.locate_block(0, 2)  # only a filemark would go: what st does between two files
        cartridge.write_block(b"two")
        assert contents(cartridge) == [b"one", None, b"two"]


def test_append_only_mode_is_worm_until_switched_off(make: Make) -> None:
    with make() as cartridge:
        cartridge.write_block(b"one")
        cartridge.append_only = True
        cartridge.rewind()
        with pytest.raises(WormViolation):
            cartridge.write_block(b"x")
        cartridge.append_only = False
        cartridge.write_block(b"two")
        assert contents(cartridge) == [b"two"]


def test_capacity_early_warning_and_end_of_partition(make: Make) -> None:
    with make(capacity_bytes=100 * 1056, early_warning_bytes=10 * 1056) as cartridge:
        for number in range(100):
            assert cartridge.early_warning == (number >= 90)
            cartridge.write_block(bytes(1024))
        with pytest.raises(EndOfPartition):
            cartridge.write_block(b"x")
        cartridge.write_filemarks(1)  # a file can still be ended
        assert cartridge.end_of_data(0) == 101
        cartridge.space_blocks(-10)
        assert not cartridge.early_warning
        cartridge.rewind()
        cartridge.write_block(b"x")
        assert cartridge.remaining_bytes(0) >= 98 * 1056


def test_fixed_blocks_stop_at_the_end_with_their_count(make: Make) -> None:
    with make(capacity_bytes=100 * 1056) as cartridge:
        with pytest.raises(EndOfPartition) as stopped:
            cartridge.write_blocks(bytes(1024 * 150), 1024)
        assert stopped.value.blocks_written == 100 == cartridge.end_of_data(0)
        assert cartridge.position == (0, 100)


def test_where_filemarks_took_more_than_the_capacity_no_block_is_written(make: Make) -> None:
    with make(capacity_bytes=32 * 1024) as cartridge:
        with pytest.raises(EndOfPartition):
            cartridge.write_filemarks(1 << 20)
        end = cartridge.position
        for write in (
            lambda: cartridge.write_blocks(bytes(4 * 512), 512),
            lambda: cartridge.write_blocks(bytes(4 * 512), 512, PROTECTION_CRC32C),
        ):
            with pytest.raises(EndOfPartition) as stopped:
                write()
            assert stopped.value.blocks_written == 0
        assert cartridge.position == end


def test_filemarks_end_too(make: Make) -> None:
    with make(capacity_bytes=32 * 1024) as cartridge:
        with pytest.raises(EndOfPartition) as stopped:
            cartridge.write_filemarks(2**24 - 1)
        assert stopped.value.blocks_written == cartridge.end_of_data(0) == 3 * 1024


def test_format_divides_the_medium(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.write_block(b"gone")
        cartridge.format([1 << 20, 2 << 20, 3 << 20])
        assert [cartridge.partition_capacity_bytes(number) for number in range(3)] == [1 << 20, 2 << 20, 3 << 20]
        cartridge.locate_block(2, 0)
        cartridge.write_block(b"two")
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        assert [contents(cartridge, number) for number in range(3)] == [[], [], [b"two"]]
        cartridge.format([1 << 30])
        assert cartridge.partition_count == 1
        assert contents(cartridge) == []


@pytest.mark.parametrize("sizes", [[], [1] * 5, [0], [1 << 31]])
def test_partitions_that_do_not_fit_are_refused(make: Make, sizes: list[int]) -> None:
    with make() as cartridge:
        cartridge.write_block(b"stays")
        with pytest.raises(InvalidPartition):
            cartridge.format(sizes)
        assert contents(cartridge) == [b"stays"]


def test_usage_counts_over_life_and_mounts(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        for number in range(6):
            cartridge.loaded("TAPEBAY", f"serial {number}")
        cartridge.write_block(bytes(1000))
        cartridge.write_blocks(bytes(1024), 512)
        contents(cartridge)
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        usage = cartridge.usage
        assert (usage.loads, usage.bytes_written, usage.blocks_written) == (6, 2024, 3)
        assert (usage.bytes_read, usage.blocks_read) == (2024, 3)
        assert [mount.drive_serial for mount in usage.mounts] == [f"serial {n}" for n in (5, 4, 3, 2)]
        assert usage.mounts[0].bytes_written == 2024


def test_a_crash_loses_little_of_the_counts(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlib_images.cartridge.storage.STORE_EVERY_BYTES", 1 << 20)
    cartridge = make(partitions=2)
    for partition in (0, 1, 1):
        cartridge.locate_block(partition, cartridge.end_of_data(partition))
        cartridge.write_blocks(bytes(600_000), 1000)
        cartridge.synchronize()
    cartridge.rewind()
    stored = json.loads((tmp_path / "T00001L8" / "usage.json").read_text())["content"]
    assert stored["bytes_written"] == 1_200_000
    assert [row["written"] for row in stored["partitions"]] == [600_000, 600_000]
    cartridge.close()
    with Cartridge.open(tmp_path / "T00001L8") as again:
        assert [row.written for row in again.usage.partitions] == [600_000, 1_200_000]
        assert again.usage.mount.stored_bytes_written == 1_800_000


def test_counts_of_an_older_version_are_read(make: Make, tmp_path: Path) -> None:
    make().close()
    path = tmp_path / "T00001L8" / "usage.json"
    content = read_document(path)
    for key in ("partitions", "loads_since_format", "written_at_format", "read_at_format"):
        del content[key]
    content["mounts"] = [{"drive_vendor": "IBM", "drive_serial": "1", "bytes_written": 7, "bytes_read": 8}]
    content["stored_bytes_written"] = 7
    write_document(path, content)
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        assert cartridge.settle_usage().written == 7


@pytest.mark.parametrize("encoder", [None, Encoder(1), Encoder(None, Encryption(EncryptionKey(bytes(32))))])
def test_the_end_of_the_capacity_says_how_many_blocks_were_written(make: Make, encoder: Encoder | None) -> None:
    with make(capacity_bytes=100_000) as cartridge:
        cartridge.encoder = encoder
        data = random.Random(1).randbytes(200 * 1000)
        with pytest.raises(EndOfPartition) as stopped:
            cartridge.write_blocks(data, 1000)
        written = stopped.value.blocks_written
        assert 80 < written < 100
        assert cartridge.position == (0, written) == (0, cartridge.end_of_data(0))


@pytest.mark.parametrize("capacity", [2_000_000, 16 << 20, 10**9, 10**13])
def test_early_warning_leaves_room_and_comes_in_time(make: Make, capacity: int) -> None:
    """On any cartridge, in any partition, also after a format to small ones: neither at the beginning nor too late."""
    with make(capacity_bytes=capacity) as cartridge:
        for sizes in ([capacity], [capacity // 8, capacity // 2], [capacity // 50]):
            cartridge.format(sizes)
            assert not cartridge.early_warning
            assert min(sizes) // 50 <= cartridge.early_warning_bytes <= min(sizes) // 4 or capacity == 10**13
            assert cartridge.early_warning_bytes >= min(4 << 20, min(sizes) // 4)


def test_the_thread_of_the_engine_has_a_name(make: Make) -> None:
    with make() as cartridge:
        block = bytes(8 << 20)
        for _ in range(4):
            cartridge.write_block(block)
        names = thread_names()
    assert "writeback" in names


def test_a_long_stream_syncs_what_it_wrote_first(make: Make, tmp_path: Path) -> None:
    """Half of the sealed segments that wait; a crash then loses none that was written."""
    limits = SegmentLimits(segment_bytes=1 << 20, segment_objects=1)
    blocks = [b"block %d" % number for number in range(2 * UNSYNCED_SEGMENTS)]
    with make(limits=limits) as cartridge:
        listed = []
        for block in blocks:
            cartridge.write_block(block)
            manifest = Manifest.decode((tmp_path / "T00001L8/p0/manifest").read_bytes())
            listed.append(len(manifest.entries))
        assert sorted(set(listed)) == [0, UNSYNCED_SEGMENTS // 2, UNSYNCED_SEGMENTS]
        assert listed.index(UNSYNCED_SEGMENTS // 2) == UNSYNCED_SEGMENTS
        assert manifest.next_segment_id == manifest.entries[-1].segment_id + 1
        shutil.copytree(tmp_path / "T00001L8", tmp_path / "killed")
    with Cartridge.open(tmp_path / "killed", limits=limits) as cartridge:
        assert contents(cartridge) == blocks[:-1]  # the last was still in this process's buffer
