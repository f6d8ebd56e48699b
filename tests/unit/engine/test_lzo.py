"""LZO1X streams that the reference library made, whole and damaged."""

import random
import tomllib
import zlib
from pathlib import Path

import pytest

from datamover.engine import lzo_decompress

VECTORS = tomllib.loads((Path(__file__).parents[2] / "vectors" / "lzo1x.toml").read_text())["stream"]


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: str(row["length"]))
def test_streams_of_the_reference_library(row: dict[str, int | str]) -> None:
    made = lzo_decompress(bytes.fromhex(str(row["data"])), int(row["length"]))
    assert zlib.crc32(made) == row["crc32"]


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: str(row["length"]))
def test_a_stream_cut_short_or_of_another_length_is_refused(row: dict[str, int | str]) -> None:
    data, length = bytes.fromhex(str(row["data"])), int(row["length"])
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="not an LZO1X stream"):
            lzo_decompress(data[:cut], length)
    for other in (length - 1, length + 1):
        with pytest.raises(ValueError, match="not an LZO1X stream"):
            lzo_decompress(data, other)
    with pytest.raises(ValueError, match="not an LZO1X stream"):
        lzo_decompress(data + b"x", length)


@pytest.mark.parametrize("seed", range(20))
def test_damage_never_harms(seed: int) -> None:
    """It raises ValueError or makes something else of the right length; it reads and writes nothing outside."""
    rng = random.Random(seed)
    for row in VECTORS:
        data = bytearray.fromhex(str(row["data"]))
        for _ in range(50):
            data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                assert len(lzo_decompress(data, int(row["length"]))) == row["length"]
            except ValueError as error:
                assert "LZO1X" in str(error)


def test_a_length_beyond_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 16777216 bytes"):
        lzo_decompress(b"", (1 << 24) + 1)
