"""Parts: what they contribute is the device's, events reach them in their order, nothing is there twice."""

import pytest

from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import handles
from scsi_targets.devices.unit.echo_buffer import EchoBuffer
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.part import Part, diagnostic_page, log_page, vpd_page
from scsi_targets.devices.unit.state_store import MemoryStore
from scsi_targets.t10 import spc, vpd
from scsi_targets.t10.fields import Bits, Command
from scsi_targets.t10.log_pages import LogParameter
from scsi_targets.t10.mode_pages import ControlModePage, ModePage
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of


class Ring(Command, opcode=0xC1, length=6):
    """A vendor command."""


class BellPage(ModePage, page=0x20, length=4):
    """A vendor page."""

    volume = Bits(2, 7, 8, default=3, changeable=True)
    size = Bits(3, 7, 8)


class Listener(Part):
    """Notes what it is told."""

    def __init__(self, told: list, name: str = "listener") -> None:
        self._told, self._name = told, name

    def check_mode_pages(self, pages):
        self._told.append((self._name, "check", [page.page for page in pages]))

    def apply_mode_pages(self, mode):
        self._told.append((self._name, mode.current(BellPage).volume))

    def on_mode_pages_restored(self):
        self._told.append((self._name, "restored"))

    def on_reset(self):
        self._told.append((self._name, "reset"))

    def on_nexus_lost(self, nexus):
        self._told.append((self._name, nexus))

    def on_reservations_changed(self, *, preempted):
        self._told.append((self._name, "preempted" if preempted else "reservations"))

    def close(self):
        self._told.append((self._name, "close"))


class Bell(Listener):
    """Has a command and pages as well."""

    def __init__(self, told: list) -> None:
        super().__init__(told, "bell")
        self.rung = 0

    @handles(Ring)
    def ring(self, cdb, task):
        self.rung += 1

    @log_page(0x30)
    def rings(self, nexus):
        return [LogParameter(1, bytes([self.rung]))]

    def on_log_page_read(self, page, subpage, nexus):
        self._told.append((self._name, "read", nexus))

    def reset_log_page(self, page, subpage):
        self.rung = 0

    @vpd_page(0xC0)
    def maker(self, task):
        return b"bronze"

    @diagnostic_page(0x90)
    def strike(self, body):
        self._told.append((self._name, body))

    def inquiry_fields(self):
        return {"protect": 1}

    def extended_inquiry_fields(self):
        return {"volatile_cache": 1}

    def mode_pages(self):
        return {BellPage: {"size": 9}}


class Sample(Device):
    device_type = 0

    def __init__(self, *parts, store=None):
        super().__init__(Identity("TAPEBAY", "SAMPLE", "0001", "S1"), store=store)
        self.attach(*parts)


@pytest.fixture
def told():
    return []


@pytest.fixture
def unit(told):
    unit = Sample(Bell(told), Listener(told))
    for nexus in (ALPHA, BETA):
        unit.nexus_established(nexus)
        send(unit, bytes(6), nexus=nexus)
    told.clear()
    yield unit
    unit.close()


def test_commands_and_pages_are_the_devices(unit, told):
    assert send(unit, Ring.encode()).status == 0
    log = data_of(send(unit, spc.LogSense.encode(page_code=0x30, allocation_length=64)))
    assert log == bytes([0x30, 0, 0, 5, 0, 1, 3, 1, 1])
    assert told == [("bell", "read", ALPHA)]
    listed = data_of(send(unit, spc.LogSense.encode(allocation_length=64)))
    assert listed[4:] == bytes([0x00, 0x30])
    page = spc.Inquiry.encode(enable_vital_product_data=1, page_code=0xC0, allocation_length=64)
    assert data_of(send(unit, page))[4:] == b"bronze"
    pages = spc.Inquiry.encode(enable_vital_product_data=1, allocation_length=64)
    assert 0xC0 in data_of(send(unit, pages))[4:]
    body = bytes([0x90, 0, 0, 2]) + b"!!"
    assert send(unit, spc.SendDiagnostic.encode(page_format=1, parameter_list_length=6), data=body).status == 0
    assert told[-1] == ("bell", b"!!")
    assert data_of(send(unit, spc.ReceiveDiagnosticResults.encode(allocation_length=64)))[4:] == bytes([0x00, 0x90])


def test_fields_of_inquiry(unit):
    assert vpd.StandardInquiryData(data_of(send(unit, spc.Inquiry.encode(allocation_length=96)))).protect == 1
    page = spc.Inquiry.encode(enable_vital_product_data=1, page_code=0x86, allocation_length=64)
    assert vpd.ExtendedInquiryData(data_of(send(unit, page))).volatile_cache == 1


