"""Long runs of blocks between a disk's file and a tape: they happen, and nobody can tell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from datamover.run_length import RunLength
from scsi_targets.devices.disk.instant import held_still
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import spc
from tests.support.storage import needs_fiemap
from tests.unit.datamover.runs import NEVER, runs_counted, runs_of
from tests.unit.devices.copying.outcome import outcome
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream, content, stream_to_block
from tests.unit.devices.copying.test_access import protected
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, code_of, failure
from tests.unit.devices.copying.test_participants import RESET
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.disk.test_read_write import select_caching
from tests.unit.devices.support import ALPHA, BETA, send
from tests.unit.devices.tape.encryption_support import set_encryption
from tests.unit.devices.tape.protection_support import CRC32C, protect
from tests.unit.devices.tape.support import good, make_cartridge, position, set_block_length
from tests.unit.devices.tape.test_compression import compress
from tests.unit.devices.tape.test_early_warning import select_extension
from tests.unit.devices.tape.test_mode import append_only
from vlib_images.cartridge.codec import Encoder, Encryption, EncryptionKey
from vlib_images.disk.changes import ChangeMap
from vlib_images.disk.image import Provisioning
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot_set import SnapshotSet
from vlib_images.disk.snapshot_store import MemoryChunks
from vlib_images.disk.watchers import watch

BLOCK = 16384
DISK_BYTES = BLOCKS * 512
WHOLE = DISK_BYTES // BLOCK
SHORT = {"shortest_bytes": 100_000, "chunk_bytes": BLOCK}


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


def with_other_blocks(site: Site, encoder: Encoder, number: int) -> None:
    """A tape of plain blocks, one of them encoded."""
    cartridge = site.tape.loaded
    for at, block in enumerate(blocks_of(content(DISK_BYTES, 5))):
        cartridge.encoder = encoder if at == number else None
        cartridge.write_block(block)
    cartridge.encoder = None
    cartridge.rewind()


def with_early_warning(room_bytes: int) -> Prepare:
    def prepare(site: Site) -> None:
        site.tape.loaded.early_warning_bytes = 40_000_000 - room_bytes

    return prepare


def with_capacity(capacity_bytes: int) -> Prepare:
    def prepare(site: Site) -> None:
        site.tape.loaded.early_warning_bytes = 0
        site.tape.loaded.capacity_bytes = capacity_bytes

    return prepare


def with_worm(site: Site) -> None:
    site.tape.unload().close()
    site.cartridges[0] = make_cartridge(site.directory, "TAP003L8", capacity_bytes=40_000_000, worm=True)
    site.tape.load(site.cartridges[0])
    while site.tape.take_unit_attention(ALPHA):
        pass
    site.tape.loaded.write_block(b"nobody writes over this")


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


KEY = EncryptionKey(bytes(range(32)))
# How a drive or disk is prepared, and whether there are runs then.
TO_TAPE: dict[str, tuple[Prepare, bool]] = {
    "nothing special": (lambda site: None, True),
    "the write cache is off": (lambda site: select_caching(site.disk, 0), True),
    "logical block protection": (lambda site: protect(site.tape, CRC32C), True),
    "WORM": (with_worm, True),
    "in the middle": (in_the_middle, True),
    "early warning comes": (with_early_warning(1_500_000), True),
    "early warning was before": (with_early_warning(0), False),
    "the partition ends": (with_capacity(1_500_000), True),
    "compression": (lambda site: good(compress(site.tape)), False),
    "encryption": (lambda site: good(set_encryption(site.tape)), False),
    "unbuffered": (lambda site: good(set_block_length(site.tape, 0, buffered=0)), False),
    "append only, behind": (beyond_what_must_stay, False),
    "append only, in the middle": (in_what_must_stay, False),
    "programmable early warning": (lambda site: good(select_extension(site.tape, warning_megabytes=39)), False),
    "write protected": (lambda site: protected(site, site.tape), False),
}
FROM_TAPE: dict[str, tuple[Prepare, bool]] = {
    "nothing special": (lambda site: None, True),
    "logical block protection": (lambda site: protect(site.tape, CRC32C), True),
    "a compressed block": (lambda site: with_other_blocks(site, Encoder(1), 77), True),
    "an encrypted block": (lambda site: with_other_blocks(site, Encoder(None, Encryption(KEY)), 77), True),
    "decryption": (lambda site: good(set_encryption(site.tape, encryption=0)), False),
    "the write cache is off": (lambda site: select_caching(site.disk, 0), False),
    "write protected": (lambda site: protected(site, site.disk), False),
}


def ended(directory: Path, prepare: Prepare, segment: bytes, blocks: list[bytes], **how: int) -> dict[str, object]:
    """What comes of a copy; the site is closed."""
    directory.mkdir()
    site = Site(directory)
    try:
        site.fill(blocks)
        prepare(site)
        with runs_of(**how):
            return outcome(site, site.copy(segment, list_identifier=3))
    finally:
        site.close()


def compare(directory: Path, prepare: Prepare, segment: bytes, blocks: list[bytes]) -> dict[str, list[int]]:
    """Runs and no runs end alike; returns the runs."""
    with runs_counted() as counts:
        runs = ended(directory / "runs", prepare, segment, blocks, **SHORT)
    with runs_counted() as none:
        ordinary = ended(directory / "ordinary", prepare, segment, blocks, **SHORT | {"shortest_bytes": NEVER})
    assert none == {"append_file": [], "read_file": []}
    for name, found in runs.items():
        assert found == ordinary[name], name
    return counts


@pytest.mark.parametrize("state", TO_TAPE)
def test_to_a_tape(tmp_path: Path, state: str) -> None:
    prepare, runs = TO_TAPE[state]
    counts = compare(tmp_path, prepare, block_to_stream(BLOCK, BLOCKS), [])
    assert (sum(counts["append_file"]) > 50) == runs
    assert any(counts["append_file"]) == runs


@pytest.mark.parametrize("state", FROM_TAPE)
def test_from_a_tape(tmp_path: Path, state: str) -> None:
    prepare, runs = FROM_TAPE[state]
    counts = compare(tmp_path, prepare, stream_to_block(BLOCK, BLOCKS), blocks_of(content(DISK_BYTES, 5)))
    assert (sum(counts["read_file"]) > 50) == runs
    assert any(counts["read_file"]) == runs
