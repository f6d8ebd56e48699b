"""Files changed behind our back: a flipped bit, a shortened file, a missing one. What is damaged says so, at its place;
everything else reads; nothing wrong or stale is ever read.

TAPEBAY_EXHAUSTIVE=1 in the environment tries every offset; the default is a sample.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datamover.engine import crc32c
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import CartridgeDamaged, CartridgeError, DamagedBlock, NotACartridge

LIMITS = SegmentLimits(segment_bytes=4096, segment_objects=1000)
State = list[bytes | None]
DAMAGED = b"damaged"
STRIDE = 1 if os.environ.get("TAPEBAY_EXHAUSTIVE") else 41


def fill(cartridge: Cartridge) -> State:
    """Blocks, filemarks, sync marks and truncations over three segments; returns what is on the tape at the end."""
    expected: State = []
    for number in range(30):
        block = bytes([number]) * (number * 20 + 1)
        cartridge.write_block(block)
        expected.append(block)
        if number % 7 == 3:
            cartridge.write_filemarks(2)
            cartridge.synchronize()
            cartridge.space_blocks(-1)  # over one of the filemarks, which the next block replaces
            expected.append(None)
    return expected


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    directory = tmp_path_factory.mktemp("original") / "T"
    with Cartridge.create(
        directory, barcode="T00001L8", medium=MEDIA["LTO-8"], capacity_bytes=1 << 20, limits=LIMITS
    ) as cartridge:
        expected = fill(cartridge)
    assert len(list((directory / "p0").glob("*.seg"))) == 3
    return directory, expected


def read_what_reads(directory: Path) -> State:
    """Every object, DAMAGED where it cannot be read."""
    into = bytearray(1000)
    found: State = []
    with Cartridge.open(directory, read_only=True, limits=LIMITS) as cartridge:
        for number in range(cartridge.end_of_data(0)):
            assert cartridge.position == (0, number)
            try:
                result = cartridge.read_block(into)
                found.append(bytes(into[: result.length]) if result.kind.name == "BLOCK" else None)
            except DamagedBlock as error:
                assert (error.partition, error.block) == (0, number)
                found.append(DAMAGED)
    return found


def check_with(change: Callable[[Path], None], original: tuple[Path, State], copy: Path, name: str, most: int) -> None:
    """Whatever happened to one file: at most so many objects are damaged, and all others are right."""
    directory, expected = original
    if copy.exists():
        shutil.copy(directory / "p0" / name, copy / "p0" / name)
    else:
        shutil.copytree(directory, copy)
    change(copy / "p0" / name)
    found = read_what_reads(copy)
    shutil.copy(directory / "p0" / name, copy / "p0" / name)
    assert len(found) == len(expected)
    assert all(a in (b, DAMAGED) for a, b in zip(found, expected, strict=True)), name
    assert found.count(DAMAGED) <= most, name


def flip(path: Path, offset: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["00000001.seg", "00000002.seg", "00000003.seg", "00000003.idx"])
def test_a_flipped_bit_damages_one_block_at_most(name: str, original: tuple[Path, State], tmp_path: Path) -> None:
    size = (original[0] / "p0" / name).stat().st_size
    for offset in range(0, size, STRIDE):
        check_with(lambda path, offset=offset: flip(path, offset, offset % 8), original, tmp_path / "T", name, 1)


def test_a_flipped_bit_in_an_unsealed_segment_without_checkpoint(original: tuple[Path, State], tmp_path: Path) -> None:
    """The log must be scanned: what is damaged before the last sync mark does not end it."""
    directory, expected = original
    segment = tmp_path / "T" / "p0" / "00000003.seg"
    shutil.copytree(directory, tmp_path / "T")
    (tmp_path / "T" / "p0" / "00000003.idx").unlink()
    whole = segment.read_bytes()
    for offset in range(0, len(whole), STRIDE):
        flip(segment, offset, offset % 8)
        found = read_what_reads(tmp_path / "T")
        segment.write_bytes(whole)
        assert len(found) == len(expected), offset
        assert all(a in (b, DAMAGED) for a, b in zip(found, expected, strict=True)), offset
        # A damaged TRUNCATE record makes its neighbourhood doubtful; anything else damages one block.
        assert found.count(DAMAGED) <= 2, offset


def shorten(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize("name", ["00000001.seg", "00000003.seg", "00000003.idx"])
def test_a_shortened_file_damages_only_what_was_there(name: str, original: tuple[Path, State], tmp_path: Path) -> None:
    size = (original[0] / "p0" / name).stat().st_size
    for length in range(0, size, STRIDE):
        check_with(lambda path, length=length: shorten(path, length), original, tmp_path / "T", name, 40)


def test_a_shortened_unsealed_segment_without_checkpoint(original: tuple[Path, State], tmp_path: Path) -> None:
    """The manifest remembers how far the log had got when the cartridge was closed."""
    directory, expected = original
    segment = tmp_path / "T" / "p0" / "00000003.seg"
    shutil.copytree(directory, tmp_path / "T")
    (tmp_path / "T" / "p0" / "00000003.idx").unlink()
    whole = segment.read_bytes()
    for length in range(0, len(whole), STRIDE):
        shorten(segment, length)
        found = read_what_reads(tmp_path / "T")
        segment.write_bytes(whole)
        assert len(found) == len(expected), length
        assert all(a in (b, DAMAGED) for a, b in zip(found, expected, strict=True)), length


def test_a_missing_sealed_segment_damages_its_blocks(original: tuple[Path, State], tmp_path: Path) -> None:
    check_with(Path.unlink, original, tmp_path / "T", "00000002.seg", 20)


def test_a_missing_unsealed_segment_is_told(original: tuple[Path, State], tmp_path: Path) -> None:
    shutil.copytree(original[0], tmp_path / "T")
    (tmp_path / "T" / "p0" / "00000003.seg").unlink()
    with pytest.raises(CartridgeDamaged, match=r"00000003\.seg is missing"):
        Cartridge.open(tmp_path / "T", limits=LIMITS)


@pytest.mark.parametrize("name", ["cartridge.json", "mam.json", "usage.json", "p0/manifest"])
def test_a_flipped_bit_in_a_describing_file_is_told(name: str, original: tuple[Path, State], tmp_path: Path) -> None:
    directory = original[0]
    shutil.copytree(directory, tmp_path / "T")
    whole = (directory / name).read_bytes()
    for offset in range(0, len(whole), STRIDE):
        flip(tmp_path / "T" / name, offset, offset % 7)
        try:
            with Cartridge.open(tmp_path / "T", read_only=True, limits=LIMITS) as cartridge:
                # What JSON allows to differ: blanks, and the case of a hexadecimal digit.
                assert name != "p0/manifest"
                assert cartridge.barcode == "T00001L8"
        except (CartridgeDamaged, NotACartridge):
            pass
        (tmp_path / "T" / name).write_bytes(whole)


def test_writing_goes_on_behind_damage(original: tuple[Path, State], tmp_path: Path) -> None:
    directory, expected = original
    shutil.copytree(directory, tmp_path / "T")
    flip(tmp_path / "T" / "p0" / "00000003.seg", 150, 0)
    (tmp_path / "T" / "p0" / "00000003.idx").unlink()
    with Cartridge.open(tmp_path / "T", limits=LIMITS) as cartridge:
        assert [report.damaged_blocks for report in cartridge.storage.recovery] == [1]
        cartridge.space_end_of_data()
        cartridge.write_block(b"new")
    found = read_what_reads(tmp_path / "T")
    assert len(found) == len(expected) + 1
    assert found.count(DAMAGED) == 1
    assert found[-1] == b"new"


def test_a_vanished_directory_is_a_clear_error(original: tuple[Path, State], tmp_path: Path) -> None:
    shutil.copytree(original[0], tmp_path / "T")
    with Cartridge.open(tmp_path / "T", limits=LIMITS) as cartridge:
        cartridge.space_end_of_data()
        shutil.rmtree(tmp_path / "T")
        with pytest.raises(CartridgeError, match="No such file"):
            for _ in range(20):
                cartridge.write_block(bytes(1000))
            cartridge.synchronize()
        with pytest.raises(CartridgeError):
            cartridge.close()


def test_a_file_of_somebody_else_is_left_alone(original: tuple[Path, State], tmp_path: Path) -> None:
    shutil.copytree(original[0], tmp_path / "T")
    strangers = [tmp_path / "T" / "p0" / name for name in ("notes.seg", "7.seg", "00000009.seg~")]
    for stranger in strangers:
        stranger.write_bytes(b"not ours")
    with Cartridge.open(tmp_path / "T", limits=LIMITS) as cartridge:
        assert cartridge.storage.recovery[0].clean
    assert all(stranger.exists() for stranger in strangers)
    assert read_what_reads(tmp_path / "T") == original[1]


@pytest.mark.parametrize("name", ["cartridge.json", "lock", "mam.json", "usage.json", "p0/manifest"])
@pytest.mark.parametrize("kind", ["directory", "loop"])
def test_something_else_under_the_name_of_a_file_is_a_clear_error(
    name: str, kind: str, original: tuple[Path, State], tmp_path: Path
) -> None:
    shutil.copytree(original[0], tmp_path / "T")
    path = tmp_path / "T" / name
    path.unlink()
    if kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    with pytest.raises(CartridgeError, match=re.escape(str(path))):
        Cartridge.open(tmp_path / "T")


@pytest.mark.parametrize("content", ['{"crc32c": "%08x", "content": []}', "[" * 100_000, "7", ""])
def test_documents_that_are_json_of_another_shape(content: str, original: tuple[Path, State], tmp_path: Path) -> None:
    shutil.copytree(original[0], tmp_path / "T")
    body = content % crc32c(b"[]") if "%" in content else content
    for name in ("mam.json", "usage.json"):
        (tmp_path / "T" / name).write_text(body)
    assert read_what_reads(tmp_path / "T") == original[1]
    (tmp_path / "T" / "cartridge.json").write_text(body)
    with pytest.raises(CartridgeDamaged, match=r"cartridge\.json"):
        Cartridge.open(tmp_path / "T")


@pytest.mark.parametrize("form", ["compressed", "encrypted", "both"])
def test_a_flipped_bit_in_an_encoded_block(form: str, tmp_path: Path) -> None:
    """Header, extension, payload, padding, tag: that block is damaged, no other, and nothing wrong is read."""
    encryption = None if form == "compressed" else Encryption(EncryptionKey(bytes(32)), b"a-kad", b"u-kad")
    expected: State = [bytes(range(200)) * 2, b"x" * 1000, b"odd" * 7]
    with Cartridge.create(tmp_path / "T", barcode="T00001L8", medium=MEDIA["LTO-8"]) as cartridge:
        cartridge.encoder = Encoder(None if form == "encrypted" else 1, encryption)
        for block in expected:
            assert block is not None
            cartridge.write_block(block)
    segment = tmp_path / "T" / "p0" / "00000001.seg"
    whole = segment.read_bytes()
    for offset in range(0, len(whole), 1 if STRIDE == 1 else 7):
        flip(segment, offset, offset % 8)
        found: State = []
        with Cartridge.open(tmp_path / "T", read_only=True) as cartridge:
            cartridge.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(bytes(32)))
            into = bytearray(2000)
            for _ in range(cartridge.end_of_data(0)):
                try:
                    found.append(bytes(into[: cartridge.read_block(into).length]))
                except DamagedBlock:
                    found.append(DAMAGED)
        segment.write_bytes(whole)
        assert len(found) == len(expected), offset
        assert all(a in (b, DAMAGED) for a, b in zip(found, expected, strict=True)), offset
        assert found.count(DAMAGED) <= 1, offset


@pytest.mark.parametrize("name", ["cartridge.json", "mam.json", "usage.json", "p0/manifest", "lock"])
def test_a_shortened_describing_file_is_told(name: str, original: tuple[Path, State], tmp_path: Path) -> None:
    """What only describes the use of the cartridge is no reason to keep its data from anyone."""
    shutil.copytree(original[0], tmp_path / "T")
    whole = (tmp_path / "T" / name).read_bytes()
    for length in [*range(0, max(1, len(whole) - 1), STRIDE), max(0, len(whole) - 2)]:
        shorten(tmp_path / "T" / name, length)
        if name in ("cartridge.json", "p0/manifest"):
            with pytest.raises((CartridgeDamaged, NotACartridge)):
                Cartridge.open(tmp_path / "T", read_only=True)
        else:
            assert read_what_reads(tmp_path / "T") == original[1]
        (tmp_path / "T" / name).write_bytes(whole)
