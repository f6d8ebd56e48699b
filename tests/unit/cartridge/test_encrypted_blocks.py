"""Where a partition is encrypted, against a plain list of what was written."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cartridge.format_reader import crc32c, manifest_entries
from tests.unit.cartridge.test_format import GOLDEN, KEY
from vlib_images.cartridge import encrypted_blocks
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Encoder, Encryption, EncryptionKey
from vlib_images.cartridge.encrypted_blocks import EncryptedBlocks
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.cartridge.verify import verify

Make = Callable[..., Cartridge]
SECRET = Encoder(None, Encryption(EncryptionKey(KEY)))
SMALL = SegmentLimits(segment_bytes=1 << 14, segment_objects=24)
CLEAR, ENCRYPTED, FILEMARK = range(3)


def expected(written: list[int]) -> EncryptedBlocks:
    first = written.index(ENCRYPTED) if ENCRYPTED in written else None
    clear = None if first is None or CLEAR not in written[first:] else written.index(CLEAR, first)
    return EncryptedBlocks(first, clear)


def kinds(cartridge: Cartridge, partition: int) -> list[int]:
    """By the status of each block."""
    found = []
    for number in range(cartridge.end_of_data(partition)):
        cartridge.locate_block(partition, number)
        status = cartridge.next_block_status()
        found.append(FILEMARK if status is None else ENCRYPTED if status.encrypted else CLEAR)
    return found


def write(cartridge: Cartridge, kind: int, count: int) -> None:
    cartridge.encoder = SECRET if kind == ENCRYPTED else None
    if kind == FILEMARK:
        cartridge.write_filemarks(count)
    else:
        cartridge.write_blocks(bytes(64 * count), 64)


def crashed(cartridge_directory: Path, copy: Path) -> Cartridge:
    """What a kill would leave of a cartridge that is open: its files, all written but not closed."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(cartridge_directory, copy)
    return Cartridge.open(copy, limits=SMALL)


@pytest.mark.parametrize("seed", range(20))
def test_random_writing_overwriting_reopening_and_crashing(make: Make, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    directory = tmp_path / "T00001L8"
    partitions: list[list[int]] = [[], []]
    cartridge = make(limits=SMALL, partitions=2)
    for _ in range(120):
        number = rng.randrange(2)
        written = partitions[number]
        at = len(written) if rng.random() < 0.8 else rng.randrange(len(written) + 1)
        cartridge.locate_block(number, at)
        kind, count = rng.choices((CLEAR, ENCRYPTED, FILEMARK), (1, 3, 2))[0], rng.randrange(1, 9)
        write(cartridge, kind, count)
        written[at:] = [kind] * count
        if rng.random() < 0.2:
            cartridge.synchronize()
        if rng.random() < 0.1:
            cartridge.close()
            cartridge = Cartridge.open(directory, limits=SMALL)
        assert [cartridge.encrypted_blocks(n) for n in range(2)] == [expected(each) for each in partitions]
        if rng.random() < 0.1:
            with crashed(directory, tmp_path / "crashed") as survivor:
                for n in range(2):  # an earlier state, perhaps
                    assert survivor.encrypted_blocks(n) == expected(kinds(survivor, n))
    cartridge.close()


def test_nothing_is_looked_up_in_a_cartridge_that_was_closed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(limits=SMALL) as cartridge:
        for kind in (CLEAR, ENCRYPTED, FILEMARK, ENCRYPTED, CLEAR):
            write(cartridge, kind, 20)
        directory = cartridge.storage.files.path
    monkeypatch.setattr(encrypted_blocks, "_look_up", lambda *_: pytest.fail("the log was searched"))
    with Cartridge.open(directory, limits=SMALL) as cartridge:
        assert cartridge.encrypted_blocks(0) == EncryptedBlocks(20, 80)


def forget(partition: Path) -> None:
    """Make a manifest as versions wrote it that did not keep these fields: they had zeros there."""
    data = bytearray((partition / "manifest").read_bytes())
    for number in range(len(manifest_entries(bytes(data)))):
        data[64 + 64 * number + 56 : 64 + 64 * number + 64] = bytes(8)
    data[-4:] = crc32c(bytes(data[:-4])).to_bytes(4, "little")
    (partition / "manifest").write_bytes(data)


def test_a_cartridge_of_an_earlier_version_is_searched_little_by_little(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(limits=SMALL) as cartridge:
        write(cartridge, CLEAR, 100)
        write(cartridge, ENCRYPTED, 30)
        write(cartridge, CLEAR, 1)
        directory = cartridge.storage.files.path
    forget(directory / "p0")
    monkeypatch.setattr(encrypted_blocks, "LOOKUP_OBJECTS", 30)
    with Cartridge.open(directory, limits=SMALL) as cartridge:
        answers = [cartridge.encrypted_blocks(0) for _ in range(4)]
    assert answers == [None, None, EncryptedBlocks(100, 130), EncryptedBlocks(100, 130)]


def test_what_cannot_be_read_is_not_known(make: Make) -> None:
    with make(limits=SMALL) as cartridge:
        write(cartridge, ENCRYPTED, 30)
        directory = cartridge.storage.files.path
    forget(directory / "p0")
    (directory / "p0" / "00000001.seg").unlink()
    with Cartridge.open(directory, limits=SMALL) as cartridge:
        assert cartridge.encrypted_blocks(0) is None


def test_the_golden_image(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "T")
    with Cartridge.open(tmp_path / "T") as cartridge:
        assert cartridge.encrypted_blocks(0) == EncryptedBlocks(22, None)
        assert cartridge.encrypted_blocks(1) == EncryptedBlocks(None, None)
    assert not verify(tmp_path / "T").damages
