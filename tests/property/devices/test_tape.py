"""A tape drive against a tape that is a list: the same commands, data, sense and positions. And any CDB at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.t10 import ssc
from tests.unit.devices.support import send
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    FILEMARK,
    INCORRECT_LENGTH,
    loaded_drive,
    moved,
    position,
    send_slow,
    set_block_length,
    stream_sense,
)

MARK = None  # a filemark on the model's tape
GOOD = None
BLANK = (8, 0x00, 0x05)


@contextmanager
def fresh_drive() -> Iterator[TapeDrive]:
    with tempfile.TemporaryDirectory() as directory:
        drives = loaded_drive(Path(directory))
        yield next(drives)
        drives.close()


@dataclass
class Model:
    """SSC-3's rules, written down once more in the plainest way."""

    tape: list[bytes | None] = field(default_factory=list)
    at: int = 0

    def write(self, *objects: bytes | None) -> None:
        self.tape[self.at :] = objects
        self.at = len(self.tape)

    def read(self, length: int) -> tuple[object, bytes]:
        if self.at == len(self.tape):
            return (0, *BLANK, length), b""
        found = self.tape[self.at]
        self.at += 1
        if found is MARK:
            return (FILEMARK, 0, 0, 1, length), b""
        sense = GOOD if len(found) == length else (INCORRECT_LENGTH, 0, 0, 0, length - len(found))
        return sense, found[:length]

    def read_fixed(self, block_length: int, count: int) -> tuple[object, bytes]:
        data = b""
        for left in range(count, 0, -1):
            before = self.at
            sense, block = self.read(block_length)
            if sense is not GOOD:
                return (*sense[:4], left), data
            assert self.at == before + 1
            data += block
        return GOOD, data

    def space_blocks(self, count: int) -> object:
        step = 1 if count > 0 else -1
        for left in range(abs(count), 0, -1):
            here = self.at if step > 0 else self.at - 1
            if here == len(self.tape):
                return (0, *BLANK, left)
            if here < 0:
                return (END_OF_MEDIUM, 0, 0, 4, left)
            self.at += step
            if self.tape[here] is MARK:
                return (FILEMARK, 0, 0, 1, left)
        return GOOD

    def space_filemarks(self, count: int) -> object:
        left, step = abs(count), 1 if count > 0 else -1
        while left:
            here = self.at if step > 0 else self.at - 1
            if here == len(self.tape):
                return (0, *BLANK, left)
            if here < 0:
                return (END_OF_MEDIUM, 0, 0, 4, left)
            self.at += step
            left -= self.tape[here] is MARK
        return GOOD

    def locate(self, block: int) -> object:
        self.at = min(block, len(self.tape))
        return GOOD if block <= len(self.tape) else (0, *BLANK, None)

    @property
    def file_number(self) -> int:
        return self.tape[: self.at].count(MARK)


commands = st.one_of(
    st.tuples(st.just("write"), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("write fixed"), st.integers(1, 5)),
    st.tuples(st.just("filemarks"), st.integers(0, 3)),
    st.tuples(st.just("read"), st.sampled_from([1, 8, 20, 64])),
    st.tuples(st.just("read fixed"), st.integers(1, 6)),
    st.tuples(st.just("space blocks"), st.integers(-6, 6)),
    st.tuples(st.just("space filemarks"), st.integers(-4, 4)),
    st.tuples(st.just("locate"), st.integers(0, 30)),
    st.tuples(st.just("end of data"), st.none()),
    st.tuples(st.just("rewind"), st.none()),
    st.tuples(st.just("remount"), st.none()),
)

BLOCK = 8  # the fixed block length


def both(drive: TapeDrive, model: Model, name: str, value: object) -> None:
    """One command on the drive and on the model: the same outcome and the same position."""
    sense, data, response = GOOD, b"", None
    if name == "write":
        response = send(drive, ssc.Write6.encode(transfer_length=len(value)), data=value)
        model.write(value)
    elif name == "write fixed":
        blocks = [bytes([n]) * BLOCK for n in range(value)]
        response = send(drive, ssc.Write6.encode(fixed=1, transfer_length=value), data=b"".join(blocks))
        model.write(*blocks)
    elif name == "filemarks":
        response = send(drive, ssc.WriteFilemarks6.encode(filemark_count=value))
        if value:
            model.write(*[MARK] * value)
    elif name == "read":
        response = send(drive, ssc.Read6.encode(transfer_length=value))
        sense, data = model.read(value)
    elif name == "read fixed":
        response = send(drive, ssc.Read6.encode(fixed=1, transfer_length=value))
        sense, data = model.read_fixed(BLOCK, value)
    elif name == "space blocks":
        response = send(drive, ssc.Space6.encode(code=0, count=value & 0xFFFFFF))
        sense = model.space_blocks(value)
    elif name == "space filemarks":
        response = send(drive, ssc.Space16.encode(code=1, count=value & (1 << 64) - 1))
        sense = model.space_filemarks(value)
    elif name == "locate":
        response = send(drive, ssc.Locate16.encode(logical_identifier=value))
        sense = model.locate(value)
    elif name == "end of data":
        response = send(drive, ssc.Space6.encode(code=3))
        model.at = len(model.tape)
    elif name == "rewind":
        response = send(drive, ssc.Rewind.encode())
        model.at = 0
    else:
        send(drive, ssc.LoadUnload.encode())
        response = send(drive, ssc.LoadUnload.encode(load=1))
        model.at = 0
    assert (stream_sense(response) if response.status else GOOD) == sense
    assert moved(response) == data
    assert position(drive) == (0, model.at)
    assert drive.medium.file_number == model.file_number


@settings(max_examples=60, deadline=None, print_blob=True)
@given(st.lists(commands, max_size=40))
def test_the_drive_is_the_model(sequence):
    with fresh_drive() as drive:
        set_block_length(drive, BLOCK)
        model = Model()
        for name, value in sequence:
            both(drive, model, name, value)


OPERATION_CODES = sorted(TapeDrive.rows)
cdbs = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.tuples(st.sampled_from(OPERATION_CODES), st.binary(min_size=15, max_size=15)).map(
        lambda p: bytes([p[0]]) + p[1]
    ),
    st.tuples(
        st.sampled_from(OPERATION_CODES),
        st.lists(st.sampled_from([0, 1, 2, 4, 8, 0x10, 0x3F, 0xFF]), min_size=15, max_size=15),
    ).map(lambda p: bytes([p[0], *p[1]])),
)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(st.lists(st.tuples(cdbs, st.binary(max_size=300)), min_size=1, max_size=30))
def test_any_cdb_gets_an_answer_and_never_an_internal_failure(commands):
    with fresh_drive() as drive:
        for cdb, data in commands:
            cdb = cdb[:15] + b"\0" if cdb[0] >= 0x80 else cdb
            response = send_slow(drive, cdb, data_out=data, data_in_limit=1 << 16)
            assert response.status in (0x00, 0x02, 0x18, 0x28)
            if response.status == 0x02:
                fixed = response.sense[0] & 0x7E == 0x70
                key = response.sense[2 if fixed else 1] & 0x0F
                assert key != 4, (cdb.hex(), response.sense.hex())
            assert response.data_in is None or len(memoryview(response.data_in)) <= response.data_length
