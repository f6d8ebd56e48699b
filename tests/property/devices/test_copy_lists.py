"""EXTENDED COPY with whatever a peer may send. The written invariant: the answer is GOOD, or ILLEGAL REQUEST, or COPY
ABORTED that forwards what a disk or drive itself may say; never an internal failure; afterwards every unit is free."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense_data
from scsi_targets.t10.fields import Bits
from tests.unit.devices.copying.support import Site, content, extended_copy

INTERNAL = (4, 0x44, 0x00)
ILLEGAL_REQUEST, COPY_ABORTED = 0x5, 0xA

identifiers = st.sampled_from([0, 1, 2, 3, 4, 5, copy.THIS_LOGICAL_UNIT])
numbers = st.sampled_from([0, 1, 2, 3, 8, 100, 511, 512, 513, 4096, 65535, 1 << 20, (1 << 24) - 1, (1 << 32) - 1])


def value(name, field):
    if name in ("source", "destination"):
        return identifiers
    largest = (1 << field.width) - 1
    return st.one_of(numbers, st.sampled_from([largest, largest - 1]), st.integers(0, largest)).map(
        lambda number: min(number, largest)
    )


@st.composite
def a_segment(draw):
    kind = draw(st.sampled_from(list(copy.SegmentDescriptor.types.values())))
    fields = {name: draw(value(name, field)) for name, field in kind.fields.items() if isinstance(field, Bits)}
    if kind is copy.EmbeddedToStream:
        fields.pop("embedded_data_number_of_bytes")
        return copy.embedded_to_stream(draw(st.binary(max_size=64)), **fields)
    return kind.encode(**fields)


@st.composite
def a_list(draw, site):
    cscds = [
        site.disk_descriptor(pad=draw(st.booleans())),
        site.tape_descriptor(pad=draw(st.booleans())),
        site.tape_descriptor(site.other, fixed=True, block_length=draw(st.sampled_from([1, 512, 1000, 1 << 20]))),
        copy.identification_descriptor(b"\3" * 8, device_type=0, null=True, pad=draw(st.booleans())),
        copy.identification_descriptor(b"\3" * 8, device_type=1),
    ]
    whole = bytearray(
        copy.parameter_list(
            cscds,
            draw(st.lists(a_segment(), max_size=4)),
            draw(st.binary(max_size=64)),
            list_identifier=draw(st.integers(0, 3)),
        )
    )
    for _ in range(draw(st.integers(0, 2))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole)


@pytest.fixture(scope="module")
def site():
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        yield site
        site.close()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_any_list_has_an_answer_and_leaves_nothing_behind(site, data):
    whole = data.draw(a_list(site))
    for drive, seed in ((site.tape, 1), (site.other, 2)):
        drive.loaded.rewind()
        site.fill([content(512, seed), content(1000, seed), None, content(512, seed)], drive)
    response = extended_copy(site, whole)
    if response.status:
        assert response.status == 0x02
        found = sense_data.decode(response.sense)
        assert found is not None
        assert found.code.key in (ILLEGAL_REQUEST, COPY_ABORTED), found
        if found.forwarded is not None and found.forwarded.sense:
            inner = sense_data.decode(found.forwarded.sense)
            assert inner is not None
            assert tuple(inner.code) != INTERNAL
    for drive in (site.tape, site.other):
        assert drive.occupy(5)
        drive.vacate()
