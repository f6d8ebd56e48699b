"""Blocks that come and go with protection information: checked, not kept, and made again from what is stored."""

from collections.abc import Callable

import pytest

from datamover.engine import (
    PROTECTION_BYTES,
    PROTECTION_CRC32C,
    PROTECTION_REED_SOLOMON,
    crc32c,
    protection_information,
)
from tests.unit.cartridge.conftest import contents
from tests.unit.engine.test_protection import expected
from vlib_images.cartridge.cartridge import Cartridge, ReadKind
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import EndOfPartition, ProtectionFailed

Make = Callable[..., Cartridge]
METHODS = PROTECTION_REED_SOLOMON, PROTECTION_CRC32C
KEY = EncryptionKey(bytes(range(32)))
ENCODERS = {
    "as they are": None,
    "compressed": Encoder(1),
    "encrypted": Encoder(None, Encryption(KEY)),
    "both": Encoder(1, Encryption(KEY)),
}


def block(number: int, length: int) -> bytes:
    """Even blocks compress, odd ones do not."""
    if number % 2:
        return b"".join(crc32c(b"%d %d" % (number, n)).to_bytes(4, "big") for n in range(length // 4 + 1))[:length]
    return (b"%d " % number * length)[:length]


def protected(blocks: list[bytes], method: int) -> bytes:
    return b"".join(data + expected(data, method) for data in blocks)


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 2, 100, 4096, 70_000])
def test_written_with_one_method_and_read_with_any(make: Make, length: int, method: int, encoder: Encoder) -> None:
    blocks = [block(number, length) for number in range(5)]
    slot = length + PROTECTION_BYTES
    with make() as cartridge:
        cartridge.encoder = encoder
        cartridge.decryption = Decryption(DecryptionMode.MIXED, KEY)
        assert cartridge.write_blocks(protected(blocks, method), slot, method) == 5
        assert cartridge.position == (0, 5)
        assert cartridge.usage.bytes_written == 5 * length
        assert contents(cartridge) == blocks
        for other in METHODS:
            cartridge.rewind()
            into = bytearray(5 * slot)
            assert cartridge.read_blocks(into, slot, 5, other).blocks == 5
            assert into == protected(blocks, other)
            cartridge.rewind()
            for data in blocks:
                into = bytearray(slot)
                assert cartridge.read_block(into, other) == (ReadKind.BLOCK, slot)
                assert into == data + expected(data, other)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("room", range(100, 112))
def test_a_buffer_that_is_too_small_or_too_large(make: Make, room: int, encoder: Encoder) -> None:
    data = block(1, 104)
    whole = data + protection_information(data, PROTECTION_CRC32C)
    with make() as cartridge:
        cartridge.encoder = encoder
        cartridge.decryption = Decryption(DecryptionMode.MIXED, KEY)
        cartridge.write_block(data)
        cartridge.rewind()
        into = bytearray(b"\xee" * room)
        assert cartridge.read_block(into, PROTECTION_CRC32C).length == 108
        assert into == whole[:room] + b"\xee" * (room - 108)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_block_is_not_written_and_the_good_ones_before_it_are(
    make: Make, method: int, encoder: Encoder
) -> None:
    blocks = [block(number, 500) for number in range(6)]
    data = damaged(protected(blocks, method), 504 * 3 + 250)
    with make() as cartridge:
        cartridge.encoder = encoder
        cartridge.decryption = Decryption(DecryptionMode.MIXED, KEY)
        with pytest.raises(ProtectionFailed) as failure:
            cartridge.write_blocks(data, 504, method)
        assert failure.value.blocks_written == 3
        assert cartridge.position == (0, 3)
        assert cartridge.usage.bytes_written == 1500
        cartridge.write_blocks(protected(blocks[3:], method), 504, method)
        assert contents(cartridge) == blocks


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_a_damaged_block_takes_away_nothing_that_was_there(make: Make, encoder: Encoder) -> None:
    with make() as cartridge:
        cartridge.decryption = Decryption(DecryptionMode.MIXED, KEY)
        for number in range(4):
            cartridge.write_block(block(number, 300))
        cartridge.locate_block(0, 1)
        cartridge.encoder = encoder
        with pytest.raises(ProtectionFailed):
            cartridge.write_blocks(bytes(304), 304, PROTECTION_CRC32C)
        assert cartridge.position == (0, 1)
        assert contents(cartridge) == [block(number, 300) for number in range(4)]


def test_over_the_ends_of_segments(make: Make) -> None:
    blocks = [block(number, 1000) for number in range(50)]
    with make(limits=SegmentLimits(segment_bytes=8192, segment_objects=64)) as cartridge:
        data = damaged(protected(blocks, PROTECTION_CRC32C), 1004 * 40)
        with pytest.raises(ProtectionFailed) as failure:
            cartridge.write_blocks(data, 1004, PROTECTION_CRC32C)
        assert failure.value.blocks_written == 40
        cartridge.rewind()
        into = bytearray(50 * 1004)
        assert cartridge.read_blocks(into, 1004, 50, PROTECTION_REED_SOLOMON) == (40, ReadKind.END_OF_DATA, 0)
        assert into[: 40 * 1004] == protected(blocks[:40], PROTECTION_REED_SOLOMON)


def test_what_stops_a_read(make: Make) -> None:
    with make() as cartridge:
        for length in (96, 96, 100, 96):
            cartridge.write_block(block(1, length))
        cartridge.write_filemarks(1)
        cartridge.rewind()
        into = bytearray(1000)
        assert cartridge.read_blocks(into, 100, 5, PROTECTION_CRC32C) == (2, ReadKind.BLOCK, 104)
        assert cartridge.read_blocks(into, 100, 5, PROTECTION_CRC32C) == (1, ReadKind.FILEMARK, 0)
        assert cartridge.read_block(into, PROTECTION_CRC32C) == (ReadKind.END_OF_DATA, 0)


def test_a_full_partition(make: Make) -> None:
    blocks = [block(number, 10_000) for number in range(10)]
    with make(capacity_bytes=50_000, early_warning_bytes=1000) as cartridge:
        with pytest.raises(EndOfPartition) as failure:
            cartridge.write_blocks(protected(blocks, PROTECTION_CRC32C), 10_004, PROTECTION_CRC32C)
        assert failure.value.blocks_written == 4
        assert contents(cartridge) == blocks[:4]


@pytest.mark.parametrize(("block_length", "method"), [(4, PROTECTION_CRC32C), (3, PROTECTION_CRC32C), (100, 3)])
def test_what_makes_no_sense(make: Make, block_length: int, method: int) -> None:
    with make() as cartridge:
        with pytest.raises(ValueError, match=r"a block has|no logical block protection method"):
            cartridge.write_blocks(bytes(block_length), block_length, method)
        with pytest.raises(ValueError, match="no multiple"):
            cartridge.write_blocks(bytes(101), 100, PROTECTION_CRC32C)
        assert cartridge.end_of_data(0) == 0
