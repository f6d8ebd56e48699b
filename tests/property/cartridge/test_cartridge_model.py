"""The cartridge does what a list of objects does, whatever the order of operations: in every form, on write-once and
append-only media, at the end of the capacity, across formats, reopening and crashes."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.property.cartridge.tape_model import RECORD_HEADER, ModelPartition, TapeModel
from tests.sim.cartridge_workload import where_encrypted
from vlib_images.cartridge.cartridge import Cartridge, ReadKind
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.partition import FILEMARK_RESERVE_BYTES, record_bytes
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import EndOfPartition, WormViolation

# Tiny segments, so that a few operations seal, chain and cut them.
LIMITS = SegmentLimits(segment_bytes=8192, segment_objects=16)
COUNTS = st.integers(-6, 6)
# Room for everything, and so little that its end is met.
CAPACITIES = st.sampled_from([1 << 30, 1 << 30, 300_000])
KEY = bytes(range(32))


def encoder(form: int) -> Encoder | None:
    """Plain, compressed, encrypted, both."""
    encryption = Encryption(EncryptionKey(KEY)) if form & 2 else None
    return Encoder(1 if form & 1 else None, encryption) if form else None


def content(seed: int, length: int) -> bytes:
    period = bytes((seed * 7 + index * 31 + length) & 0xFF for index in range(256))
    return (period * (length // 256 + 1))[:length]


class CartridgeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tapebay-model-"))
        self.serial = 0

    @initialize(partitions=st.integers(1, 3), worm=st.sampled_from([False, False, True]), capacity=CAPACITIES)
    def create(self, partitions: int, worm: bool, capacity: int) -> None:
        self.cartridge = Cartridge.create(
            self.directory / "T",
            barcode="T00001L8",
            medium=MEDIA["LTO-8 WORM" if worm else "LTO-8"],
            capacity_bytes=capacity,
            partitions=partitions,
            limits=LIMITS,
        )
        self.model = TapeModel([ModelPartition() for _ in range(partitions)], worm)
        self.into = bytearray(200_000)
        self.capacity = capacity
        self.form = 0
        self.only_plain = True
        self.prepare()

    def prepare(self) -> None:
        """What a drive does with a cartridge that it opened."""
        self.cartridge.encoder = encoder(self.form)
        self.cartridge.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(KEY))

    def teardown(self) -> None:
        if hasattr(self, "cartridge"):
            self.cartridge.close()
        shutil.rmtree(self.directory)

    def fresh(self, length: int) -> bytes:
        self.serial += 1
        return content(self.serial, length)

    def write(self, write: Callable[[], object], objects: list[bytes | None], size: int) -> None:
        """A write with everything that may stop it: the medium's rules, and its end, where the residual must be true.

        size: what one object needs of the capacity when it is stored as it is."""
        if not self.model.may_write:
            with pytest.raises(WormViolation):
                write()
            return
        self.only_plain = self.only_plain and (not self.form or objects[0] is None)
        room = FILEMARK_RESERVE_BYTES if objects[0] is None else 0
        try:
            write()
            written = len(objects)
        except EndOfPartition as stopped:
            written = stopped.blocks_written
            assert 0 <= written < len(objects)
            partition, _ = self.cartridge.position
            left = self.cartridge.partition_capacity_bytes(partition) - self.cartridge.used_bytes(partition)
            assert self.form or left + room < size
        self.model.write(*objects[:written])

    @rule(lengths=st.lists(st.sampled_from([1, 7, 512, 3000, 70_000]), min_size=1, max_size=8))
    def write_blocks_one_by_one(self, lengths: list[int]) -> None:
        for length in lengths:
            data = self.fresh(length)
            self.write(lambda data=data: self.cartridge.write_block(data), [data], record_bytes(length))

    @rule(length=st.sampled_from([1, 512, 2048]), count=st.integers(1, 40))
    def write_fixed_blocks(self, length: int, count: int) -> None:
        data = self.fresh(length * count)
        blocks: list[bytes | None] = [data[i * length : (i + 1) * length] for i in range(count)]
        self.write(lambda: self.cartridge.write_blocks(data, length), blocks, record_bytes(length))

    @rule(count=st.integers(1, 20))
    def write_filemarks(self, count: int) -> None:
        self.write(lambda: self.cartridge.write_filemarks(count), [None] * count, RECORD_HEADER)

    @rule(long=st.booleans())
    def erase(self, long: bool) -> None:
        if self.model.may_write:
            self.cartridge.erase(long)
            self.model.erase()
        else:
            with pytest.raises(WormViolation):
                self.cartridge.erase(long)

    @rule(form=st.integers(0, 3))
    def compress_and_encrypt(self, form: int) -> None:
        self.form = form
        self.cartridge.encoder = encoder(form)

    @rule(value=st.booleans())
    def append_only(self, value: bool) -> None:
        self.cartridge.append_only = self.model.append_only = value

    @rule(count=st.integers(1, 4), proportion=st.sampled_from([1.0, 0.5, 0.1]))
    def format(self, count: int, proportion: float) -> None:
        """FORMAT MEDIUM with partitions, and SET CAPACITY, which is a format to a proportion."""
        sizes = [int(self.capacity * proportion) // count] * count
        if not self.model.may_format:
            with pytest.raises(WormViolation):
                self.cartridge.format(sizes)
            return
        self.cartridge.format(sizes)
        assert [self.cartridge.partition_capacity_bytes(number) for number in range(count)] == sizes
        self.model.format(count)

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
        self.model.promise()

    @rule()
    def reopen(self) -> None:
        self.cartridge.close()
        self.cartridge = Cartridge.open(self.directory / "T", limits=LIMITS)
        assert all(report.clean for report in self.cartridge.storage.recovery), self.cartridge.storage.recovery
        self.model.promise()
        self.prepare()
        self.cartridge.locate_block(self.model.partition, self.model.position)

    @rule(flushed=st.booleans())
    def crash(self, flushed: bool) -> None:
        """As a kill -9: what is in the engine's buffers is gone, or was just written out."""
        for partition in self.cartridge.storage.partitions:
            if flushed and partition.segments.tail is not None:
                partition.segments.tail.flush()
            partition.release()
        self.cartridge.storage.lock.close()
        self.cartridge = Cartridge.open(self.directory / "T", limits=LIMITS)
        self.prepare()
        assert self.cartridge.partition_count == len(self.model.partitions)
        for number, (partition, found) in enumerate(zip(self.model.partitions, self.contents(), strict=True)):
            assert found in partition.past, f"partition {number}: {len(found)} objects"
            assert not flushed or found == partition.past[-1]
            partition.objects = list(found)
        self.model.promise()
        self.model.partition = self.model.position = 0
        self.cartridge.locate_block(0, 0)

    def contents(self) -> list[tuple[bytes | None, ...]]:
        found = []
        for number in range(self.cartridge.partition_count):
            self.cartridge.locate_block(number, 0)
            objects: list[bytes | None] = []
            encrypted: list[bool | None] = []
            while not self.cartridge.at_eod:
                status = self.cartridge.next_block_status()
                encrypted.append(None if status is None else status.encrypted)
                result = self.cartridge.read_block(self.into)
                objects.append(bytes(self.into[: result.length]) if result.kind is ReadKind.BLOCK else None)
            found.append(tuple(objects))
            assert self.cartridge.encrypted_blocks(number) == where_encrypted(encrypted)
        return found

    @invariant()
    def same_place(self) -> None:
        if not hasattr(self, "cartridge"):
            return
        assert self.cartridge.position == (self.model.partition, self.model.position)
        assert self.cartridge.file_number == self.model.file_number()
        assert self.cartridge.at_eod == (self.model.position == len(self.model.objects))
        for number, partition in enumerate(self.model.partitions):
            assert self.cartridge.end_of_data(number) == len(partition.objects)
            if not self.only_plain:
                continue
            used = sum(32 if value is None else (32 + len(value) + 7) & ~7 for value in partition.objects)
            # Sync marks and truncation records are all that may come on top.
            assert used <= self.cartridge.used_bytes(number) <= used + 32 * 1000

    @invariant()
    def whole_content(self) -> None:
        if not hasattr(self, "cartridge") or self.serial % 4:
            return
        place = self.cartridge.position
        assert self.contents() == [tuple(partition.objects) for partition in self.model.partitions]
        self.cartridge.locate_block(*place)


CartridgeMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# Hypothesis shrinks a failure for up to 300 s; a timeout before would hide it.
TestCartridgeModel = pytest.mark.timeout(450)(CartridgeMachine.TestCase)
