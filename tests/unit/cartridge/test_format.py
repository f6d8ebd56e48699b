"""The format is what FORMAT.md says, and what version 1 wrote is read for ever."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.documents import write_document
from tests.unit.cartridge.conftest import contents
from tests.unit.cartridge.format_reader import document, read_partition
from vlib_images.cartridge import encrypted_blocks
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import (
    Decryption,
    DecryptionMode,
    Encoder,
    Encryption,
    EncryptionKey,
    EncryptionStatus,
    Origin,
)
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import CartridgeDamaged, NotACartridge, RawReadRefused

GOLDEN = Path(__file__).parents[2] / "vectors" / "cartridge-v1"
KEY = bytes(range(32))
Make = Callable[..., Cartridge]
State = list[bytes | None]


def golden_block(number: int, length: int) -> bytes:
    return bytes((number * 37 + index * 7) & 0xFF for index in range(length))


GOLDEN_CONTENTS: list[State] = [
    [
        *(golden_block(number, 1000 + number) for number in range(18)),
        b"replaced",
        None,
        None,
        b"compressed " * 500,
        b"encrypted",
        b"both " * 500,
        None,
    ],
    [golden_block(99, 4096)[at : at + 512] for at in range(0, 4096, 512)],
]


def test_the_golden_image_of_version_1(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "T")
    for read_only in (True, False):
        with Cartridge.open(tmp_path / "T", read_only=read_only) as cartridge:
            assert all(report.clean for report in cartridge.storage.recovery)
            cartridge.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(KEY))
            assert [contents(cartridge, number) for number in range(2)] == GOLDEN_CONTENTS
            cartridge.locate_block(0, 22)
            assert cartridge.next_block_status() == EncryptionStatus(True, b"golden a-kad", b"golden u-kad")
            assert (cartridge.barcode, cartridge.medium.name) == ("GOLD01L8", "LTO-8")
            assert cartridge.partition_capacity_bytes(1) == 16 << 20
            barcode = cartridge.mam.get(0x0806)
            assert barcode is not None
            assert barcode.value == b"GOLD01L8".ljust(32)
            assert (cartridge.usage.loads, cartridge.usage.blocks_written) == (1, 32)


def test_the_golden_image_without_its_indexes(tmp_path: Path) -> None:
    """The log says it all."""
    shutil.copytree(GOLDEN, tmp_path / "T")
    for path in (tmp_path / "T").rglob("*.idx"):
        path.unlink()
    sealed = tmp_path / "T" / "p0" / "00000001.seg"
    tables = sealed.stat().st_size - 64 - 4096
    sealed.write_bytes(sealed.read_bytes()[:tables])
    with Cartridge.open(tmp_path / "T") as cartridge:
        cartridge.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(KEY))
        assert [contents(cartridge, number) for number in range(2)] == GOLDEN_CONTENTS


def test_the_golden_image_by_an_independent_reader() -> None:
    identity = document(GOLDEN / "cartridge.json")
    document(GOLDEN / "mam.json")
    document(GOLDEN / "usage.json")
    uuid = bytes.fromhex(identity["uuid"])
    found = [read_partition(GOLDEN / f"p{number}", uuid, number, KEY) for number in range(2)]
    assert found == GOLDEN_CONTENTS


ENCRYPTION_GOLDEN = GOLDEN.with_name("cartridge-v1-encryption")
ENCRYPTION_CONTENTS: State = [
    b"in clear", None, b"named by ASCII", b"not to be read raw " * 50, None, b"to be copied", b"to be copied",
    b"in clear again", None,
]  # fmt: skip
ENCRYPTION_STATUSES = [
    EncryptionStatus(False),
    None,
    EncryptionStatus(True, b"golden a-kad", b"golden key name", kad_format=2),
    EncryptionStatus(True, raw_read_disabled=True),
    None,
    EncryptionStatus(True, b"\x01\x02", kad_format=1),
    EncryptionStatus(True, b"\x01\x02", origin=Origin.EXTERNAL, kad_format=1),
    EncryptionStatus(False),
    None,
]


def test_the_golden_image_with_all_that_encryption_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ENCRYPTION_GOLDEN, tmp_path / "T")
    monkeypatch.setattr(encrypted_blocks, "_look_up", lambda *_: pytest.fail("the log was searched"))
    with Cartridge.open(tmp_path / "T", read_only=True) as cartridge:
        cartridge.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(KEY))
        assert contents(cartridge) == ENCRYPTION_CONTENTS
        statuses = []
        for number in range(9):
            cartridge.locate_block(0, number)
            statuses.append(cartridge.next_block_status())
        assert statuses == ENCRYPTION_STATUSES
        assert cartridge.encrypted_blocks(0) == (2, 7)
        cartridge.decryption = Decryption(DecryptionMode.RAW)
        cartridge.locate_block(0, 3)
        with pytest.raises(RawReadRefused):
            cartridge.read_block(bytearray(4096))


def test_the_golden_image_of_encryption_by_an_independent_reader() -> None:
    uuid = bytes.fromhex(document(ENCRYPTION_GOLDEN / "cartridge.json")["uuid"])
    assert read_partition(ENCRYPTION_GOLDEN / "p0", uuid, 0, KEY) == ENCRYPTION_CONTENTS


@pytest.mark.parametrize("seed", range(8))
def test_what_is_written_today_by_an_independent_reader(make: Make, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    encoders = [None, Encoder(1), Encoder(None, Encryption(EncryptionKey(KEY), b"a", b"u"))]
    with make(limits=SegmentLimits(segment_bytes=1 << 15, segment_objects=50)) as cartridge:
        for _ in range(60):
            cartridge.encoder = rng.choice(encoders)
            for _ in range(rng.randrange(8)):
                cartridge.write_block(rng.choice([rng.randbytes, bytes])(rng.randrange(1, 3000)))
            cartridge.write_filemarks(rng.randrange(3))
            if rng.random() < 0.4:
                cartridge.synchronize()
            if rng.random() < 0.2:
                cartridge.locate_block(0, rng.randrange(cartridge.end_of_data(0) + 1))
        cartridge.write_block(b"the end")
        cartridge.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(KEY))
        expected = contents(cartridge)
        uuid = bytes.fromhex(cartridge.uuid)
    assert read_partition(tmp_path / "T00001L8" / "p0", uuid, 0, KEY) == expected


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "T")
    identity = document(GOLDEN / "cartridge.json")
    write_document(tmp_path / "T" / "cartridge.json", {**identity, "format_version": 2})
    with pytest.raises(NotACartridge, match="format version 2"):
        Cartridge.open(tmp_path / "T")


def test_the_worm_mark_cannot_be_taken_off_in_one_place(make: Make, tmp_path: Path) -> None:
    make(worm=True).close()
    identity = document(tmp_path / "T00001L8" / "cartridge.json")
    write_document(tmp_path / "T00001L8" / "cartridge.json", {**identity, "worm": False})
    with pytest.raises(CartridgeDamaged, match="WORM"):
        Cartridge.open(tmp_path / "T00001L8")


def test_a_copy_of_a_segment_on_its_own_tape_is_only_data(make: Make, tmp_path: Path) -> None:
    """A library that is backed up to itself: the copy's records must not be taken for records when a scan searches."""
    with make() as cartridge:
        for number in range(10):
            cartridge.write_block(bytes([number]) * 100)
        cartridge.synchronize()
        copy = (tmp_path / "T00001L8" / "p0" / "00000001.seg").read_bytes()
        for shift in range(8):  # wherever it comes to lie
            cartridge.write_block(bytes(shift) + copy)
        cartridge.write_block(b"after")
        expected = contents(cartridge)
    segment = tmp_path / "T00001L8" / "p0" / "00000001.seg"
    content = bytearray(segment.read_bytes())
    at = content.index(copy[128:], 200) - 32 - 128  # the header of the first block that holds a copy
    content[at + 9] ^= 1
    segment.write_bytes(content)
    (tmp_path / "T00001L8" / "p0" / "00000001.idx").unlink()
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        assert [report.damaged_blocks for report in cartridge.storage.recovery] == [1]
        cartridge.locate_block(0, 11)
        into = bytearray(10_000)
        found = [bytes(into[: cartridge.read_block(into).length]) for _ in range(11, 19)]
        assert found == expected[11:]
