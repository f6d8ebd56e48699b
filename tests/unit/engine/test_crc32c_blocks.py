"""The checksums of blocks and of all of it in one pass, against another implementation of CRC32C."""

import array
import random

import crcmod.predefined
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamover.engine import crc32c_blocks, crc32c_join

oracle = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
NOISE = random.Random(3).randbytes(200_000)


def of_pieces(data, length):
    return array.array("I", [oracle(data[at : at + length]) for at in range(0, len(data) - length + 1, length)])


@given(st.integers(1, 700), st.lists(st.integers(0, 2000), max_size=8), st.integers(0, 0xFFFFFFFF))
def test_whatever_pieces_it_comes_in(length, pieces, before):
    data = NOISE[: sum(pieces)]
    crc, open_crc, checksums, at = before, 0, b"", 0
    for piece in pieces:
        crc, open_crc, made = crc32c_blocks(data[at : at + piece], crc, length, at % length, open_crc)
        checksums += made
        at += piece
    assert crc == oracle(data, before)
    assert array.array("I", checksums) == of_pieces(data, length)
    assert open_crc == oracle(data[len(data) // length * length :])


def test_large_pieces_without_the_interpreter():
    crc, open_crc, checksums = crc32c_blocks(NOISE, 0, 65536, 0, 0)
    assert crc == oracle(NOISE)
    assert array.array("I", checksums) == of_pieces(NOISE, 65536)
    assert open_crc == oracle(NOISE[3 * 65536 :])


def test_joining_the_checksums_of_blocks():
    data = NOISE[: 40 * 1000]
    assert crc32c_join(77, of_pieces(data, 1000), 1000) == oracle(data, 77)
    assert crc32c_join(77, b"", 1000) == 77


@pytest.mark.parametrize(("length", "filled"), [(0, 0), (-1, 0), (5, 5), (5, -1)])
def test_a_block_that_cannot_be(length, filled):
    with pytest.raises(ValueError, match="begun before its end"):
        crc32c_blocks(b"x", 0, length, filled, 0)
