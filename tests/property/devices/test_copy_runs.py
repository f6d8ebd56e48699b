"""Copies between a disk and a tape in runs and without end alike: in content, positions, counts and answers."""

import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.cartridge.test_damage import flip
from tests.unit.datamover.runs import NEVER, runs_counted, runs_of
from tests.unit.devices.copying.outcome import outcome
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream, content, stream_to_block
from tests.unit.devices.support import ALPHA
from tests.unit.devices.tape.support import make_cartridge
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Encoder
from vlib_images.cartridge.partition import record_bytes
from vlib_images.cartridge.segments import SegmentLimits

LENGTHS = [1024, 4096, 10240, 512, 8192, 65536, 1000]
MEMORY = Path("/dev/shm")  # a cartridge is synchronized often
COMPRESSED = Encoder(1)


class Object(NamedTuple):
    """What a tape holds before the copy. length: 0 is a filemark."""

    length: int
    compressed: bool = False
    damaged: bool = False


class World(NamedTuple):
    """What both copies begin with. holes: (offset, length) of what the disk does not hold. at: the tape's position;
    None: behind everything. room_bytes: of the tape, beside what is there."""

    holes: list[tuple[int, int]]
    objects: list[Object]
    at: int | None
    room_bytes: int
    early_warning_bytes: int
    limits: SegmentLimits
    segments: list[bytes]
    pads: tuple[bool, bool]
    how: dict[str, int]


