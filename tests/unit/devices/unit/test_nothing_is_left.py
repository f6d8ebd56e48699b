"""Whatever an initiator sends, nothing of its nexus is left in a device when it has gone."""

import gc

import pytest

from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10 import sense, smc, spc
from scsi_targets.t10.ssc_pages import ControlDataProtectionPage
from tests.unit.devices.support import ALPHA, TARGET, send
from tests.unit.devices.tape.encryption_support import set_encryption
from tests.unit.devices.unit.test_reservation_rules import TABLES, a_unit

GUEST = "iqn.2026-11.test:guest"
LOCAL = 1  # SCOPE of a key that serves its nexus only


def kept() -> int:
    """Nexuses of the guest that anything still refers to."""
    gc.collect()
    return sum(1 for each in gc.get_objects() if type(each) is Nexus and each.initiator_name == GUEST)


def visit(unit, number: int) -> None:
    """A login, everything that makes a device keep something, and a logout."""
    guest = Nexus(GUEST, number.to_bytes(6, "big"), TARGET)
    unit.nexus_established(guest)
    for _ in range(3):
        unit.establish_unit_attention(sense.MODE_PARAMETERS_CHANGED, [guest])
        send(unit, bytes(6), nexus=guest)
    unit.establish_unit_attention(sense.LOG_PARAMETERS_CHANGED, [guest])
    page = ControlDataProtectionPage.encode(method=1, information_length=4, protect_writes=1, protect_reads=1)
    sent = [
        (spc.PreventAllowMediumRemoval.encode(prevent=1), None),
        (spc.WriteBuffer.encode(mode=0x0A, parameter_list_length=4), b"echo"),
        (spc.LogSense.encode(page_code=0x2E, allocation_length=512), None),
        (spc.ModeSelect10.encode(page_format=1, parameter_list_length=40), bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + page),
        (smc.SendVolumeTag.encode(parameter_list_length=40), b"A*".ljust(40, b"\0")),
        (spc.Reserve6.encode(), None),
    ]
    for cdb, data in sent:
        send(unit, bytes(6), nexus=guest)
        send(unit, cdb, data=data, nexus=guest)
    if unit.device_type == 1:
        assert set_encryption(unit, scope=LOCAL, nexus=guest).status == 0
    unit.nexus_lost(guest)


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_a_guest_leaves_nothing_behind(tmp_path, kind):
    units = a_unit(kind, tmp_path)
    unit = next(units)
    for number in range(5):
        visit(unit, number)
    assert kept() == 0
    assert send(unit, spc.Reserve6.encode(), nexus=ALPHA).status == 0
    units.close()
