"""A cartridge from elsewhere says how large its blocks, lists and files are: memory is spent on what can be."""

import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import (
    Decryption,
    DecryptionMode,
    Encoder,
    Encryption,
    EncryptionKey,
    Form,
    Origin,
    RawEncoder,
    StoredBlock,
    UndecodableBlock,
    decompress,
)
from vlib_images.cartridge.manifest import Manifest
from vlib_images.cartridge.salvage import salvage
from vlib_images.cartridge.segments import SegmentHeader
from vlib_images.cartridge.verify import verify
from vlib_images.errors import CartridgeDamaged, DamagedBlock
from vlib_images.interchange import InterchangeError, export_tape, import_tape

Make = Callable[..., Cartridge]
GIB = 1 << 30


def frame(claimed: int, content: bytes = b"x") -> bytes:
    """A zstd frame that says `claimed` bytes and, if it is allowed to, makes 128 KiB for each of 1000 blocks."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + struct.pack("<Q", claimed)
    repeat = struct.pack("<I", (128 << 10) << 3 | 1 << 1)[:3] + content
    last = struct.pack("<I", 1 << 3 | 1)[:3] + content
    return head + repeat * 1000 + last


def unsized(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


def compressed(payload: bytes, length: int) -> StoredBlock:
    return StoredBlock(payload, length, 0, Form.COMPRESSED)


BOMBS = {
    "500 GiB": compressed(frame(500 * GIB), 1000),
    "1 GiB": compressed(frame(GIB), 1000),
    "more than the header": compressed(frame(1001), 1000),
    "less than the header": compressed(frame(999), 1000),
    "no size, more content": compressed(unsized(bytes(64 << 20)), 1000),
    "an impossible length": compressed(frame(32 << 20), (32 << 20) - 1),
    "the largest length and no size": compressed(unsized(bytes(20 << 20)), (1 << 24) - 1),
    "an empty frame": compressed(zstandard.compress(b""), 1),
    "no frame": compressed(b"no frame at all", 1000),
}


# AddressSanitizer reserves terabytes of addresses for itself: under it only what comes out is looked at.
CAN_LIMIT_MEMORY = "libasan" not in os.environ.get("LD_PRELOAD", "")


@pytest.fixture
def little_memory() -> object:
    """64 MiB more than now: what asks for a gigabyte fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if not CAN_LIMIT_MEMORY:
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.usefixtures("little_memory")
def test_a_compressed_block_makes_no_more_than_its_header_says(bomb: StoredBlock) -> None:
    with pytest.raises(UndecodableBlock):
        decompress(bomb)


@pytest.mark.parametrize("content", [b"y" * 1000, bytes((1 << 24) - 1)])
def test_a_frame_without_a_size_is_decompressed(content: bytes) -> None:
    assert bytes(decompress(compressed(unsized(content), len(content)))) == content


@pytest.mark.parametrize("encrypted", [False, True], ids=["clear", "encrypted"])
def test_bombs_are_damaged_blocks_and_the_others_are_read(make: Make, tmp_path: Path, encrypted: bool) -> None:
    key = EncryptionKey(bytes(range(32)))
    directory = tmp_path / "T00001L8"
    with make() as cartridge:
        for bomb in BOMBS.values():
            cartridge.write_block(b"good")
            if encrypted and bomb.logical_length < 1 << 24:
                bomb = Encoder._encrypt(Encryption(key), memoryview(bomb.payload), bomb.logical_length, Form.COMPRESSED)
            if bomb.logical_length < 1 << 24:  # the engine writes no other
                cartridge.write_stored(bomb)
            cartridge.write_filemarks(1)
        cartridge.rewind()
        cartridge.decryption = Decryption(DecryptionMode.MIXED, key)
        into = bytearray(1 << 16)
        damaged = 0
        while not cartridge.at_eod:
            before = cartridge.position
            try:
                cartridge.read_block(into)
            except DamagedBlock:
                damaged += 1
                assert cartridge.position == (0, before[1] + 1)
        assert damaged == len(BOMBS) - 1
        report = export_tape("directory", cartridge, tmp_path / "out")
        assert (report.blocks, report.left_out) == (len(BOMBS), len(BOMBS) - 1)
    assert verify(directory).objects == 3 * len(BOMBS) - 1
    assert salvage(directory, tmp_path / "T00002L8").blocks == 2 * len(BOMBS) - 1


