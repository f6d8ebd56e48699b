"""Comparing and combining ranges of bytes, against what Python says of the same bytes."""

import random

import pytest

from datamover.engine import first_difference, or_into


@pytest.mark.parametrize("length", [0, 1, 7, 4095, 4096, 4097, 100_000])
def test_first_difference_finds_the_first_byte(length):
    data = random.Random(length).randbytes(length)
    assert first_difference(data, bytearray(data)) == -1
    for at in {0, length // 2, length - 1} if length else set():
        other = bytearray(data)
        other[at:] = bytes(255 - byte for byte in data[at:])
        assert first_difference(memoryview(data), other) == at


def test_or_into_is_bytewise_or():
    rng = random.Random(5)
    for length in (0, 1, 63, 64, 65, 10_001):
        target, source = bytearray(rng.randbytes(length)), rng.randbytes(length)
        expected = bytes(a | b for a, b in zip(target, source, strict=True))
        or_into(target, source)
        assert target == expected


def test_lengths_must_agree_and_the_target_must_be_writable():
    with pytest.raises(ValueError, match="3 and 2 bytes"):
        first_difference(b"abc", b"ab")
    with pytest.raises(ValueError, match="3 and 2 bytes"):
        or_into(bytearray(3), b"ab")
    with pytest.raises(TypeError):
        or_into(b"abc", b"abc")
