"""What runs out degrades the command at hand, and the next one is served: threads, memory, a log that raises."""

import threading

import pytest
import structlog

from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import handles
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10.fields import Command
from tests.support.waiting import eventually
from tests.unit.devices.support import ALPHA, send, sense_of

BUSY, TASK_SET_FULL = 0x08, 0x28


class Slow(Command, opcode=0xC0, length=10):
    """Runs on the worker."""


class Long(Command, opcode=0xC1, length=10):
    """Runs on a thread of its own."""


class Sample(Device):
    device_type = 0
    error: Exception | None = None

    def _do(self) -> Response:
        if self.error is not None:
            raise self.error
        return Response()

    @handles(Slow, slow=True)
    def slow(self, cdb: Slow, task: Task) -> Response:
        return self._do()

    @handles(Long, concurrent=True)
    def long(self, cdb: Long, task: Task) -> Response:
        return self.defer(task, self._do)


@pytest.fixture
def unit():
    device = Sample(Identity("TAPEBAY", "SAMPLE", "0001", "S1"))
    device.attach()
    device.nexus_established(ALPHA)
    device.take_unit_attention(ALPHA)
    yield device
    device.close()


@pytest.mark.parametrize("command", [Slow, Long])
def test_without_a_thread_the_command_is_refused_and_the_next_is_served(unit, command, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert send(unit, command.encode()).status == BUSY
    assert send(unit, command.encode()).status == 0
    eventually(lambda: not unit.has_tasks_of(ALPHA))  # its worker may be a moment behind the answer


@pytest.mark.parametrize("command", [Slow, Long])
def test_without_memory_the_command_ends_in_task_set_full(unit, command):
    unit.error = MemoryError()
    assert send(unit, command.encode()).status == TASK_SET_FULL
    unit.error = None
    assert send(unit, command.encode()).status == 0


@pytest.fixture
def broken_log():
    """Every line that is written raises, as it did on a full disk."""

    def raise_(logger, method, event):
        raise OSError(28, "No space left on device")

    old = structlog.get_config()
    structlog.configure(processors=[raise_], cache_logger_on_first_use=False)
    yield
    structlog.configure(**old)


@pytest.mark.parametrize("command", [Slow, Long])
def test_a_log_that_raises_costs_no_more_than_the_command(unit, command, broken_log):
    unit.error = RuntimeError("a fault of ours")
    for _ in range(3):
        assert sense_of(send(unit, command.encode())) == (4, 0x44, 0)
    unit.error = None
    assert send(unit, command.encode()).status == 0


@pytest.mark.parametrize("where", ["check_medium", "storage_failure"])
def test_a_fault_in_the_checks_ends_one_command(unit, where, monkeypatch):
    def fail(*args):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(unit, where, fail)
    if where == "check_medium":
        monkeypatch.setattr(unit.reservations, "check", fail)
        unit.reservations.legacy_holder = ALPHA
    else:
        unit.error = OSError(5, "Input/output error")
    response = send(unit, Slow.encode())
    assert sense_of(response) == (4, 0x44, 0)