@st.composite
def objects(draw, length):
    """Mostly blocks of one length, in stretches between something else."""
    found = []
    for stretch in draw(st.lists(st.sampled_from([3, 20, 60]), max_size=4)):
        found += [Object(length)] * min(stretch, (200 << 10) // length)
        found += draw(
            st.lists(
                st.one_of(
                    st.just(Object(0)),
                    st.sampled_from(LENGTHS).map(Object),
                    st.just(Object(length, compressed=True)),
                    st.just(Object(length, damaged=True)),
                ),
                max_size=1,
            )
        )
    return found


@st.composite
def a_segment(draw, lengths):
    make, length = draw(st.sampled_from([block_to_stream, stream_to_block])), draw(st.sampled_from(lengths))
    blocks = draw(st.sampled_from([200, 800, 10]).flatmap(lambda most: st.integers(most // 2, most)))
    return make(length, blocks, draw(st.integers(0, BLOCKS - 800)), cat=draw(st.booleans()))


@st.composite
def worlds(draw):
    length, early_warning_bytes = draw(st.sampled_from(LENGTHS)), draw(st.sampled_from([0, 0, 10_000, 70_000]))
    # Early warning is told with the write that meets it, so both must write as much at once: a block.
    lengths, chunks = ([length], [length]) if early_warning_bytes else ([length] * 4 + LENGTHS, [30_000, 1 << 20, 1])
    return World(
        holes=draw(st.lists(st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 300)), max_size=3)),
        objects=draw(objects(length)),
        at=draw(st.sampled_from([0, None, 0, 3])),
        room_bytes=draw(st.sampled_from([600_000, 100_000, 4_000_000])),
        early_warning_bytes=early_warning_bytes,
        limits=SegmentLimits(
            draw(st.sampled_from([100_000, 20_000, 256 << 20])), draw(st.sampled_from([1000, 7])), disk_low_bytes=0
        ),
        segments=draw(st.lists(a_segment(lengths), min_size=1, max_size=4)),
        pads=draw(st.tuples(st.booleans(), st.booleans())),
        how={
            "shortest_bytes": draw(st.sampled_from([2000, 10_000, 40_000])),
            "longest_bytes": draw(st.sampled_from([1 << 20, 40_000])),
            "blocks": draw(st.sampled_from([16384, 7, 1])),
            "chunk_bytes": draw(st.sampled_from(chunks)),
            "pause_bytes": draw(st.sampled_from([0, 10_000])),
        },
    )


class Pair:
    """Two sites that begin alike."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count()
        self._sites = []
        for name in ("with", "without"):
            (directory / name).mkdir()
            self._sites.append(Site(directory / name))

    def close(self) -> None:
        for site in self._sites:
            site.close()

    def outcomes(self, world: World):
        """Of the copy in runs, and of the one without."""
        original = self._tape(world)
        for site, how in zip(self._sites, (world.how, world.how | {"shortest_bytes": NEVER}), strict=True):
            self._prepare(site, world, original)
            cscds = [site.disk_descriptor(pad=world.pads[0]), site.tape_descriptor(pad=world.pads[1])]
            with runs_of(**how):
                response = site.copy(*world.segments, cscds=cscds, list_identifier=3)
            yield outcome(site, response)
        shutil.rmtree(original)

    def _tape(self, world: World) -> Path:
        name = f"T{next(self._numbers):05}L8"
        capacity_bytes = world.room_bytes + sum(record_bytes(found.length) for found in world.objects)
        cartridge = make_cartridge(
            self._directory, name, capacity_bytes=capacity_bytes, early_warning_bytes=0, limits=world.limits
        )
        blocks = [content(found.length, seed) for seed, found in enumerate(world.objects, 1000)]
        for found, block in zip(world.objects, blocks, strict=True):
            cartridge.encoder = COMPRESSED if found.compressed else None
            if found.length:
                cartridge.write_block(block)
            else:
                cartridge.write_filemarks(1)
        cartridge.close()
        for found, block in zip(world.objects, blocks, strict=True):
            if found.damaged:
                self._damage(self._directory / name, block)
        return self._directory / name

    @staticmethod
    def _damage(directory: Path, block: bytes) -> None:
        """A flipped bit in a block, wherever it is stored."""
        where = [(path, path.read_bytes().find(block)) for path in (directory / "p0").glob("*.seg")]
        [(path, offset)] = [(path, offset) for path, offset in where if offset >= 0]
        flip(path, offset + len(block) // 2, 3)

    def _prepare(self, site: Site, world: World, original: Path) -> None:
        site.tape.unload().close()
        shutil.rmtree(site.directory / "tape", ignore_errors=True)
        shutil.copytree(original, site.directory / "tape")
        cartridge = Cartridge.open(site.directory / "tape", limits=world.limits)
        site.cartridges[0] = cartridge
        cartridge.early_warning_bytes = world.early_warning_bytes
        site.tape.load(cartridge)
        while site.tape.take_unit_attention(ALPHA):
            pass
        cartridge.locate_block(0, len(world.objects) if world.at is None else min(world.at, len(world.objects)))
        site.disk.medium.write(site.disk_data, 0)
        for address, blocks in world.holes:
            site.disk.medium.deallocate(address * 512, min(blocks, BLOCKS - address) * 512)


@pytest.fixture(scope="module")
def pair():
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        pair = Pair(Path(directory))
        yield pair
        pair.close()


HOW = {"shortest_bytes": 10_000, "longest_bytes": 1 << 20, "blocks": 16384, "chunk_bytes": 30_000, "pause_bytes": 0}
PLAIN = World(
    holes=[(100, 8), (500, 300)],
    objects=[Object(1024)] * 300,
    at=None,
    room_bytes=4_000_000,
    early_warning_bytes=0,
    limits=SegmentLimits(100_000, 1000, disk_low_bytes=0),
    segments=[block_to_stream(1024, 800)],
    pads=(False, False),
    how=HOW,
)
MIXED = [Object(1024)] * 90 + [Object(1024, damaged=True)] + [Object(1024)] * 90


def test_a_copy_in_runs_is_like_one_without(pair):
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(worlds())
    @example(PLAIN)
    @example(PLAIN._replace(at=0, segments=[stream_to_block(1024, 500)]))
    @example(PLAIN._replace(at=0, objects=MIXED, segments=[stream_to_block(1024, 500)]))
    @example(PLAIN._replace(at=0, room_bytes=100_000, objects=[]))
    @example(PLAIN._replace(early_warning_bytes=70_000, room_bytes=200_000, how=HOW | {"chunk_bytes": 1024}))
    def alike(world):
        runs, ordinary = pair.outcomes(world)
        for name, found in runs.items():
            assert found == ordinary[name], name

    with runs_counted() as counts:
        alike()
    assert max(counts) > 1
