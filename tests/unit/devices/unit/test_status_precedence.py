"""Unit attention, reservation conflict and the rest: which is reported first (SAM-5 5.3.3), and 29/00 at a login."""

import pytest

from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.t10 import sense, spc
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of

CONFLICT = 0x18


class Sample(Device):
    device_type = 0


@pytest.fixture
def reserved():
    """ALPHA holds a reservation; BETA has no unit attention pending."""
    device = Sample(Identity("TAPEBAY", "SAMPLE", "0001", "S1"))
    device.attach()
    for nexus in (ALPHA, BETA):
        device.nexus_established(nexus)
        send(device, bytes(6), nexus=nexus)
    assert send(device, spc.Reserve6.encode()).status == 0
    yield device
    device.close()


def test_a_reset_goes_before_the_conflict(reserved):
    reserved.nexus_established(BETA)
    assert sense_of(send(reserved, bytes(6), nexus=BETA)) == (6, 0x29, 0)
    assert send(reserved, bytes(6), nexus=BETA).status == CONFLICT


@pytest.mark.parametrize("code", [sense.NOT_READY_TO_READY_CHANGE, sense.MODE_PARAMETERS_CHANGED])
def test_the_conflict_goes_before_other_unit_attentions_and_they_wait(reserved, code):
    reserved.establish_unit_attention(code, [BETA])
    assert send(reserved, bytes(6), nexus=BETA).status == CONFLICT
    assert send(reserved, spc.Release6.encode()).status == 0
    assert sense_of(send(reserved, bytes(6), nexus=BETA)) == tuple(code)
    assert send(reserved, bytes(6), nexus=BETA).status == 0


def test_a_command_that_does_not_conflict_reports_the_unit_attention(reserved):
    reserved.establish_unit_attention(sense.MODE_PARAMETERS_CHANGED, [BETA])
    assert sense_of(send(reserved, spc.LogSense.encode(allocation_length=8), nexus=BETA)) == (6, 0x2A, 1)


def test_a_reset_is_reported_before_what_was_queued_earlier(reserved):
    reserved.establish_unit_attention(sense.MODE_PARAMETERS_CHANGED, [ALPHA])
    reserved.establish_unit_attention(sense.POWER_ON_OCCURRED, [ALPHA])
    assert sense_of(send(reserved, bytes(6))) == (6, 0x29, 0)
    assert sense_of(send(reserved, bytes(6))) == (6, 0x2A, 1)


def test_an_unknown_command_is_refused_before_all_that(reserved):
    """ILLEGAL REQUEST may have any precedence; this one keeps the unit attention for a command that can use it."""
    reserved.nexus_established(BETA)
    assert sense_of(send(reserved, b"\xd5", nexus=BETA)) == (5, 0x20, 0)
    assert sense_of(send(reserved, bytes(6), nexus=BETA)) == (6, 0x29, 0)


def test_every_login_is_told_29_00(reserved):
    """29/07 costs LTFS one failed operation; to Linux, sg3_utils and Windows every 29h is the same."""
    for _ in range(2):
        reserved.nexus_lost(BETA)
        reserved.nexus_established(BETA)
        data = data_of(send(reserved, spc.RequestSense.encode(allocation_length=18), nexus=BETA))
        assert (data[2], data[12], data[13]) == (6, 0x29, 0)


def test_report_luns_takes_what_it_tells(reserved):
    reserved.establish_unit_attention(sense.REPORTED_LUNS_DATA_HAS_CHANGED, [ALPHA])
    data_of(send(reserved, spc.Inquiry.encode(allocation_length=36)))
    data_of(send(reserved, spc.ReportLuns.encode(allocation_length=64)))
    assert send(reserved, bytes(6)).status == 0
