"""CAT and PAD between unlike block lengths, in every combination, against a model of SPC-5 5.17.7.2 that shares nothing
with the copy manager: bytes in lists."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.copying.support import Site, content
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import sense_of

DISK_BYTES = 128 * 512
TAPE_BLOCKS = 250
GOOD, INEXACT, RAN_OUT = "good", "inexact", "ran out"
# CSCD descriptors, in this order in every list.
SMALL, BIG, TAPE, OTHER, FIXED = range(5)
BLOCK_BYTES = {SMALL: 512, BIG: 4096}
FIXED_BYTES = 96


class Stop(Exception):
    """The copy ends in this segment."""


class Model:
    """Devices as bytes, and the two kinds of residue."""

    def __init__(self, disks, tape_block, pads):
        self.disks = {number: bytearray(data) for number, data in disks.items()}
        self.tape_blocks = [content(tape_block, seed) for seed in range(TAPE_BLOCKS)]
        self.read_blocks = 0
        self.written = []  # on the other drive
        self.pads = pads
        self.source, self.sink = b"", b""

    def run(self, segments):
        for number, segment in enumerate(segments):
            try:
                self.one(**segment)
            except Stop as stop:
                return number, str(stop)
        return len(segments), GOOD

    def one(self, *, take, put, length, counts_sink=False, cat, source=None, destination=None, only_new=False):
        """take(n) reads at least n bytes or raises Stop; put(data) writes whole units and returns the rest."""
        wanted = length
        if counts_sink:
            wanted -= min(len(self.sink), length)
            carried, kept = self.sink[:length], self.sink[length:]
        else:
            carried, kept = self.sink, b""
        have = b"" if only_new else self.source
        ran_out = None
        while len(have) < wanted:
            try:
                have += take(wanted - len(have))
            except Stop as stop:
                ran_out, wanted = stop, len(have)
        if only_new:
            data = have
        else:
            data, self.source = have[:wanted], have[wanted:]
        if put is None:
            rest = self.sink
        else:
            rest = put(carried + data) + kept
        if ran_out is not None:
            raise ran_out
        self.settle(cat, source, destination, rest, put, only_new, late=bool(kept))

    def settle(self, cat, source, destination, rest, put, only_new, *, late):
        if cat:
            self.sink = rest
            return
        source_pad = source is not None and self.pads[source]
        sink_pad = destination is not None and self.pads[destination]
        fails = not source_pad and not sink_pad
        if self.source and not only_new:
            if fails:
                raise Stop(INEXACT)
            if source_pad:
                self.source = b""
        if put is None:
            self.sink = rest
            return
        if rest and (fails or (sink_pad and late)):
            raise Stop(INEXACT)
        if rest and sink_pad:
            assert put(rest, pad=True) == b""
        self.sink = b""

    # ---- sources ---------------------------------------------------------------------------------------------------

    def from_tape(self, per_transfer):
        def take(_):
            blocks = self.tape_blocks[self.read_blocks : self.read_blocks + per_transfer]
            self.read_blocks += per_transfer
            assert len(blocks) == per_transfer, "the tape is long enough for every example"
            return b"".join(blocks)

        return take

    def from_disk(self, disk, at, unit):
        state = {"at": at}

        def take(_):
            data = bytes(self.disks[disk][state["at"] : state["at"] + unit])
            state["at"] += unit
            assert len(data) == unit, "no example goes behind the end"
            return data

        return take

    # ---- destinations ----------------------------------------------------------------------------------------------

    def to_tape(self, transfer, block=None):
        def put(data, pad=False):
            if pad:
                data = data.ljust(-(-len(data) // transfer) * transfer, b"\0")
            whole = len(data) - len(data) % transfer
            step = block or transfer
            self.written += [data[at : at + step] for at in range(0, whole, step)]
            return data[whole:]

        return put

    def to_disk(self, disk, at, unit):
        state = {"at": at}

        def put(data, pad=False):
            if pad:
                data = data.ljust(-(-len(data) // unit) * unit, b"\0")
            whole = len(data) - len(data) % unit
            self.disks[disk][state["at"] : state["at"] + whole] = data[:whole]
            state["at"] += whole
            return data[whole:]

        return put


disk_numbers = st.sampled_from([SMALL, BIG])
transfers = st.sampled_from([100, 512, 700, 1000, 4096, 5000])
counts = st.integers(0, 4)
byte_counts = st.integers(0, 5000)


@st.composite
def a_segment(draw, tape_block):
    """(descriptor, what the model makes of it, inline data wanted) of one segment of any type that moves data."""
    cat = draw(st.integers(0, 1))
    kind = draw(st.sampled_from(["b2s", "s2b", "b2b", "s2s", "embedded", "discard", "ob2s", "s2ob", "ob2ob", "fixed"]))
    disk, target = draw(disk_numbers), draw(disk_numbers)
    transfer, number, length = draw(transfers), draw(counts), draw(byte_counts)
    block = draw(st.integers(0, 3))
    offset = draw(st.integers(0, 5000))
    here, there = block * BLOCK_BYTES[disk], 32768 + block * BLOCK_BYTES[target]
    lba, far = block, there // BLOCK_BYTES[target]
    if kind in ("b2s", "fixed"):
        destination = FIXED if kind == "fixed" else OTHER
        blocks = draw(st.integers(1, 9))
        raw = copy.BlockToStream.encode(
            cat=cat, source=disk, destination=destination, number_of_blocks=number, logical_block_address=lba,
            stream_device_transfer_length=blocks if kind == "fixed" else transfer,
        )  # fmt: skip
        size = (blocks * FIXED_BYTES, FIXED_BYTES) if kind == "fixed" else (transfer,)
        return raw, lambda m: {
            "take": m.from_disk(disk, here, BLOCK_BYTES[disk]), "put": m.to_tape(*size), "cat": cat,
            "length": number * BLOCK_BYTES[disk], "source": disk, "destination": destination,
        }  # fmt: skip
    if kind == "s2b":
        raw = copy.StreamToBlock.encode(
            cat=cat, source=TAPE, destination=target, number_of_blocks=number, logical_block_address=far,
            stream_device_transfer_length=tape_block,
        )  # fmt: skip
        return raw, lambda m: {
            "take": m.from_tape(1), "put": m.to_disk(target, there, BLOCK_BYTES[target]), "cat": cat,
            "length": number * BLOCK_BYTES[target], "counts_sink": True, "source": TAPE, "destination": target,
        }  # fmt: skip
    if kind == "b2b":
        counts_sink = draw(st.booleans())
        raw = copy.BlockToBlock.encode(
            cat=cat, source=disk, destination=target, number_of_blocks=number, destination_count=counts_sink,
            source_logical_block_address=lba, destination_logical_block_address=far,
        )  # fmt: skip
        return raw, lambda m: {
            "take": m.from_disk(disk, here, BLOCK_BYTES[disk]),
            "put": m.to_disk(target, there, BLOCK_BYTES[target]),
            "length": number * BLOCK_BYTES[target if counts_sink else disk], "counts_sink": counts_sink,
            "cat": cat, "source": disk, "destination": target,
        }  # fmt: skip
    if kind == "s2s":
        raw = copy.StreamToStream.encode(
            cat=cat, source=TAPE, destination=OTHER, source_stream_device_transfer_length=tape_block,
            destination_stream_device_transfer_length=transfer, byte_count=length,
        )  # fmt: skip
        return raw, lambda m: {
            "take": m.from_tape(1), "put": m.to_tape(transfer), "length": length, "cat": cat,
            "source": TAPE, "destination": OTHER,
        }  # fmt: skip
    if kind == "embedded":
        data = content(length, seed=77)
        raw = copy.embedded_to_stream(data, cat=cat, destination=OTHER, stream_device_transfer_length=transfer)
        return raw, lambda m: {
            "take": lambda wanted: data, "put": m.to_tape(transfer), "length": length, "cat": cat,
            "destination": OTHER, "only_new": True,
        }  # fmt: skip
    if kind == "discard":
        raw = copy.StreamToDiscard.encode(
            cat=cat, source=TAPE, stream_device_transfer_length=tape_block, number_of_bytes=length
        )
        return raw, lambda m: {"take": m.from_tape(1), "put": None, "length": length, "cat": cat, "source": TAPE}
    if kind == "ob2s":
        raw = copy.BlockWithOffsetToStream.encode(
            cat=cat, source=disk, destination=OTHER, stream_device_transfer_length=transfer, number_of_bytes=length,
            logical_block_address=lba, byte_offset=offset,
        )  # fmt: skip
        return raw, lambda m: {
            "take": m.from_disk(disk, here + offset, 1), "put": m.to_tape(transfer), "length": length, "cat": cat,
            "source": disk, "destination": OTHER,
        }  # fmt: skip
    if kind == "s2ob":
        raw = copy.StreamToBlockWithOffset.encode(
            cat=cat, source=TAPE, destination=target, stream_device_transfer_length=tape_block,
            number_of_bytes=length, logical_block_address=far, byte_offset=offset,
        )  # fmt: skip
        return raw, lambda m: {
            "take": m.from_tape(1), "put": m.to_disk(target, there + offset, 1), "length": length,
            "counts_sink": True, "cat": cat, "source": TAPE, "destination": target,
        }  # fmt: skip
    raw = copy.BlockWithOffsetToBlockWithOffset.encode(
        cat=cat, source=disk, destination=target, number_of_bytes=length, source_logical_block_address=lba,
        source_byte_offset=offset, destination_logical_block_address=far, destination_byte_offset=offset,
    )  # fmt: skip
    return raw, lambda m: {
        "take": m.from_disk(disk, here + offset, 1), "put": m.to_disk(target, there + offset, 1), "length": length,
        "cat": cat, "source": disk, "destination": target,
    }  # fmt: skip


@st.composite
def a_copy(draw):
    tape_block = draw(st.sampled_from([333, 512, 1000, 3000]))
    segments = draw(st.lists(a_segment(tape_block), min_size=1, max_size=5))
    return tape_block, draw(st.tuples(*[st.booleans()] * 5)), segments


@pytest.fixture(scope="module")
def site():
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        site.big = make_disk(Path(directory), name="big", block_length=4096, blocks=DISK_BYTES // 4096)
        site.add(site.big)
        yield site
        site.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(a_copy())
def test_residue_as_the_model_has_it(site, given_copy):
    tape_block, pads, segments = given_copy
    images = {SMALL: content(DISK_BYTES, 50), BIG: content(DISK_BYTES, 51)}
    media = {SMALL: site.disk.medium, BIG: site.big.medium}
    for number, data in images.items():
        media[number].write(data, 0)
    model = Model(images, tape_block, pads)
    for drive in (site.tape, site.other):
        drive.loaded.rewind()
    site.fill(model.tape_blocks)
    site.other.loaded.write_filemarks(1)  # which ends what an earlier example wrote
    segment, how = model.run([make(model) for _, make in segments])

    cscds = [
        site.disk_descriptor(pad=pads[SMALL]),
        copy.identification_descriptor(site.big.identity.naa, device_type=0, pad=pads[BIG]),
        site.tape_descriptor(pad=pads[TAPE]),
        site.tape_descriptor(site.other, pad=pads[OTHER]),
        site.tape_descriptor(site.other, pad=pads[FIXED], fixed=True, block_length=FIXED_BYTES),
    ]
    response = site.copy(*[raw for raw, _ in segments], cscds=cscds)
    if how == GOOD:
        assert response.status == 0, response.sense.hex()
    else:
        assert sense_of(response) == (0xA, 0x26, 0x0A)
        assert int.from_bytes(response.sense[10:12], "big") == segment
    assert site.written(site.other)[1:] == model.written
    assert site.tape.loaded.position[1] == model.read_blocks
    for number, medium in media.items():
        image = bytearray(DISK_BYTES)
        medium.read_into(image, 0)
        assert image == model.disks[number]
