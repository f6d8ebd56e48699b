"""Protection information as it stands behind a block: which CRC, and in which order its bytes come."""

import functools
import random
from pathlib import Path

import crcmod.predefined
import pytest

from datamover.engine import (
    PROTECTION_BYTES,
    PROTECTION_CRC32C,
    PROTECTION_REED_SOLOMON,
    READ_ENCODED,
    READ_END,
    READ_FILEMARK,
    ProtectionMismatch,
    Segment,
    crc32c,
    protection_check,
    protection_information,
)
from tests.unit.engine.test_reed_solomon import remainder

METHODS = PROTECTION_REED_SOLOMON, PROTECTION_CRC32C
castagnoli = crcmod.predefined.mkCrcFun("crc-32c")


@functools.lru_cache(maxsize=64)  # slow, and asked for the same again and again
def expected(data: bytes, method: int) -> bytes:
    """By code that is not the engine's."""
    return castagnoli(data).to_bytes(4, "little") if method == PROTECTION_CRC32C else remainder(data).to_bytes(4, "big")


def test_the_codes_are_those_of_the_mode_page() -> None:
    assert (PROTECTION_REED_SOLOMON, PROTECTION_CRC32C, PROTECTION_BYTES) == (1, 2, 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 100, 512, 4095, 4096, 4097, 65_536, 100_003])
def test_against_other_implementations(length: int, method: int) -> None:
    data = random.Random(length).randbytes(length)
    information = protection_information(data, method)
    assert information == expected(data, method)
    assert protection_check(data + information, method) == castagnoli(data) == crc32c(data)


def test_known_answers() -> None:
    """RFC 3720 B.4 has the CRC32C of 32 zeros, and how it is sent; one byte of 1 leaves the generator itself."""
    assert protection_information(bytes(32), PROTECTION_CRC32C) == bytes.fromhex("aa36918a")
    assert protection_information(b"123456789", PROTECTION_CRC32C) == (0xE3069283).to_bytes(4, "little")
    assert protection_information(b"\1", PROTECTION_REED_SOLOMON) == bytes.fromhex("38cf3801")
    assert protection_information(bytes(32), PROTECTION_REED_SOLOMON) == bytes(4)


