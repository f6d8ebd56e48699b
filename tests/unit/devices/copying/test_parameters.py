"""Parameter lists that are wrong: nothing is copied, and the sense data points at the byte."""

import pytest

from scsi_targets.devices.copying import limits as copy_limits
from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.copying.support import Site, block_to_stream, extended_copy
from tests.unit.devices.support import data_of, send, sense_of

ILLEGAL, ABORTED = 5, 0xA


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    assert site.written() == []
    site.close()


def pointer(response):
    """(flags, byte) of the sense key specific field."""
    return response.sense[15], int.from_bytes(response.sense[16:18], "big")


def patched(site, changes, segments=None, inline=b"", **header):
    data = bytearray(copy.parameter_list(site.descriptors, segments or [block_to_stream(512, 1)], inline, **header))
    for offset, value in changes.items():
        data[offset : offset + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "code", "at"),
    [
        ({1: b"\x08"}, (ILLEGAL, 0x26, 0x00), 1),  # LIST ID USAGE 01b is reserved
        ({0: b"\x05\x18"}, (ILLEGAL, 0x26, 0x00), 0),  # usage 11b with a list identifier
        ({2: b"\x00\x21"}, (ILLEGAL, 0x26, 0x00), 2),  # not whole CSCD descriptors
        ({2: b"\x10\x00"}, (ILLEGAL, 0x26, 0x06), 2),  # too many of them
        ({12: b"\x01\x00\x00\x00"}, (ILLEGAL, 0x26, 0x0B), 12),  # too much inline data
        ({16: b"\xe5"}, (ILLEGAL, 0x26, 0x07), 16),  # an unsupported CSCD descriptor
        ({48: b"\xe0"}, (ILLEGAL, 0x26, 0x07), 48),
        ({21: b"\x13"}, (ILLEGAL, 0x26, 0x00), 21),  # a target port's designator
        ({23: b"\x15"}, (ILLEGAL, 0x26, 0x00), 23),  # a designator of 21 bytes
        ({45: b"\x00\x10\x00"}, (ILLEGAL, 0x26, 0x00), 45),  # another block length than the disk's
        ({76: b"\x01"}, (ILLEGAL, 0x26, 0x00), 77),  # FIXED without a block length
        ({77: b"\x00\x02\x00"}, (ILLEGAL, 0x26, 0x00), 77),  # a block length without FIXED
        ({80: b"\x0b"}, (ILLEGAL, 0x26, 0x09), 80),  # an unsupported segment descriptor
        ({80: b"\xbe"}, (ILLEGAL, 0x26, 0x09), 80),
        ({83: b"\x15"}, (ILLEGAL, 0x26, 0x00), 82),  # a wrong descriptor length
        ({80: b"\x03"}, (ILLEGAL, 0x26, 0x00), 82),  # between tapes, which has another length
        ({89: b"\x00\x00\x00"}, (ILLEGAL, 0x26, 0x00), 89),  # a transfer length of nothing
    ],
)
def test_what_is_wrong_and_where(site, changes, code, at):
    response = extended_copy(site, patched(site, changes))
    assert sense_of(response) == code
    assert pointer(response) == (0x80, at)
    assert not response.sense[0] & 0x80  # no INFORMATION (SPC-5 5.17.7.3)


def test_lists_that_are_cut_short(site):
    whole = patched(site, {})
    for length in (1, 15, 16, 47, len(whole) - 1):
        assert sense_of(extended_copy(site, whole[:length])) == (ILLEGAL, 0x1A, 0x00), length
    cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(whole))
    assert sense_of(send(site.disk, cdb, data=whole[:-1])) == (ILLEGAL, 0x1A, 0x00)
    assert sense_of(send(site.disk, cdb)) == (ILLEGAL, 0x1A, 0x00)


@pytest.mark.parametrize("length", [0, 8, 11, 13, 14, 18])
def test_a_descriptor_with_data_has_whole_words(site, length):
    segment = bytearray(copy.embedded_to_stream(bytes(4), destination=1, stream_device_transfer_length=4))
    segment[2:4] = length.to_bytes(2, "big")
    response = extended_copy(site, patched(site, {}, [bytes(segment)]))
    assert (sense_of(response), pointer(response)) == ((ILLEGAL, 0x26, 0x00), (0x80, 82))


