"""EXTENDED COPY(LID4): the same copies by a list with an identifier of four bytes and a header of its own."""

import pytest

from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10.mode_pages import ControlModePage
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream, copy_status, receive
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import good

IDENTIFIER = 0xC0FFEE42
ILLEGAL = 5
INVALID_FIELD_IN_CDB = (ILLEGAL, 0x24, 0x00)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def parameters(site, *segments, **fields):
    form = {"form": copy.ParameterListHeaderLid4, "list_identifier": IDENTIFIER}
    return copy.parameter_list(fields.pop("cscds", site.descriptors), segments, **form | fields)


def order(site, data, *, length=None, unit=None, nexus=ALPHA):
    cdb = copy.ExtendedCopyLid4.encode(parameter_list_length=len(data) if length is None else length)
    return send(unit or site.disk, cdb, data=data, nexus=nexus, view=site.view)


def status(site, identifier=IDENTIFIER, nexus=ALPHA):
    return receive(site.disk, copy.ReceiveCopyStatusLid4, list_identifier=identifier, nexus=nexus)


def test_a_parameter_list_as_it_goes_over_the_wire(site):
    """Byte for byte, as an initiator without our encoder would write it: 64 blocks from LBA 8 to blocks of 16 KiB."""
    data = bytes.fromhex("01 01 0020 0000000000000000000000 00 ff 000000 c0ffee42") + bytes(18)
    data += bytes.fromhex("0040 0018 0000")
    data += bytes.fromhex("e4 00 0000 01 03 00 08") + site.disk.identity.naa + bytes(12) + bytes.fromhex("00 000200")
    data += bytes.fromhex("e4 01 0000 01 03 00 08") + site.tape.identity.naa + bytes(12) + bytes.fromhex("00 000000")
    data += bytes.fromhex("00 00 0014 0000 0001 00 004000 0000 0040 0000000000000008")
    cdb = bytes.fromhex("83 01 0000000000000000") + len(data).to_bytes(4, "big") + bytes(2)
    good(send(site.disk, cdb, data=data, view=site.view))
    assert data == parameters(site, block_to_stream(16384, 64, 8))
    assert site.written() == [site.disk_data[4096:20480], site.disk_data[20480:36864]]
    said = data_of(status(site))
    assert said == bytes.fromhex("0000001c 01 01 0001 fffffffe 00 00 00 00 0000000000008000 0001 000000000000")


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_any_logical_unit_can_manage_the_copy(site, where):
    good(order(site, parameters(site, block_to_stream(65536, BLOCKS)), unit=getattr(site, where)))
    assert b"".join(site.written()) == site.disk_data


def test_inline_data(site):
    segment = copy.InlineToStream.encode(destination=1, stream_device_transfer_length=6, inline_data_number_of_bytes=6)
    data = copy.parameter_list(site.descriptors, [segment], b"Prague", form=copy.ParameterListHeaderLid4)
    good(order(site, data))
    assert site.written() == [b"Prague"]


def test_no_list_is_no_error(site):
    good(order(site, b"", length=0))


