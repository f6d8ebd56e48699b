"""Protection information as it stands behind a block: which CRC, and in which order its bytes come."""

import random

import crcmod.predefined
import pytest

from datamover.engine import (
    PROTECTION_BYTES,
    PROTECTION_CRC32C,
    PROTECTION_REED_SOLOMON,
    ProtectionMismatch,
    crc32c,
    protection_check,
    protection_information,
)
from tests.unit.engine.test_reed_solomon import remainder

METHODS = PROTECTION_REED_SOLOMON, PROTECTION_CRC32C
castagnoli = crcmod.predefined.mkCrcFun("crc-32c")


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
