"""CRC32C: every variant this CPU runs, against published vectors and two independent implementations."""

import random
import tomllib
from pathlib import Path

import crcmod.predefined
import google_crc32c
import pytest

from datamover import engine

VECTORS = tomllib.loads((Path(__file__).parents[2] / "vectors" / "crc32c.toml").read_text())["vector"]
SEED = 7143

crcmod_crc32c = crcmod.predefined.mkCrcFun("crc-32c")


@pytest.mark.parametrize("implementation", engine.crc32c_implementations)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_published_vectors(implementation: str, vector: dict[str, str]) -> None:
    crc = engine.crc32c_with(implementation, bytes.fromhex(vector["data"]))
    assert crc.to_bytes(4, "little").hex() == vector["wire"]


def test_the_fastest_variant_is_used_and_the_portable_one_is_always_there() -> None:
    assert engine.crc32c_implementations[-1] == "portable"
    assert engine.crc32c_implementation == engine.crc32c_implementations[0]


@pytest.mark.parametrize("implementation", engine.crc32c_implementations)
def test_every_length_around_the_seams_of_the_variants(implementation: str) -> None:
    data = random.Random(SEED).randbytes(65536)
    seams = [64, 128, 256, 320, 384, 512, 768, 1024, 3072, 3456, 6144, 20992, 21056, 41984, 42048, 65536]
    lengths = set(range(300)) | {seam + offset for seam in seams for offset in (-9, -8, -1, 0) if seam + offset >= 0}
    for length in lengths | {seam + 1 for seam in seams[:-1]}:
        assert engine.crc32c_with(implementation, data[:length]) == google_crc32c.value(data[:length]), length


@pytest.mark.parametrize("implementation", engine.crc32c_implementations)
def test_random_lengths_alignments_and_starting_values(implementation: str) -> None:
    rng = random.Random(SEED)
    memory = memoryview(rng.randbytes(1 << 20))
    for _ in range(200):
        start = rng.randrange(256)
        length = rng.randrange(1 << rng.randrange(1, 20))
        piece = memory[start : start + length]
        split = rng.randrange(length + 1)
        first = engine.crc32c_with(implementation, piece[:split])
        expected = crcmod_crc32c(piece)
        assert engine.crc32c_with(implementation, piece) == expected, (SEED, start, length)
        assert engine.crc32c_with(implementation, piece[split:], first) == expected, (SEED, start, length, split)


def test_combine_equals_the_crc_of_the_joined_pieces() -> None:
    rng = random.Random(SEED)
    for _ in range(100):
        first, second = rng.randbytes(rng.randrange(5000)), rng.randbytes(rng.randrange(5000))
        combined = engine.crc32c_combine(engine.crc32c(first), engine.crc32c(second), len(second))
        assert combined == google_crc32c.value(first + second), (SEED, len(first), len(second))


def test_combine_over_a_piece_longer_than_any_memory() -> None:
    # Appending 2^k zero bytes one doubling at a time must equal appending them in one step.
    zeros_crc, length, crc = engine.crc32c(b"\0"), 1, engine.crc32c(b"\0", 0x12345678)
    for _ in range(44):
        crc = engine.crc32c_combine(crc, zeros_crc, length)
        zeros_crc = engine.crc32c_combine(zeros_crc, zeros_crc, length)
        length *= 2
    assert crc == engine.crc32c_combine(0x12345678, zeros_crc, length)


def test_an_unknown_variant_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="abacus"):
        engine.crc32c_with("abacus", b"")


def test_text_is_refused() -> None:
    with pytest.raises(TypeError):
        engine.crc32c("text")  # type: ignore[arg-type]
