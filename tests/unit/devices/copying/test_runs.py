"""Long runs of blocks from a disk's file to a tape: they happen, and nobody can tell."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from datamover.file_run import FileRun
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.disk.instant import held_still
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.t10 import copy_descriptors as copy
from tests.support.storage import needs_reads_at_hand
from tests.unit.datamover.runs import NEVER, after_runs, runs_counted, runs_of
from tests.unit.devices.copying.outcome import outcome
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream, content, stream_to_block
from tests.unit.devices.copying.test_access import protected, registrants_only
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, code_of, failure
from tests.unit.devices.copying.test_participants import RESET
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.disk.test_read_write import select_caching
from tests.unit.devices.support import ALPHA, sense_of
from tests.unit.devices.tape.encryption_support import set_encryption
from tests.unit.devices.tape.protection_support import CRC32C, protect
from tests.unit.devices.tape.support import good, make_cartridge, position, set_block_length
from tests.unit.devices.tape.test_compression import compress
from tests.unit.devices.tape.test_early_warning import select_extension
from tests.unit.devices.tape.test_mode import append_only
from tests.unit.images.test_block_device import losetup
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.partition import TapePartition
from vlib_images.disk.image import Provisioning
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot_image import SnapshotImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import MemoryChunks

BLOCK = 16384
DISK_BYTES = BLOCKS * 512
WHOLE = DISK_BYTES // BLOCK
SHORT = {"shortest_bytes": 100_000, "chunk_bytes": BLOCK}


@pytest.fixture(autouse=True)
def runs_are_possible(tmp_path: Path) -> None:
    needs_reads_at_hand(tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def blocks_of(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


def disk_content(site: Site) -> bytes:
    found = bytearray(DISK_BYTES)
    site.disk.medium.read_into(found, 0)
    return bytes(found)


# ---- with and without, in every state of the drive and the disk ------------------------------------------------------

Prepare = Callable[[Site], object]


def with_early_warning(room_bytes: int) -> Prepare:
    def prepare(site: Site) -> None:
        site.tape.loaded.early_warning_bytes = 40_000_000 - room_bytes

    return prepare


def with_cartridge(**options: object) -> Prepare:
    """Another one, with a block."""

    def prepare(site: Site) -> None:
        site.tape.unload().close()
        site.cartridges[0] = make_cartridge(site.directory, "TAP003L8", early_warning_bytes=0, **options)
        site.tape.load(site.cartridges[0])
        while site.tape.take_unit_attention(ALPHA):
            pass
        site.tape.loaded.write_block(b"the first")

    return prepare


def in_the_middle(site: Site) -> None:
    site.fill([content(1000, seed) for seed in range(20)])
    site.tape.loaded.locate_block(0, 7)


def beyond_what_must_stay(site: Site) -> None:
    site.fill([content(1000)] * 3)
    good(append_only(site.tape))
    site.tape.loaded.space_end_of_data()


def in_what_must_stay(site: Site) -> None:
    in_the_middle(site)
    good(append_only(site.tape))


# How a drive or disk is prepared, and whether there are runs then.
TO_TAPE: dict[str, tuple[Prepare, bool]] = {
    "nothing special": (lambda site: None, True),
    "the write cache is off": (lambda site: select_caching(site.disk, 0), True),
    "logical block protection": (lambda site: protect(site.tape, CRC32C), True),
    "WORM": (with_cartridge(worm=True), True),
    "in the middle": (in_the_middle, True),
    "early warning comes": (with_early_warning(1_500_000), True),
    "early warning was before": (with_early_warning(0), False),
    "the partition ends": (with_cartridge(capacity_bytes=1_500_000), True),
    "compression": (lambda site: good(compress(site.tape)), False),
    "encryption": (lambda site: good(set_encryption(site.tape)), False),
    "unbuffered": (lambda site: good(set_block_length(site.tape, 0, buffered=0)), False),
    "append only, behind": (beyond_what_must_stay, False),
    "append only, in the middle": (in_what_must_stay, False),
    "programmable early warning": (lambda site: good(select_extension(site.tape, warning_megabytes=39)), False),
    "write protected": (lambda site: protected(site, site.tape), False),
}


def ended(directory: Path, prepare: Prepare, **how: int) -> dict[str, object]:
    """What comes of a copy; the site is closed."""
    directory.mkdir()
    site = Site(directory)
    try:
        prepare(site)
        with runs_of(**how):
            return outcome(site, site.copy(block_to_stream(BLOCK, BLOCKS), list_identifier=3))
    finally:
        site.close()


@pytest.mark.parametrize("state", TO_TAPE)
def test_with_and_without_runs(tmp_path: Path, state: str) -> None:
    prepare, possible = TO_TAPE[state]
    with runs_counted() as counts:
        runs = ended(tmp_path / "runs", prepare, **SHORT)
    with runs_counted() as none:
        ordinary = ended(tmp_path / "ordinary", prepare, **SHORT | {"shortest_bytes": NEVER})
    assert none == []
    for name, found in runs.items():
        assert found == ordinary[name], name
    assert (sum(counts) > 50) == any(counts) == possible


# ---- what comes in mid-copy ------------------------------------------------------------------------------------------


def reset(_: Site, unit: BlockDevice | TapeDrive) -> None:
    unit.reset()


EVENTS = [(reset, 2, RESET), (registrants_only, 0x18, None)]  # what, and the status and sense that the copy is answered


@pytest.mark.parametrize(("event", "status", "told"), EVENTS)
@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_what_comes_between_two_runs_ends_the_copy_there(
    site: Site, side: int, event: Callable[..., None], status: int, told: tuple[int, int, int] | None
) -> None:
    """It is the end that it came to which is named, and of the run that is refused nothing was moved."""
    unit = site.tape if side == DESTINATION else site.disk
    with runs_of(100_000), runs_counted() as counts, after_runs(2, lambda: event(site, unit)):
        answer = site.copy(block_to_stream(BLOCK, BLOCKS), unit=site.other)
    segment, information, _, answered, sense = failure(answer, side)
    moved = sum(counts)
    assert (segment, answered, code_of(sense) if sense else None) == (0, status, told)
    assert len([blocks for blocks in counts if blocks]) == 2
    assert information == DISK_BYTES - moved * BLOCK
    assert position(site.tape) == (0, moved)
    assert site.written() == blocks_of(site.disk_data)[:moved]


def test_what_is_cancelled_between_two_runs_ends_at_a_whole_block(site: Site) -> None:
    def cancel() -> None:
        site.disk.copy_manager.recent()[-1].cancel()

    with runs_of(100_000), runs_counted() as counts, after_runs(3, cancel):
        answer = site.copy(block_to_stream(BLOCK, BLOCKS))
    assert sense_of(answer) == (0xA, 0x2F, 0x02)
    assert len(counts) == 3
    assert site.written() == blocks_of(site.disk_data)[: sum(counts)]


def test_a_paced_copy_has_no_runs(site: Site) -> None:
    site.copy_bytes_per_second = 1 << 40
    with runs_of(100_000), runs_counted() as counts:
        good(site.copy(block_to_stream(BLOCK, BLOCKS)))
    assert counts == []
    assert site.written() == blocks_of(site.disk_data)


# ---- transfers that are no blocks ------------------------------------------------------------------------------------


def test_transfers_of_several_blocks_have_no_runs(site: Site) -> None:
    tape = site.tape_descriptor(fixed=True, block_length=512)
    with runs_of(100_000), runs_counted() as counts:
        good(site.copy(block_to_stream(32, BLOCKS), cscds=[site.disk_descriptor(), tape]))
        site.tape.loaded.rewind()
        good(site.copy(stream_to_block(32, BLOCKS), cscds=[site.disk_descriptor(), tape]))
    assert counts == []
    assert b"".join(site.written()) == disk_content(site) == site.disk_data


# ---- the disk's file -------------------------------------------------------------------------------------------------


def added(site: Site, disk: BlockDevice) -> BlockDevice:
    """One more disk, which is ready."""
    site.add(disk)
    disk.nexus_established(ALPHA)
    while disk.take_unit_attention(ALPHA):
        pass
    return disk


def copied_from_sparse(site: Site, data: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """A copy of a disk that holds only that much; returns the ranges of its file that runs were made of."""
    site.disk.medium.deallocate(0, DISK_BYTES)
    for offset, size in data:
        site.disk.medium.write(site.disk_data[offset : offset + size], offset)
    ranges: list[tuple[int, int]] = []
    append_file = TapePartition.append_file

    def watched(partition: TapePartition, run: FileRun) -> int:
        ranges.append((run.offset, run.offset + run.blocks * run.block_length))
        return append_file(partition, run)

    with runs_of(50_000, chunk_bytes=BLOCK), patch.object(TapePartition, "append_file", watched):
        good(site.copy(block_to_stream(length, BLOCKS)))
    return ranges


@pytest.mark.parametrize("length", [512, BLOCK])
def test_holes_are_not_read(site: Site, length: int) -> None:
    data = [(65536, 400_000 // 4096 * 4096), (655_360, 65536), (1 << 20, 500_000 // 4096 * 4096)]
    if list(site.disk.medium.extents(0, DISK_BYTES)) and not site.disk.medium.can_deallocate:
        pytest.skip("this file system does not tell holes")
    before = disk_content(site)
    ranges = copied_from_sparse(site, data, length)
    assert len(ranges) > 2
    for start, end in ranges:
        assert any(offset <= start and end <= offset + size for offset, size in data), (start, end)
    after = bytearray(DISK_BYTES)
    for offset, size in data:
        after[offset : offset + size] = before[offset : offset + size]
    assert b"".join(site.written()) == after == disk_content(site)
    extents = [e for e in site.disk.medium.extents(0, DISK_BYTES) if e.state is Provisioning.MAPPED]
    assert [(extent.offset, extent.length) for extent in extents] == data


def test_an_instant_is_copied_without_runs(site: Site) -> None:
    snapshots = SnapshotSet.take([site.disk.medium], MemoryChunks(4 << 20), hold=held_still([site.disk]))
    image = SnapshotImage(snapshots.snapshots[0])
    view = added(site, BlockDevice(Identity("TAPEBAY", "SNAPSHOT", "0001", "S"), image))
    site.disk.medium.write(b"later" * 1000, 500_000)
    cscds = [copy.identification_descriptor(view.identity.naa, device_type=0), site.tape_descriptor()]
    with runs_of(100_000), runs_counted() as counts:
        good(site.copy(block_to_stream(BLOCK, BLOCKS), cscds=cscds))
    assert not any(counts)
    assert b"".join(site.written()) == site.disk_data
    snapshots.release()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device."""
    DiskImage.create(tmp_path / "backing", DISK_BYTES + 4096).close()
    path = losetup("--find", "--show", tmp_path / "backing")
    yield Path(path)
    losetup("--detach", path)