@pytest.mark.parametrize("method", METHODS)
def test_every_flipped_bit_is_found(method: int) -> None:
    data = random.Random(4).randbytes(40)
    whole = bytearray(data + protection_information(data, method))
    for bit in range(len(whole) * 8):
        whole[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtectionMismatch):
            protection_check(whole, method)
        whole[bit // 8] ^= 1 << bit % 8
    assert protection_check(whole, method) == crc32c(data)


def test_neither_method_passes_for_the_other() -> None:
    data = random.Random(5).randbytes(1000)
    for method, other in (METHODS, METHODS[::-1]):
        with pytest.raises(ProtectionMismatch):
            protection_check(data + protection_information(data, method), other)


@pytest.mark.parametrize("method", [-1, 0, 3, 0xF0])
def test_no_other_method(method: int) -> None:
    with pytest.raises(ValueError, match=f"no logical block protection method {method}"):
        protection_information(b"block", method)
    with pytest.raises(ValueError, match=f"no logical block protection method {method}"):
        protection_check(b"block and more", method)


@pytest.mark.parametrize("length", range(PROTECTION_BYTES + 1))
def test_there_must_be_a_block(length: int) -> None:
    with pytest.raises(ValueError, match="no block"):
        protection_check(bytes(length), PROTECTION_CRC32C)


# ---- segments --------------------------------------------------------------------------------------------------------


BLOCKS = [random.Random(n).randbytes(60) for n in range(5)]


def travelling(method: int = PROTECTION_CRC32C) -> bytes:
    return b"".join(block + expected(block, method) for block in BLOCKS)


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    return Segment.create(str(tmp_path / "segment"), bytes(128), 1 << 20, 100)


@pytest.mark.parametrize("method", METHODS)
def test_a_segment_keeps_the_block_and_its_crc(segment: Segment, method: int) -> None:
    assert segment.append_protected(b"xyz" + travelling(method), 3, 60, 5, method) == 5
    for number, block in enumerate(BLOCKS):
        into = bytearray(64)
        assert segment.read(number, into) == 60
        assert into == block + bytes(4)
        kind, form, logical_length, stored_length, logical_crc, _, extension = segment.describe(number)
        assert (kind, form, logical_length, stored_length, extension) == (1, 0, 60, 60, b"")
        assert logical_crc == castagnoli(block)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", range(5))
def test_a_segment_stops_before_a_damaged_block_and_says_so_when_it_comes_first(
    segment: Segment, method: int, bad: int
) -> None:
    data = bytearray(travelling(method))
    data[64 * bad + 63] ^= 0x80
    if bad:
        assert segment.append_protected(data, 0, 60, 5, method) == bad
    with pytest.raises(ProtectionMismatch):
        segment.append_protected(data, 64 * bad, 60, 5 - bad, method)
    assert segment.objects == bad
    assert segment.append_protected(data, 0, 60, 0, method) == 0


def test_a_full_segment_takes_no_more(tmp_path: Path) -> None:
    segment = Segment.create(str(tmp_path / "segment"), bytes(128), 1 << 20, 3)
    assert segment.append_protected(travelling(), 0, 60, 5, PROTECTION_CRC32C) == 3
    assert segment.append_protected(travelling(), 64 * 3, 60, 2, PROTECTION_CRC32C) == 0


@pytest.mark.parametrize("method", METHODS)
def test_reading_many_of_a_segment(segment: Segment, method: int) -> None:
    segment.append_many(b"".join(BLOCKS), 0, 60, 5)
    segment.append_filemarks(1)
    into = bytearray(3 + 64 * 8)
    assert segment.read_many_protected(0, into, 3, 60, 8, method) == (5, READ_FILEMARK)
    assert into[3 : 3 + 64 * 5] == travelling(method)
    assert segment.read_many_protected(1, into, 0, 59, 8, method) == (0, 60)
    assert segment.read_many_protected(6, into, 0, 60, 8, method) == (0, READ_END)
    assert segment.read_protected(5, into, method) == READ_FILEMARK


def test_a_block_in_another_form_is_left_to_the_caller(segment: Segment) -> None:
    segment.append_encoded(b"stored", 60, 0, 1, b"")
    into = bytearray(64)
    assert segment.read_protected(0, into, PROTECTION_CRC32C) == READ_ENCODED
    assert segment.read_many_protected(0, into, 0, 60, 1, PROTECTION_CRC32C) == (0, READ_ENCODED)
    assert into == bytes(64)


@pytest.mark.parametrize(
    ("offset", "block_length", "count"), [(0, 60, 6), (1, 60, 5), (-1, 60, 1), (321, 60, 0), (0, 61, 5)]
)
def test_a_buffer_that_does_not_hold_so_many(segment: Segment, offset: int, block_length: int, count: int) -> None:
    with pytest.raises(ValueError, match="does not hold that many blocks"):
        segment.append_protected(travelling(), offset, block_length, count, PROTECTION_CRC32C)
    with pytest.raises(ValueError, match="does not hold that many blocks"):
        segment.read_many_protected(0, bytearray(320), offset, block_length, count, PROTECTION_CRC32C)
    assert segment.objects == 0


def test_a_segment_knows_the_methods_and_its_objects(segment: Segment) -> None:
    into = bytearray(64)
    for method in (0, 3):
        with pytest.raises(ValueError, match="no logical block protection method"):
            segment.append_protected(travelling(), 0, 60, 5, method)
        with pytest.raises(ValueError, match="no logical block protection method"):
            segment.read_protected(0, into, method)
        with pytest.raises(ValueError, match="no logical block protection method"):
            segment.read_many_protected(0, into, 0, 60, 1, method)
    with pytest.raises(IndexError):
        segment.read_protected(0, into, PROTECTION_CRC32C)
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        segment.append_protected(travelling(), 0, 60, 5, PROTECTION_CRC32C)
