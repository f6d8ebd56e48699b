"""What every device shares: dispatch, INQUIRY, unit attentions, reservations, mode pages, the worker."""

import threading

import pytest

from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import handles
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.task import Task
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import spc
from scsi_targets.t10.fields import Command
from tests.unit.devices.support import ALPHA, BETA, TARGET, data_of, send, sense_of


class Dawdle(Command, opcode=0xC0, length=10):
    """A vendor command that takes as long as the test wants."""


class Sample(Device):
    device_type = 0

    def __init__(self) -> None:
        super().__init__(Identity("TAPEBAY", "SAMPLE", "0001", "S1"))
        self.started, self.go = threading.Event(), threading.Event()
        self.attach()

    @handles(Dawdle, slow=True)
    def dawdle(self, cdb, task):
        self.started.set()
        while not self.go.wait(0.01):
            if task.aborted:
                return


@pytest.fixture
def unit():
    device = Sample()
    yield device
    device.go.set()
    device.close()


@pytest.fixture
def shared(unit):
    for nexus in (ALPHA, BETA):
        unit.nexus_established(nexus)
    for nexus in (ALPHA, BETA):
        assert sense_of(send(unit, bytes(6), nexus=nexus)) == (6, 0x29, 0x00)
    return unit


def test_unknown_operation_code(unit):
    response = send(unit, b"\xd5")
    assert sense_of(response) == (5, 0x20, 0)
    assert response.sense[15:18] == bytes([0xCF, 0, 0])  # SKSV, C/D, BPV, bit 7 of byte 0


def test_unknown_service_action_points_at_the_field(unit):
    response = send(unit, bytes([0xA3, 0x1E]))
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCC, 0, 1])


def test_naca_is_refused(unit):
    assert sense_of(send(unit, bytes([0, 0, 0, 0, 0, 4]))) == (5, 0x24, 0)


def test_inquiry_is_cut_at_the_allocation_length(unit):
    data = data_of(send(unit, spc.Inquiry.encode(allocation_length=36)))
    assert len(data) == 36
    assert data[8:32] == b"TAPEBAY SAMPLE          "


def test_vpd_pages_are_listed_and_readable(unit):
    listed = data_of(send(unit, spc.Inquiry.encode(enable_vital_product_data=1, allocation_length=255)))[4:]
    assert listed == bytes([0x00, 0x80, 0x83, 0x86])
    for page in listed:
        cdb = spc.Inquiry.encode(enable_vital_product_data=1, page_code=page, allocation_length=4096)
        data = data_of(send(unit, cdb))
        assert data[1] == page
        assert len(data) == 4 + int.from_bytes(data[2:4], "big")


def test_unit_attention_is_reported_once_and_inquiry_passes_it(unit):
    unit.nexus_established(ALPHA)
    data_of(send(unit, spc.Inquiry.encode(allocation_length=36)))
    assert sense_of(send(unit, bytes(6))) == (6, 0x29, 0)
    assert send(unit, bytes(6)).status == 0
    unit.nexus_lost(ALPHA)
    unit.nexus_established(ALPHA)
    assert sense_of(send(unit, bytes(6))) == (6, 0x29, 0)  # the code of docs/scsi.md, not 29/07


def test_request_sense_takes_the_unit_attention(unit):
    unit.nexus_established(ALPHA)
    data = data_of(send(unit, spc.RequestSense.encode(allocation_length=18)))
    assert (data[2], data[12]) == (6, 0x29)
    assert send(unit, bytes(6)).status == 0


def test_reserve_excludes_and_every_way_out_frees(shared):
    frees = [
        lambda: send(shared, spc.Release6.encode()),
        lambda: shared.nexus_lost(ALPHA),
        lambda: shared.reset(),
    ]
    for free in frees:
        assert send(shared, spc.Reserve6.encode()).status == 0
        assert send(shared, bytes(6), nexus=BETA).status == 0x18
        assert send(shared, spc.Release6.encode(), nexus=BETA).status == 0
        assert send(shared, bytes(6), nexus=BETA).status == 0x18
        data_of(send(shared, spc.Inquiry.encode(allocation_length=36), nexus=BETA))
        free()
        while (response := send(shared, bytes(6), nexus=BETA)).status == 2:
            assert sense_of(response)[0] == 6
        assert response.status == 0
        while send(shared, bytes(6)).status == 2:
            pass


def pr_out(action, key=0, action_key=0, type_=0, aptpl=0):
    cdb = bytes([0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0])
    return cdb, key.to_bytes(8, "big") + action_key.to_bytes(8, "big") + bytes(4) + bytes([aptpl, 0, 0, 0])


def out(unit, *args, nexus=ALPHA, **kwargs):
    cdb, data = pr_out(*args, **kwargs)
    return send(unit, cdb, nexus=nexus, data=data)


