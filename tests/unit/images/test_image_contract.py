"""What every image promises: a file and its twin in memory do the same, and both tell before they change anything."""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.storage import needs_fiemap
from vlib_images.disk.image import Extent, Image
from vlib_images.disk.memory import MemoryImage
from vlib_images.disk.raw import DiskImage

SIZE = 1 << 20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Image, Image]]:
    file, memory = DiskImage.create(tmp_path / "a.img", SIZE), MemoryImage(SIZE)
    yield file, memory
    file.close()


@pytest.fixture(params=["file", "memory"])
def image(request: pytest.FixtureRequest, pair: tuple[Image, Image]) -> Image:
    return pair[request.param == "memory"]


def content(image: Image, offset: int = 0, length: int = SIZE) -> bytes:
    buffer = bytearray(length)
    image.read_into(buffer, offset)
    return bytes(buffer)


def step(rng: random.Random) -> Callable[[Image], None]:
    """One change; lengths that are no multiple of anything among them."""
    unit = rng.choice((1, 512, 4096))
    offset = rng.randrange(SIZE // unit) * unit
    length = min(rng.randrange(1, 64) * unit, SIZE - offset)
    data = rng.randbytes(length)
    return rng.choice(
        [
            lambda image: image.write(data, offset),
            lambda image: image.write(data, offset, durable=True),
            lambda image: image.write_atomic(data, offset),
            lambda image: image.deallocate(offset, length),
            lambda image: image.anchor(offset, length),
            lambda image: image.fill(data[:unit], offset, length),
        ]
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_twins_agree(pair: tuple[Image, Image], seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        change = step(rng)
        for image in pair:
            change(image)
        assert content(pair[0]) == content(pair[1]), f"seed {seed}"


def test_the_twins_agree_about_space(pair: tuple[Image, Image]) -> None:
    needs_fiemap(pair[0])
    found: list[list[Extent]] = []
    for image in pair:
        image.write(b"x" * 40960, 0)
        image.deallocate(4096, 8192)
        image.anchor(16384, 4096)
        image.synchronize()
        found.append(list(image.extents(100, SIZE - 100)))
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(8))
def test_it_is_told_before_anything_changes(image: Image, seed: int) -> None:
    """No byte changes that was not told."""
    rng, told = random.Random(seed), bytearray(SIZE)

    def before_change(offset: int, length: int) -> None:
        told[offset : offset + length] = b"\1" * length

    for _ in range(40):
        before, told[:] = content(image), bytes(SIZE)
        image.before_change = before_change
        step(rng)(image)
        image.before_change = None
        after = content(image)
        for untold in re.finditer(rb"\0+", told):
            where = slice(*untold.span())
            assert before[where] == after[where], f"seed {seed}, bytes {untold.span()}"


@pytest.mark.parametrize("operation", ["write", "write_atomic", "deallocate", "anchor", "fill"])
def test_the_old_bytes_are_still_there_when_it_is_told(image: Image, operation: str) -> None:
    image.write(b"old!" * 1024, 8192)
    seen = []
    image.before_change = lambda offset, length: seen.append((offset, length, content(image, offset, length)))
    if operation == "fill":
        image.fill(b"new!", 8192, 4096)
    elif operation.startswith("write"):
        getattr(image, operation)(b"new!" * 1024, 8192)
    else:
        getattr(image, operation)(8192, 4096)
    assert seen[0] == (8192, 4096, b"old!" * 1024)
    image.before_change = None
    assert content(image, 8192, 4096) != b"old!" * 1024
