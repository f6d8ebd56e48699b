"""The Reed-Solomon CRC of logical block protection, against long division of polynomials over GF(256)."""

import random

import pytest

from datamover.engine import reed_solomon_crc

GENERATOR = (0x38, 0xCF, 0x38, 0x01)


def times(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a * (b & 1)
        a = (a << 1) ^ (0x11D * (a >> 7))
        b >>= 1
    return product


def remainder(data: bytes) -> int:
    register = [0, 0, 0, 0]
    for byte in data:
        factor = byte ^ register[0]
        register = [times(factor, g) ^ r for g, r in zip(GENERATOR, [*register[1:], 0], strict=True)]
    return int.from_bytes(bytes(register), "big")


@pytest.mark.parametrize("length", [*range(20), 511, 4096])
def test_it_is_the_remainder(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert reed_solomon_crc(data) == remainder(data)


def test_known_values() -> None:
    """As published for LTO drives: the values of single bytes."""
    assert [reed_solomon_crc(bytes([byte])) for byte in (0, 1, 2, 8, 0x20, 0xFF)] == [
        0x00000000,
        0x38CF3801,
        0x70837002,
        0xDD36DD08,
        0x53D85320,
        0x763F76FF,
    ]


def test_it_continues() -> None:
    data = random.Random(1).randbytes(1000)
    for cut in (0, 1, 7, 8, 9, 999, 1000):
        assert reed_solomon_crc(data[cut:], reed_solomon_crc(data[:cut])) == reed_solomon_crc(data)


def test_a_block_with_its_crc_behind_it_leaves_nothing() -> None:
    data = random.Random(2).randbytes(512)
    assert reed_solomon_crc(data + reed_solomon_crc(data).to_bytes(4, "big")) == 0
