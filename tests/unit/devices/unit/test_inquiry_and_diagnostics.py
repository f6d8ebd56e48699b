"""REPORT LUNS's selections, MULTIP, and diagnostic page 00h on every kind of device."""

import pytest

from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import spc, vpd
from tests.unit.devices.changer.support import Library
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import ALPHA, TARGET, data_of, send, sense_of
from tests.unit.devices.tape.support import make_drive


def units(kind, directory):
    if kind == "changer":
        library = Library(directory)
        yield library.changer
        library.close()
    else:
        unit = make_disk(directory) if kind == "disk" else make_drive()
        yield unit
        unit.close()


@pytest.fixture(params=["disk", "tape", "changer"])
def unit(request, tmp_path):
    made = units(request.param, tmp_path)
    yield next(made)
    made.close()


@pytest.mark.parametrize(
    ("select", "shown"), [(0x00, True), (0x01, False), (0x02, True), (0x10, False), (0x11, True), (0x12, False)]
)
def test_report_luns_selects(tmp_path, select, shown):
    """ESXi asks with 11h, and takes an empty list for a target without logical units."""
    disk = make_disk(tmp_path)
    view = View(ALPHA.principal, TARGET, {0: disk, 3: disk})
    cdb = spc.ReportLuns.encode(select_report=select, allocation_length=256)
    luns = data_of(send(disk, cdb, view=view))
    listed = bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]) if shown else b""
    assert luns == len(listed).to_bytes(4, "big") + bytes(4) + listed
    disk.close()


@pytest.mark.parametrize("select", [0x03, 0x0F, 0x13, 0x20, 0xF8, 0xFF])
def test_report_luns_refuses_reserved_selections(tmp_path, select):
    disk = make_disk(tmp_path)
    assert sense_of(send(disk, spc.ReportLuns.encode(select_report=select, allocation_length=256))) == (5, 0x24, 0)
    disk.close()


@pytest.mark.parametrize(("tags", "multiple"), [((1,), 0), ((1, 2), 1), ((1, 1), 0)])
def test_multip_says_that_there_are_two_target_ports(unit, tags, multiple):
    view = View(ALPHA.principal, TARGET, {0: unit}, tags)
    data = data_of(send(unit, spc.Inquiry.encode(allocation_length=96), view=view))
    assert vpd.StandardInquiryData(data).multiple_ports == multiple


def test_diagnostic_page_00h(unit):
    page = bytes(4)
    assert data_of(send(unit, spc.ReceiveDiagnosticResults.encode(allocation_length=255)))[0] == 0
    assert send(unit, spc.SendDiagnostic.encode(page_format=1, parameter_list_length=4), data=page).status == 0
    data = data_of(send(unit, spc.ReceiveDiagnosticResults.encode(page_code_valid=1, allocation_length=255)))
    assert data[:2] == bytes(2)
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    assert 0x00 in data[4:]


@pytest.mark.parametrize(
    ("fields", "page", "code"),
    [
        ({"page_format": 1}, bytes([0x3F, 0, 0, 0]), 0x26),
        ({"page_format": 1}, bytes([0x00, 0, 0, 4]), 0x26),
        ({"page_format": 1}, bytes([0x00, 0, 0, 1, 0]), 0x26),
        ({"page_format": 1}, bytes(3), 0x1A),
        ({"page_format": 0}, bytes(4), 0x24),
        ({"page_format": 1, "self_test": 1}, bytes(4), 0x24),
        ({"page_format": 1, "self_test_code": 5}, bytes(4), 0x24),
        ({"self_test": 1, "self_test_code": 5}, b"", 0x24),
        ({"self_test_code": 3}, b"", 0x24),
    ],
)
def test_other_diagnostic_pages_are_refused(unit, fields, page, code):
    cdb = spc.SendDiagnostic.encode(parameter_list_length=len(page), **fields)
    assert sense_of(send(unit, cdb, data=page)) == (5, code, 0)


def test_a_page_that_was_not_sent_whole(unit):
    cdb = spc.SendDiagnostic.encode(page_format=1, parameter_list_length=4)
    assert sense_of(send(unit, cdb, data=bytes(2))) == (5, 0x1A, 0)


def test_the_self_tests_pass(unit):
    for fields in ({"self_test": 1}, {"self_test_code": 1}, {"self_test_code": 5}, {}):
        assert send(unit, spc.SendDiagnostic.encode(**fields)).status == 0
