"""The cartridge does what a list of objects does, whatever the order of operations, across reopening."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.property.cartridge.tape_model import ModelPartition, TapeModel
from vlib_images.cartridge import Cartridge, ReadKind
from vlib_images.medium import MEDIA
from vlib_images.segments import Limits

# Tiny segments, so that a few operations seal, chain and cut them.
LIMITS = Limits(segment_bytes=8192, segment_objects=16)
COUNTS = st.integers(-6, 6)


def content(seed: int, length: int) -> bytes:
    return bytes((seed * 7 + index * 31 + length) & 0xFF for index in range(length))


class CartridgeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tapebay-model-"))
        self.serial = 0

    @initialize(partitions=st.integers(1, 3))
    def create(self, partitions: int) -> None:
        self.cartridge = Cartridge.create(
            self.directory / "T",
            barcode="T00001L8",
            medium=MEDIA["LTO-8"],
            capacity_bytes=1 << 30,
            partitions=partitions,
            limits=LIMITS,
        )
        self.model = TapeModel([ModelPartition() for _ in range(partitions)])
        self.into = bytearray(200_000)

    def teardown(self) -> None:
        if hasattr(self, "cartridge"):
            self.cartridge.close()
        shutil.rmtree(self.directory)

    def fresh(self, length: int) -> bytes:
        self.serial += 1
        return content(self.serial, length)

    @rule(lengths=st.lists(st.sampled_from([1, 7, 512, 3000, 70_000]), min_size=1, max_size=8))
    def write_blocks_one_by_one(self, lengths: list[int]) -> None:
        for length in lengths:
            data = self.fresh(length)
            self.cartridge.write_block(data)
            self.model.write(data)

    @rule(length=st.sampled_from([1, 512, 2048]), count=st.integers(1, 40))
    def write_fixed_blocks(self, length: int, count: int) -> None:
        data = self.fresh(length * count)
        assert self.cartridge.write_blocks(data, length) == count
        self.model.write(*(data[i * length : (i + 1) * length] for i in range(count)))

    @rule(count=st.integers(1, 20))
    def write_filemarks(self, count: int) -> None:
        self.cartridge.write_filemarks(count)
        self.model.write(*[None] * count)

    @rule(long=st.booleans())
    def erase(self, long: bool) -> None:
        self.cartridge.erase(long)
        self.model.erase()

    @rule(count=st.integers(1, 12), room=st.sampled_from([0, 5, 512, 200_000]))
    def read_one_by_one(self, count: int, room: int) -> None:
        for _ in range(count):
            kind, value = self.model.read()
            result = self.cartridge.read_block(memoryview(self.into)[:room])
            assert (result.kind.name, result.length) == (kind, len(value))
            assert self.into[: min(room, len(value))] == value[:room]

    @rule(length=st.sampled_from([1, 512, 2048, 70_000]), count=st.integers(0, 20))
    def read_fixed_blocks(self, length: int, count: int) -> None:
        into = bytearray(length * count)
        data, stop, other_length = self.model.read_many(length, count)
        result = self.cartridge.read_blocks(into, length, count)
        assert result.blocks == len(data) // length
        assert (result.stopped_by.name if result.stopped_by else None, result.length) == (stop, other_length)
        assert into[: len(data)] == data

    @rule(count=COUNTS)
    def space_blocks(self, count: int) -> None:
        result = self.cartridge.space_blocks(count)
        assert (result.moved, result.stopped_by.name) == self.model.space_blocks(count)

    @rule(count=COUNTS)
    def space_filemarks(self, count: int) -> None:
        result = self.cartridge.space_filemarks(count)
        assert (result.moved, result.stopped_by.name) == self.model.space_filemarks(count)

    @rule(count=COUNTS)
    def space_sequential_filemarks(self, count: int) -> None:
        result = self.cartridge.space_sequential_filemarks(count)
        assert (result.moved, result.stopped_by.name) == self.model.space_sequential_filemarks(count)

    @rule(data=st.data())
    def locate_block(self, data: st.DataObject) -> None:
        partition = data.draw(st.integers(0, len(self.model.partitions) - 1))
        block = data.draw(st.integers(0, len(self.model.partitions[partition].objects) + 2))
        result = self.cartridge.locate_block(partition, block)
        assert result.stopped_by.name == self.model.locate_block(partition, block)

    @rule(data=st.data(), file=st.integers(0, 12))
    def locate_file(self, data: st.DataObject, file: int) -> None:
        partition = data.draw(st.integers(0, len(self.model.partitions) - 1))
        result = self.cartridge.locate_file(partition, file)
        assert result.stopped_by.name == self.model.locate_file(partition, file)

    @rule()
    def rewind(self) -> None:
        self.cartridge.rewind()
        self.model.position = 0

    @rule()
    def space_end_of_data(self) -> None:
        self.cartridge.space_end_of_data()
        self.model.position = len(self.model.objects)

    @rule()
    def synchronize(self) -> None:
        self.cartridge.synchronize()

    @rule()
    def reopen(self) -> None:
        self.cartridge.close()
        self.cartridge = Cartridge.open(self.directory / "T", limits=LIMITS)
        assert all(report.clean for report in self.cartridge.recovery), self.cartridge.recovery
        self.cartridge.locate_block(self.model.partition, self.model.position)

    @invariant()
    def same_place(self) -> None:
        if not hasattr(self, "cartridge"):
            return
        assert self.cartridge.position == (self.model.partition, self.model.position)
        assert self.cartridge.file_number == self.model.file_number()
        assert self.cartridge.at_eod == (self.model.position == len(self.model.objects))
        for number, partition in enumerate(self.model.partitions):
            assert self.cartridge.end_of_data(number) == len(partition.objects)
            used = sum(32 if value is None else (32 + len(value) + 7) & ~7 for value in partition.objects)
            # Sync marks and truncation records are all that may come on top.
            assert used <= self.cartridge.used_bytes(number) <= used + 32 * 1000

    @invariant()
    def whole_content(self) -> None:
        if not hasattr(self, "cartridge") or self.serial % 4:
            return
        place = self.cartridge.position
        for number, partition in enumerate(self.model.partitions):
            self.cartridge.locate_block(number, 0)
            for value in partition.objects:
                result = self.cartridge.read_block(self.into)
                assert result.kind is (ReadKind.FILEMARK if value is None else ReadKind.BLOCK)
                assert value is None or self.into[: result.length] == value
        self.cartridge.locate_block(*place)


CartridgeMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCartridgeModel = pytest.mark.timeout(300)(CartridgeMachine.TestCase)