def test_persistent_reservation_excludes_writers_and_moves_by_preempt(shared):
    assert out(shared, 0, action_key=1).status == 0
    assert out(shared, 0, action_key=2, nexus=BETA).status == 0
    assert out(shared, 1, key=1, type_=1).status == 0
    assert send(shared, spc.ModeSense6.encode(page_code=0x3F, allocation_length=255), nexus=BETA).status == 0
    assert send(shared, spc.ModeSelect6.encode(), nexus=BETA).status == 0x18
    assert send(shared, bytes(6), nexus=BETA).status == 0
    assert out(shared, 4, key=2, action_key=1, type_=3, nexus=BETA).status == 0
    assert sense_of(send(shared, bytes(6))) == (6, 0x2A, 5)
    assert send(shared, spc.ModeSense6.encode(page_code=0x3F, allocation_length=255)).status == 0x18
    data = data_of(send(shared, bytes([0x5E, 1, 0, 0, 0, 0, 0, 0, 255, 0])))
    assert int.from_bytes(data[8:16], "big") == 2
    assert data[21] == 3


def test_aptpl_survives_power_loss(shared):
    assert out(shared, 0, action_key=0x1122, aptpl=1).status == 0
    assert out(shared, 1, key=0x1122, type_=5).status == 0
    again = type(shared.reservations).from_state(shared.store.get("/reservations"))
    assert again.is_holder(ALPHA)
    assert again.registrations[ALPHA] == 0x1122
    assert out(shared, 6, action_key=0x1122, aptpl=0).status == 0
    assert shared.store.get("/reservations") is None


def test_mode_select_changes_what_is_changeable_and_nothing_else(shared):
    page = bytearray(data_of(send(shared, spc.ModeSense6.encode(page_code=0x0A, allocation_length=255))))
    assert page[4:6] == bytes([0x8A, 10])
    page[0] = 0
    page[6] |= 0x04  # D_SENSE
    cdb = spc.ModeSelect6.encode(page_format=1, parameter_list_length=len(page))
    response = send(shared, cdb, data=bytes(page))
    assert (response.status, response.data_length) == (0, len(page))  # no residual
    assert send(shared, bytes(6), nexus=BETA).sense[:4] == bytes([0x72, 6, 0x2A, 1])
    response = send(shared, b"\xd5")
    assert response.sense[:4] == bytes([0x72, 5, 0x20, 0])
    page[7] ^= 0x02  # QERR is not changeable
    response = send(shared, cdb, data=bytes(page))
    assert response.sense[1:4] == bytes([5, 0x26, 0])


def test_slow_command_leaves_others_room_and_can_be_aborted(unit):
    answers = []
    slow = Task(ALPHA, 0, Dawdle.encode().ljust(16, b"\0"), tag=7, complete=answers.append)
    assert unit.execute(slow) is None
    assert unit.started.wait(60)
    data_of(send(unit, spc.Inquiry.encode(allocation_length=36)))
    done = threading.Event()
    behind = Task(BETA, 0, bytes(16), tag=8, complete=lambda r: (answers.append(r), done.set()))
    assert unit.execute(behind) is None
    assert not answers
    assert unit.abort_task(ALPHA, 7)
    assert done.wait(60)
    assert [r.status for r in answers] == [0]


def test_report_supported_operation_codes_lists_every_row(unit):
    data = data_of(send(unit, bytes([0xA3, 0x0C, 0x80, 0, 0, 0, 0, 0, 0xFF, 0xFF])))
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert len(data[4:]) % 20 == 0
    one = data_of(send(unit, bytes([0xA3, 0x0C, 1, 0x12, 0, 0, 0, 0, 0, 0xFF])))
    assert one == bytes([0, 3, 0, 6, 0x12, 1, 0xFF, 0xFF, 0xFF, 0])


def test_target_port_groups_are_all_active(unit):
    view = View(ALPHA.principal, TARGET, {0: unit}, (1, 7))
    cdb = spc.ReportTargetPortGroups.encode(allocation_length=255)
    groups = bytes.fromhex("00010001000000010000000100010007000000010000 0007")
    assert data_of(send(unit, cdb, view=view)) == (24).to_bytes(4, "big") + groups
    extended = spc.ReportTargetPortGroups.encode(allocation_length=255, parameter_data_format=1)
    assert data_of(send(unit, extended, view=view)) == (28).to_bytes(4, "big") + bytes([0x10, 0, 0, 0]) + groups
    assert sense_of(send(unit, spc.ReportTargetPortGroups.encode(parameter_data_format=2))) == (5, 0x24, 0)


def test_absent_logical_unit(unit):
    view = View(ALPHA.principal, TARGET, {0: unit})
    task = Task(ALPHA, 9, spc.Inquiry.encode(allocation_length=36).ljust(16, b"\0"))
    assert data_of(view.execute(task))[0] == 0x7F
    assert sense_of(view.execute(Task(ALPHA, 9, bytes(16)))) == (5, 0x25, 0)
    luns = data_of(view.execute(Task(ALPHA, 9, spc.ReportLuns.encode(allocation_length=64).ljust(16, b"\0"))))
    assert luns == (8).to_bytes(4, "big") + bytes(12)


def test_two_that_wait_for_a_busy_unit_get_it_one_after_the_other(unit):
    slow = Task(ALPHA, 0, Dawdle.encode().ljust(16, b"\0"), complete=lambda response: None)
    assert unit.execute(slow) is None
    assert unit.started.wait(60)
    assert not unit.occupy(0.01)
    held = []

    def hold():
        held.append(unit.occupy(60))
        unit.vacate()

    waiting = [threading.Thread(target=hold) for _ in range(2)]
    for thread in waiting:
        thread.start()
    unit.go.set()
    for thread in waiting:
        thread.join(60)
    assert held == [True, True]
    assert send(unit, bytes(6)).status == 0