def test_a_disk_that_is_a_block_device(device: Path, site: Site) -> None:
    disk = added(site, BlockDevice(Identity("TAPEBAY", "DISK", "0001", "loop"), DiskImage.open(device)))
    data = content(DISK_BYTES, 5)
    cscds = [copy.identification_descriptor(disk.identity.naa, device_type=0), site.tape_descriptor()]
    site.fill(blocks_of(data))
    with runs_of(100_000):  # where the device can tell what is in memory
        good(site.copy(stream_to_block(BLOCK, BLOCKS, 8), cscds=cscds))
        good(site.copy(block_to_stream(BLOCK, BLOCKS, 8), cscds=cscds))
    assert site.written() == blocks_of(data) * 2


def test_a_run_and_a_command_of_another_do_not_touch_the_cartridge_together(site: Site) -> None:
    """The unit's lock is held, as for a WRITE(6)."""
    free: list[bool] = []
    write_file = Cartridge.write_file

    def looked_at(cartridge: Cartridge, run: FileRun) -> int:
        other = threading.Thread(target=lambda: free.append(site.tape.lock.acquire(blocking=False)))
        other.start()
        other.join(60)
        return write_file(cartridge, run)

    with runs_of(100_000), patch.object(Cartridge, "write_file", looked_at):
        good(site.copy(block_to_stream(BLOCK, BLOCKS)))
    assert free
    assert not any(free)


def test_with_the_lengths_of_every_day(site: Site) -> None:
    """There and back, of tens of megabytes."""
    data = random.Random(5).randbytes(20 << 20)
    there, back = (added(site, make_disk(site.directory, name=name, blocks=len(data) // 512)) for name in "tb")
    there.medium.write(data, 0)
    tape = site.tape_descriptor()
    cscds = [[copy.identification_descriptor(disk.identity.naa, device_type=0), tape] for disk in (there, back)]
    with runs_counted() as counts:
        good(site.copy(block_to_stream(65536, len(data) // 512), cscds=cscds[0]))
        site.tape.loaded.rewind()
        good(site.copy(stream_to_block(65536, len(data) // 512), cscds=cscds[1]))
    assert sum(counts) > len(data) // 65536 // 2
    found = bytearray(len(data))
    back.medium.read_into(found, 0)
    assert found == data