def test_log_select_reaches_the_part_that_has_the_page(unit):
    send(unit, Ring.encode())
    assert send(unit, spc.LogSelect.encode(parameter_code_reset=1, page_control=1, page_code=0x30)).status == 0
    assert data_of(send(unit, spc.LogSense.encode(page_code=0x30, allocation_length=64)))[-1] == 0
    assert sense_of(send(unit, bytes(6), nexus=BETA)) == (6, 0x2A, 2)


def test_mode_pages_are_applied_once_for_each_change(unit, told):
    data = bytes(4) + bytes([0x20, 2, 7, 9])
    cdb = spc.ModeSelect6.encode(page_format=1, parameter_list_length=len(data))
    assert send(unit, cdb, data=data).status == 0
    assert told == [("bell", "check", [BellPage]), ("listener", "check", [BellPage]), ("bell", 7), ("listener", 7)]
    told.clear()
    assert send(unit, cdb, data=data).status == 0  # the same again changes nothing
    assert [each for each in told if each[1] != "check"] == []


def test_events_come_in_the_declared_order(unit, told):
    unit.reset()
    restored = [("bell", "restored"), ("listener", "restored"), ("bell", 3), ("listener", 3)]
    assert told == [*restored, ("bell", "reset"), ("listener", "reset")]
    told.clear()
    unit.nexus_lost(BETA)
    assert told == [("bell", BETA), ("listener", BETA)]
    told.clear()
    send(unit, bytes(6))
    send(unit, spc.Reserve6.encode())
    assert told == [("bell", "reservations"), ("listener", "reservations")]
    told.clear()
    unit.close()
    assert told == [("bell", "close"), ("listener", "close")]


def test_saved_pages_are_in_effect_from_the_start(told):
    store = MemoryStore()
    store.put("/mode", {"20/00": "20020b09"})
    Sample(Bell(told), store=store).close()
    assert told[:2] == [("bell", "restored"), ("bell", 0x0B)]


def test_a_page_may_be_named_by_several_parts(told):
    class Control(Part):
        def mode_pages(self):
            return {ControlModePage: {"busy_timeout_period": 5}}

    class Sized(Part):
        def mode_pages(self):
            return {BellPage: {"volume": 1}}

    unit = Sample(Bell(told), Control(), Sized())
    assert (unit.mode.current(BellPage).volume, unit.mode.current(BellPage).size) == (1, 9)
    assert unit.mode.current(ControlModePage).busy_timeout_period == 5
    unit.close()


def test_a_page_has_one_class(told):
    class OtherBellPage(ModePage, page=0x20, length=4):
        """The same page, declared again."""

    class Other(Part):
        def mode_pages(self):
            return {OtherBellPage: {}}

    with pytest.raises(TypeError, match="mode page 20h/00h named twice"):
        Sample(Bell(told), Other())


@pytest.mark.parametrize("mark", ["command", "log page", "VPD page", "diagnostic page"])
def test_nothing_is_declared_twice(told, mark):
    class Twice(Part):
        if mark == "command":

            @handles(Ring)
            def other(self, cdb, task): ...

        elif mark == "log page":
            other = log_page(0x30)(lambda self, nexus: [])
        elif mark == "VPD page":
            other = vpd_page(0x83)(lambda self, task: b"")
        else:
            other = diagnostic_page(0x00)(lambda self, body: None)

    with pytest.raises(TypeError, match="another part's already"):
        Sample(Bell(told), Twice())


def test_a_spine_command_cannot_be_taken_over():
    class Taken(Part):
        @handles(spc.TestUnitReady)
        def always_ready(self, cdb, task): ...

    with pytest.raises(TypeError, match="operation code 00h is another part's already"):
        Sample(Taken())


def test_the_echo_buffer_ends_with_its_nexus():
    unit = Sample(EchoBuffer())
    assert send(unit, spc.WriteBuffer.encode(mode=0x0A, parameter_list_length=4), data=b"echo").status == 0
    read = spc.ReadBuffer.encode(mode=0x0A, allocation_length=64)
    assert data_of(send(unit, read)) == b"echo"
    assert sense_of(send(unit, read, nexus=BETA)) == (5, 0x2C, 0)
    unit.nexus_lost(ALPHA)
    assert sense_of(send(unit, read)) == (5, 0x2C, 0)
    unit.close()


def test_withdrawn_commands_come_back():
    unit = Sample(EchoBuffer())
    unit.withdraw(spc.WriteBuffer, spc.SetTimestamp)
    assert sense_of(send(unit, spc.WriteBuffer.encode(mode=0x0A))) == (5, 0x20, 0)
    assert sense_of(send(unit, spc.SetTimestamp.encode())) == (5, 0x20, 0)
    unit.withdraw()
    assert send(unit, spc.WriteBuffer.encode(mode=0x0A)).status == 0
    assert send(unit, spc.SetTimestamp.encode()).status == 0
    unit.close()
