"""Sense data, encoded and taken apart again, in both formats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsi_targets.t10 import sense_data
from scsi_targets.t10.sense import ForwardedSense, Sense, SenseCode

BYTE = st.integers(0, 255)
senses = st.fixed_dictionaries(
    {
        "code": st.tuples(st.integers(0, 15), BYTE, BYTE).map(SenseCode._make),
        "information": st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
        "filemark": st.booleans(),
        "end_of_medium": st.booleans(),
        "incorrect_length": st.booleans(),
        "deferred": st.booleans(),
    }
).map(lambda fields: Sense(**fields))


@given(senses, st.booleans())
def test_what_is_encoded_is_found_again(given_sense, descriptor_format):
    found = sense_data.decode(given_sense.encode(descriptor_format))
    assert found is not None
    assert found._replace(command_specific=None, forwarded=None) == given_sense


@given(st.integers(0, 0xFFFF), st.booleans(), BYTE, st.binary(max_size=100), st.booleans())
def test_forwarded_sense_data(segment, by_destination, status, inner, descriptor_format):
    forwarded = ForwardedSense(by_destination, status, inner)
    whole = Sense(SenseCode(0xA, 0x0D, 0x01), command_specific=segment, forwarded=forwarded)
    found = sense_data.decode(whole.encode(descriptor_format))
    assert found is not None
    assert found.forwarded == forwarded
    assert found.command_specific is not None
    assert found.command_specific & 0xFFFF == segment


@given(st.binary(max_size=300))
def test_anything_can_be_looked_at(raw):
    found = sense_data.decode(raw)
    assert found is None or 0 <= found.code.key <= 15


@pytest.mark.parametrize("raw", [b"", b"\x70\x00", b"\x72\x03\x11", b"\x7f" * 18, bytes(18)])
def test_what_is_no_sense_data(raw):
    assert sense_data.decode(raw) is None


def test_sense_data_that_is_cut_short():
    whole = Sense(SenseCode(3, 0x11, 0), information=-5, filemark=True).encode()
    assert sense_data.decode(whole[:3]) == Sense(SenseCode(3, 0, 0), information=0, command_specific=0, filemark=True)
    assert sense_data.decode(whole[:14]).code == SenseCode(3, 0x11, 0)


@pytest.mark.parametrize("length", [233, 234, 252, 65535])
@pytest.mark.parametrize("descriptor_format", [False, True])
def test_forwarded_sense_data_longer_than_sense_data_may_be_is_cut(length, descriptor_format):
    """A unit elsewhere may send as much as iSCSI carries."""
    forwarded = ForwardedSense(True, 2, bytes([0x70, 0, 3]) + bytes(length - 3))
    whole = Sense(SenseCode(0xA, 0x0D, 0x01), information=9, command_specific=5, forwarded=forwarded)
    encoded = whole.encode(descriptor_format)
    assert len(encoded) <= 252
    assert encoded[7] == len(encoded) - 8
    found = sense_data.decode(encoded)
    assert found is not None
    assert (found.information, found.forwarded.by_destination, found.forwarded.status) == (9, True, 2)
    assert forwarded.sense.startswith(found.forwarded.sense)
    assert sense_data.decode(found.forwarded.sense).code.key == 3
    if descriptor_format:
        assert encoded[-len(found.forwarded.sense) - 2] >> 7 == (len(found.forwarded.sense) < length)