def test_embedded_data_that_is_not_there(site):
    segment = copy.embedded_to_stream(bytes(8), destination=1, stream_device_transfer_length=4)
    response = extended_copy(site, patched(site, {92: b"\x00\x09"}, [segment]))
    assert (sense_of(response), pointer(response)) == ((ILLEGAL, 0x26, 0x00), (0x80, 92))
    cut = patched(site, {}, [segment])[:-4]
    assert sense_of(extended_copy(site, cut)) == (ILLEGAL, 0x1A, 0x00)
    claimed = patched(site, {82: b"\xff\xfc"}, [segment])  # its data would lie behind the list's end
    assert sense_of(extended_copy(site, claimed)) == (ILLEGAL, 0x1A, 0x00)


def test_a_cscd_descriptor_that_is_not_there(site):
    for at, byte in ((85, 4), (87, 6)):
        response = extended_copy(site, patched(site, {at: b"\x02"}))
        assert (sense_of(response), pointer(response)) == ((ABORTED, 0x08, 0x04), (0xAF, byte))


def test_a_list_longer_than_the_longest(site):
    longest = copy.BlockWithOffsetToBlockWithOffset.encode()
    segments = [longest] * copy_limits.MAXIMUM_SEGMENT_DESCRIPTORS
    most = [site.disk_descriptor()] * copy_limits.MAXIMUM_CSCD_DESCRIPTORS
    for cscds, more in ((most * 2, []), ([*most, most[0]], segments[:1])):
        data = copy.parameter_list(cscds, [*segments, *more], list_identifier=1)
        assert sense_of(extended_copy(site, data)) == (ILLEGAL, 0x1A, 0x00)
    data = copy.parameter_list([*most, most[0]], segments[:1], list_identifier=1)
    assert sense_of(extended_copy(site, data)) == (ILLEGAL, 0x26, 0x06)


def test_too_many_segments(site):
    segments = [copy.VerifyCscd.encode(source=0)] * (copy_limits.MAXIMUM_SEGMENT_DESCRIPTORS + 1)
    response = extended_copy(site, patched(site, {}, segments))
    assert sense_of(response) == (ILLEGAL, 0x26, 0x08)


def test_a_transfer_longer_than_the_limit(site):
    tape = site.tape_descriptor(fixed=True, block_length=1 << 20)
    response = site.copy(block_to_stream(17, 1), cscds=[site.disk_descriptor(), tape])
    assert (sense_of(response), pointer(response)) == ((ILLEGAL, 0x26, 0x00), (0x80, 89))


def test_units_that_are_not_there_or_something_else(site):
    stranger = copy.identification_descriptor(b"\x31" + bytes(7), device_type=0)
    response = site.copy(block_to_stream(512, 1), cscds=[stranger, site.tape_descriptor()])
    assert (sense_of(response), pointer(response)) == ((ABORTED, 0x0D, 0x02), (0x80, 16))
    verify = copy.VerifyCscd.encode(source=0)
    response = site.copy(verify, block_to_stream(512, 1), cscds=[site.disk_descriptor(), stranger])
    assert (sense_of(response), pointer(response)) == ((ABORTED, 0x0D, 0x02), (0x80, 48))
    assert response.sense[8:12] == bytes([0, 0, 0, 1])
    response = site.copy(block_to_stream(512, 1), cscds=[site.disk_descriptor(device_type=1, block_length=0)] * 2)
    assert (sense_of(response), pointer(response)) == ((ABORTED, 0x0D, 0x03), (0x80, 16))


def test_a_segment_type_for_tapes_between_disks_is_not_supported(site):
    between = copy.StreamToStream.encode(
        source=0, destination=1, byte_count=512, source_stream_device_transfer_length=512,
        destination_stream_device_transfer_length=512,
    )  # fmt: skip
    response = site.copy(between, cscds=[site.disk_descriptor()] * 2)
    assert sense_of(response) == (ILLEGAL, 0x26, 0x09)
    response = site.copy(between, cscds=[site.disk_descriptor(), site.tape_descriptor()])
    assert sense_of(response) == (ABORTED, 0x26, 0x0C)


