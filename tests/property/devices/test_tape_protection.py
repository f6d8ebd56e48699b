"""Logical block protection: what one method wrote every way of reading gives back; no flipped bit comes through."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scsi_targets.t10 import ssc
from tests.property.devices.test_tape import fresh_drive
from tests.unit.devices.support import send, sense_of
from tests.unit.devices.tape.encryption_support import set_encryption
from tests.unit.devices.tape.protection_support import EXTRA, METHODS, flipped, protect, sealed
from tests.unit.devices.tape.support import good, moved, position, read, rewind, set_block_length, stream_sense, write
from tests.unit.devices.tape.test_compression import compress

NONE = 0
WAYS = st.sampled_from([NONE, *METHODS])
BLOCKS = st.lists(st.tuples(st.binary(min_size=1, max_size=3000), st.integers(1, 20)), min_size=1, max_size=6)


def travelling(data, way):
    """A block as it goes over the wire."""
    return sealed(data, way) if way else data


@settings(max_examples=80, deadline=None)
@given(BLOCKS, st.lists(WAYS, min_size=6, max_size=6), WAYS, st.booleans(), st.booleans())
def test_every_way_of_writing_and_reading_agrees(blocks, writing, reading, compressing, encrypting):
    tape = [piece * times for piece, times in blocks]
    with fresh_drive() as drive:
        good(compress(drive, compressing))
        if encrypting:
            good(set_encryption(drive))
        for data, way in zip(tape, writing, strict=False):
            protect(drive, way)
            good(write(drive, travelling(data, way)))
        protect(drive, reading)
        rewind(drive)
        for data in tape:
            whole = travelling(data, reading)
            assert moved(good(read(drive, len(whole)))) == whole
        assert sense_of(read(drive, 1)) == (8, 0, 5)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 600), st.integers(1, 12), st.sampled_from(METHODS), WAYS, st.randoms(use_true_random=False))
def test_a_flipped_bit_in_a_fixed_write_stops_it_at_that_block(length, count, writing, reading, rng):
    tape = [rng.randbytes(length) for _ in range(count)]
    slot = length + EXTRA
    data = b"".join(sealed(block, writing) for block in tape)
    bit = rng.randrange(len(data) * 8)
    bad = bit // 8 // slot
    cdb = ssc.Write6.encode(fixed=1, transfer_length=count)
    with fresh_drive() as drive:
        good(set_block_length(drive, slot))
        protect(drive, writing)
        response = send(drive, cdb, data=flipped(data, bit))
        assert stream_sense(response) == (0, 4, 0x10, 0x01, count - bad)
        assert position(drive) == (0, bad)
        rest = ssc.Write6.encode(fixed=1, transfer_length=count - bad)
        good(send(drive, rest, data=data[bad * slot :]))
        protect(drive, reading)
        good(set_block_length(drive, slot if reading else length))
        rewind(drive)
        whole = b"".join(travelling(block, reading) for block in tape)
        assert moved(good(read(drive, count, fixed=1))) == whole


@settings(max_examples=80, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(1, 300), st.sampled_from(METHODS))
def test_any_length_of_a_read_is_a_cut_of_the_protected_block(data, asked, method):
    with fresh_drive() as drive:
        good(write(drive, data))
        protect(drive, method)
        rewind(drive)
        whole = sealed(data, method)
        response = read(drive, asked)
        assert moved(response) == whole[:asked]
        if asked == len(whole):
            good(response)
        else:
            assert stream_sense(response) == (0x20, 0, 0, 0, asked - len(whole))