@pytest.mark.parametrize("descriptor_format", [False, True])
def test_sense_data_comes_with_good_status_when_asked_for(site, descriptor_format):
    if descriptor_format:
        page = ControlModePage.encode(descriptor_sense=1)
        good(send(site.disk, bytes.fromhex("15 10 00 00 10 00"), data=bytes(4) + page))
    segments = [block_to_stream(512, 1), block_to_stream(512, 2)]
    response = order(site, parameters(site, *segments, good_with_sense=1))
    assert response.status == 0
    if descriptor_format:
        assert response.sense == bytes.fromhex("72 0f 00 20 000000 0c 01 0a 0000 0000000000000002")
    else:
        assert response.sense == bytes.fromhex("70 00 0f 00000000 0a 00000002 00 20 00 000000")
    said = data_of(status(site))
    assert said[5:6] + said[12:15] == bytes([1, 0, -(-len(response.sense) // 4) * 4, len(response.sense)])
    assert said[32:].rstrip(b"\0") == response.sense.rstrip(b"\0")


def test_nothing_failed_where_good_came_with_sense_data(site):
    good(order(site, parameters(site, block_to_stream(512, 1), good_with_sense=1, list_identifier=9)))
    assert data_of(receive(site.disk, copy.ReceiveCopyFailureDetailsLid1, list_identifier=9)) == bytes(4)


def test_identifiers_are_the_nexus_own_and_have_four_bytes(site):
    good(order(site, parameters(site, block_to_stream(512, 1))))
    good(status(site))
    for shorter in (IDENTIFIER & 0xFF, IDENTIFIER & 0xFFFF):
        assert sense_of(status(site, shorter)) == INVALID_FIELD_IN_CDB
    assert sense_of(status(site, nexus=BETA)) == INVALID_FIELD_IN_CDB
    good(order(site, parameters(site, block_to_stream(512, 1), list_identifier=9)))
    assert copy_status(site.disk, 9).transfer_count == 512
    nothing = {"list_identifier": 0, "list_id_usage": copy.NO_LIST_IDENTIFIER}
    good(order(site, parameters(site, block_to_stream(512, 1), **nothing)))
    assert sense_of(status(site, 0)) == INVALID_FIELD_IN_CDB


@pytest.mark.parametrize(
    ("changes", "code", "at"),
    [
        ({0: b"\x00"}, (ILLEGAL, 0x26, 0x00), 0),  # PARAMETER LIST FORMAT
        ({2: b"\x00\x40"}, (ILLEGAL, 0x26, 0x00), 2),
        ({15: b"\x01"}, (ILLEGAL, 0x26, 0x00), 15),  # IMMED
        ({16: b"\xe4"}, (ILLEGAL, 0x26, 0x00), 16),
        ({1: b"\x08"}, (ILLEGAL, 0x26, 0x00), 1),  # LIST ID USAGE 01b is reserved
        ({1: b"\x18"}, (ILLEGAL, 0x26, 0x00), 20),  # usage 11b with a list identifier
        ({42: b"\x00\x21"}, (ILLEGAL, 0x26, 0x00), 42),  # not whole CSCD descriptors
        ({42: b"\x10\x00"}, (ILLEGAL, 0x26, 0x06), 42),  # too many of them
        ({48: b"\xe5"}, (ILLEGAL, 0x26, 0x07), 48),  # an unsupported CSCD descriptor
        ({112: b"\xbe"}, (ILLEGAL, 0x26, 0x09), 112),  # an unsupported segment descriptor
        ({115: b"\x15"}, (ILLEGAL, 0x26, 0x00), 114),
    ],
)
def test_what_is_wrong_and_where(site, changes, code, at):
    data = bytearray(parameters(site, block_to_stream(512, 1)))
    for offset, value in changes.items():
        data[offset : offset + len(value)] = value
    response = order(site, bytes(data))
    assert sense_of(response) == code
    assert (response.sense[15], int.from_bytes(response.sense[16:18], "big")) == (0x80, at)
    assert site.written() == []


def test_lists_that_are_cut_short(site):
    whole = parameters(site, block_to_stream(512, 1))
    for length in (1, 16, 47, 48, len(whole) - 1):
        assert sense_of(order(site, whole[:length])) == (ILLEGAL, 0x1A, 0x00), length
    assert sense_of(order(site, whole[:-1], length=len(whole))) == (ILLEGAL, 0x1A, 0x00)


def test_a_failure_is_kept_under_the_long_identifier(site):
    response = order(site, parameters(site, block_to_stream(1024, 3)))
    assert sense_of(response) == (0xA, 0x26, 0x0A)
    said = data_of(status(site))
    assert (said[4], said[5], said[12]) == (1, 2, 2)
    assert said[32:].rstrip(b"\0") == response.sense.rstrip(b"\0")