def test_a_disk_where_a_tape_is_wanted(site):
    response = site.copy(block_to_stream(512, 1), cscds=[site.disk_descriptor()] * 2)
    assert (sense_of(response), pointer(response)) == ((ABORTED, 0x26, 0x0C), (0xAF, 6))
    mark = copy.WriteFilemarks.encode(destination=0, filemark_count=1)
    response = site.copy(copy.VerifyCscd.encode(source=0), mark)
    assert (sense_of(response), pointer(response)) == ((ABORTED, 0x26, 0x0C), (0xAF, 6))
    assert response.sense[8:12] == bytes([0, 0, 0, 1])


def test_inline_data_that_is_not_there(site):
    def inline(offset, number):
        return copy.InlineToStream.encode(
            destination=1,
            stream_device_transfer_length=512,
            inline_data_offset=offset,
            inline_data_number_of_bytes=number,
        )

    response = site.copy(inline(512, 513), inline=bytes(1024))
    assert (sense_of(response), pointer(response)) == ((ABORTED, 0x26, 0x0B), (0xAF, 16))
    response = site.copy(inline(510, 512), inline=bytes(1024))
    assert (sense_of(response), pointer(response)) == ((ILLEGAL, 0x26, 0x00), (0x80, 92))


ANSWERS = {(ILLEGAL, 0x26), (ILLEGAL, 0x1A), (ABORTED, 0x08), (ABORTED, 0x0D), (ABORTED, 0x26)}


def test_every_byte_of_a_list_may_be_anything(site):
    """Whatever stands in a parameter list, the answer is GOOD or one of the codes for parameters."""
    whole = patched(site, {}, [copy.VerifyCscd.encode(source=0), copy.VerifyCscd.encode(source=1),
        copy.embedded_to_stream(b"", destination=1, stream_device_transfer_length=4)])  # fmt: skip
    for offset in range(len(whole)):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            response = extended_copy(site, whole[:offset] + bytes([value]) + whole[offset + 1 :])
            if response.status:
                key, asc, _ = sense_of(response)
                assert (key, asc) in ANSWERS, (offset, value)


def test_what_is_supported_is_said_in_one_way(site):
    types = bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xA, 0x10, 0x11, 0x12, 0xE4])
    for unit in (site.disk, site.tape):
        data = data_of(send(unit, copy.ReceiveCopyOperatingParameters.encode(allocation_length=4096)))
        said = copy.OperatingParameters.decode(data)
        assert said.available_data == len(data) - 4
        assert data[44:] == types
        assert (said.supports_no_list_identifier, said.implemented_descriptor_list_length) == (1, len(types))
        page = data_of(send(unit, bytes([0x12, 1, 0x8F, 0x10, 0, 0])))
        found = descriptors(page[4:])
        assert list(found) == [0x0001, 0x0004, 0x0008, 0x000C, 0x8001, 0x9101]
        assert found[0x0001][: 1 + found[0x0001][0]] == bytes([11, 0x83, 3, 0, 1, 0x1C, 0x84, 4, 0, 3, 4, 5])
        assert found[0x0008][: 1 + found[0x0008][0]] == bytes([len(types)]) + types
        assert found[0x000C] == bytes([0, 2, 0xFF, 0xFF])
        limits = copy.ParameterDataDescriptor.decode(bytes(4) + found[0x0004])
        assert limits.maximum_segment_descriptor_count == said.maximum_segment_descriptor_count == 8192
        assert limits.maximum_cscd_descriptor_count == said.maximum_cscd_descriptor_count == 64
        assert limits.maximum_inline_data_length == said.maximum_inline_data_length == 8 << 20
        assert limits.maximum_descriptor_list_length == said.maximum_descriptor_list_length
        stream = copy.StreamCopyOperationsDescriptor.decode(bytes(4) + found[0x9101])
        assert stream.maximum_stream_device_transfer_size == said.maximum_stream_device_transfer_size == 16 << 20
        assert data_of(send(unit, bytes([0x12, 0, 0, 0, 96, 0])))[5] & 0x08  # 3PC


def descriptors(page):
    found, at = {}, 0
    while at < len(page):
        length = int.from_bytes(page[at + 2 : at + 4], "big")
        assert length % 4 == 0
        found[int.from_bytes(page[at : at + 2], "big")] = page[at + 4 : at + 4 + length]
        at += 4 + length
    return found