def test_a_raw_block_that_an_initiator_made_up(make: Make) -> None:
    """RAW blocks are written in EXTERNAL mode as they come: nobody has looked inside."""
    key = EncryptionKey(bytes(32))
    with make() as source, make(barcode="T00002L8") as target:
        for bomb in (frame(500 * GIB), frame(GIB)):
            sealed = Encoder._encrypt(Encryption(key), memoryview(bomb), 1000, Form.COMPRESSED)
            source.write_stored(sealed)
        source.rewind()
        source.decryption = Decryption(DecryptionMode.RAW)
        into = bytearray(1 << 20)
        target.encoder = RawEncoder()
        for _ in range(2):
            target.write_block(into[: source.read_block(into).length])
        target.rewind()
        target.decryption = Decryption(DecryptionMode.MIXED, key, refused=Origin.ENCRYPT)
        for number in range(2):
            with pytest.raises(DamagedBlock):
                target.read_block(into)
            assert target.position == (0, number + 1)


# ---- lists and files -------------------------------------------------------------------------------------------------


def claim(path: Path, **values: int) -> None:
    """Rewrites a manifest so that its last entry claims these values, checksum and all."""
    manifest = Manifest.decode(path.read_bytes())
    for name, value in values.items():
        setattr(manifest.entries[-1], name, value)
    path.write_bytes(manifest.encode())


@pytest.mark.parametrize(
    "claimed",
    [{"objects": 0xFFFFFFF0}, {"filemarks": 0xFFFFFFF0}, {"objects": 0xFFFFFFF0, "filemarks": 0xFFFFFFF0},
     {"data_bytes": 1 << 62}, {"used_bytes": 1 << 63}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("sealed", [False, True], ids=["unsealed", "sealed"])
def test_a_manifest_that_claims_too_much_is_damaged(
    make: Make, tmp_path: Path, claimed: dict[str, int], sealed: bool
) -> None:
    directory = tmp_path / "T00001L8"
    with make() as cartridge:
        cartridge.write_block(b"a block")
        if sealed:
            cartridge.write_block(bytes(3 << 20))
            cartridge.synchronize()
            cartridge.locate_block(0, 1)
            cartridge.erase(long=True)
    path = directory / "p0" / "manifest"
    claim(path, **claimed)
    program = f"""
import resource, sys
from pathlib import Path
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.verify import verify
from vlib_images.cartridge.salvage import salvage
from vlib_images.cartridge.segments import SegmentHeader
from vlib_images.errors import CartridgeDamaged
if {CAN_LIMIT_MEMORY}:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
directory = Path({str(directory)!r})
for opening in (Cartridge.open, verify):
    try:
        opening(directory)
    except CartridgeDamaged as error:
        assert "manifest" in str(error), error
    else:
        raise AssertionError(opening)
assert salvage(directory, Path({str(tmp_path / "T00002L8")!r})).blocks == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("name", ["cartridge.json", "p0/manifest"])
def test_a_describing_file_of_terabytes_is_not_read(make: Make, tmp_path: Path, name: str) -> None:
    make().close()
    path = tmp_path / "T00001L8" / name
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CartridgeDamaged, match=f"{path.name} has {1 << 40} bytes"):
        Cartridge.open(tmp_path / "T00001L8")


@pytest.mark.parametrize("name", ["mam.json", "usage.json", "p0/00000001.idx"])
def test_what_a_cartridge_can_do_without_is_done_without(make: Make, tmp_path: Path, name: str) -> None:
    with make() as cartridge:
        cartridge.write_block(b"a block")
    path = tmp_path / "T00001L8" / name
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        into = bytearray(10)
        assert cartridge.read_block(into).length == 7


def test_the_list_of_an_exported_directory_has_a_bound_too(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.write_block(b"a block")
        export_tape("directory", cartridge, tmp_path / "out")
    with (tmp_path / "out" / "blocks.json").open("r+b") as file:
        file.truncate(1 << 40)
    with make(barcode="T00002L8") as cartridge, pytest.raises(InterchangeError, match=str(1 << 40)):
        import_tape("directory", tmp_path / "out", cartridge)


@pytest.mark.parametrize("claimed", [1 << 40, (1 << 63) - 1])
def test_salvage_counts_no_block_by_block_what_a_header_claims(make: Make, tmp_path: Path, claimed: int) -> None:
    """A segment that says it begins after so many blocks, in a cartridge without a manifest."""
    with make() as cartridge:
        cartridge.write_block(b"a block")
        uuid = bytes.fromhex(cartridge.uuid)
    folder = tmp_path / "T00001L8" / "p0"
    header = SegmentHeader(uuid, 0, 2, 1, claimed, 0, False, bytes(16), 1)
    (folder / "00000002.seg").write_bytes(header.encode())
    (folder / "manifest").unlink()
    report = salvage(tmp_path / "T00001L8", tmp_path / "T00002L8")
    assert report.blocks == 1
    assert [(damage.first_block, damage.count) for damage in report.lost] == [(1, claimed - 1)]
