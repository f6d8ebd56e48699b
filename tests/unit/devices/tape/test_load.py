"""LOAD UNLOAD, PREVENT ALLOW MEDIUM REMOVAL and the robot's hands (SSC-3 7.2, 7.4)."""

import threading
import time
from queue import SimpleQueue

import pytest

from scsi_targets.devices.tape.base import CleaningCartridge, LoadState
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import spc, ssc
from scsi_targets.t10.sense import CheckCondition
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import (
    good,
    make_cartridge,
    make_drive,
    moved,
    position,
    quiet,
    read,
    write,
)

TEST_UNIT_READY = bytes(6)


def ready(drive, nexus=ALPHA):
    response = send(drive, TEST_UNIT_READY, nexus=nexus)
    return sense_of(response) if response.status else None


def prevent(drive, value=1, nexus=ALPHA):
    return send(drive, spc.PreventAllowMediumRemoval.encode(prevent=value), nexus=nexus)


def refusal(call, *arguments):
    with pytest.raises(CheckCondition) as caught:
        call(*arguments)
    return tuple(caught.value.sense.code)


@pytest.fixture
def empty():
    drive = make_drive()
    yield drive
    drive.close()


@pytest.fixture
def cartridge(tmp_path):
    cartridge = make_cartridge(tmp_path, capacity_bytes=1_000_000)
    yield cartridge
    cartridge.close()


# ---- the robot's hands ---------------------------------------------------------------------------------------------


def test_an_empty_drive_is_not_ready(empty):
    assert ready(empty) == (2, 0x3A, 0)
    assert empty.accessible
    assert empty.load_state is LoadState.EMPTY
    for cdb in (ssc.Rewind.encode(), ssc.Read6.encode(transfer_length=1), ssc.ReadPositionShort.encode()):
        assert sense_of(send(empty, cdb)) == (2, 0x3A, 0)


def test_load_tells_every_nexus(empty, cartridge):
    empty.load(cartridge)
    assert ready(empty) == (6, 0x28, 0)
    assert ready(empty, BETA) == (6, 0x28, 0)
    assert ready(empty) is None
    assert ready(empty, BETA) is None
    assert not empty.accessible
    assert cartridge.usage.loads == 1
    assert cartridge.usage.mounts[0].drive_serial == "TB00000001"


def test_a_second_cartridge_does_not_fit(empty, cartridge, tmp_path):
    empty.load(cartridge)
    with make_cartridge(tmp_path, "TAP002L8") as other:
        assert refusal(empty.load, other) == (5, 0x3B, 0x0D)


def test_unload_hands_over_what_was_written(empty, cartridge):
    empty.load(cartridge)
    quiet(empty)
    good(write(empty, b"kept"))
    assert empty.unload() is cartridge
    assert empty.load_state is LoadState.EMPTY
    assert ready(empty) == (2, 0x3A, 0)
    assert refusal(empty.unload) == (5, 0x3B, 0x0E)
    empty.load(cartridge)
    quiet(empty)
    assert position(empty) == (0, 0)
    assert moved(read(empty, 4)) == b"kept"
    empty.unload()


@pytest.mark.parametrize(
    ("model", "medium", "accepted", "writable"),
    [
        ("IBM ULT3580-TD5", "LTO-5", True, True), ("IBM ULT3580-TD5", "LTO-6", False, False),
        ("IBM ULT3580-TD6", "LTO-5", True, True), ("HP Ultrium 6-SCSI", "LTO-6", True, True),
        ("IBM ULTRIUM-TD7", "LTO-5", True, False), ("IBM ULTRIUM-TD7", "LTO-6", True, True),
        ("IBM ULT3580-HH8", "LTO-6", False, False), ("IBM ULT3580-HH8", "LTO-7", True, True),
        ("IBM ULT3580-TD8", "LTO-5", False, False), ("QUANTUM ULTRIUM-HH9", "LTO-8", True, True),
        ("HPE Ultrium 9-SCSI", "LTO-7", False, False), ("IBM ULT3580-TD8", "LTO-8 WORM", True, True),
    ],
)  # fmt: skip
def test_generations(tmp_path, model, medium, accepted, writable):
    drive = make_drive(model)
    with make_cartridge(tmp_path, medium=medium, capacity_bytes=1_000_000) as cartridge:
        assert drive.accepts(cartridge) is accepted
        if not accepted:
            assert refusal(drive.load, cartridge) == (2, 0x30, 0x00)
            assert drive.load_state is LoadState.EMPTY
        else:
            drive.load(cartridge)
            quiet(drive)
            response = write(drive, b"x")
            assert (response.status == 0) is writable
            if not writable:
                assert sense_of(response) == (7, 0x30, 0x05)
            drive.unload()
    drive.close()


def test_a_cleaning_cartridge_cleans_and_waits_to_be_taken_out(empty):
    cleaner = CleaningCartridge("CLN001L8")
    assert empty.accepts(cleaner)
    empty.load(cleaner)
    assert ready(empty) == (2, 0x30, 0x03)
    assert sense_of(send(empty, ssc.LoadUnload.encode(load=1))) == (2, 0x30, 0x03)
    assert empty.accessible
    assert empty.usage.life.cleanings == 1
    assert empty.unload() is cleaner
    assert ready(empty) == (2, 0x3A, 0)


# ---- LOAD UNLOAD ---------------------------------------------------------------------------------------------------


def test_unload_by_a_host_leaves_the_cartridge_for_the_robot(drive):
    good(send(drive, ssc.LoadUnload.encode()))
    assert ready(drive) == (2, 0x3A, 0)
    assert drive.accessible
    assert drive.load_state is LoadState.EJECTED
    assert drive.cartridge is not None
    good(send(drive, ssc.LoadUnload.encode()))  # once more does nothing
    cartridge = drive.unload()
    drive.load(cartridge)


def test_load_by_a_host_tells_the_others(drive):
    good(write(drive, b"abc"))
    good(send(drive, ssc.LoadUnload.encode()))
    good(send(drive, ssc.LoadUnload.encode(load=1)))
    assert ready(drive) is None
    assert ready(drive, BETA) == (6, 0x28, 0)
    assert moved(read(drive, 3)) == b"abc"


def test_load_of_a_loaded_medium_goes_to_the_beginning(drive):
    good(write(drive, b"abc"))
    good(send(drive, ssc.LoadUnload.encode(load=1)))
    assert position(drive) == (0, 0)
    assert ready(drive, BETA) is None


def test_hold(drive):
    good(send(drive, ssc.LoadUnload.encode(hold=1)))
    assert ready(drive) == (2, 0x04, 0x02)
    assert not drive.accessible
    good(send(drive, ssc.LoadUnload.encode(load=1)))
    assert ready(drive) is None
    good(send(drive, ssc.LoadUnload.encode(load=1, hold=1)))
    assert ready(drive) == (2, 0x04, 0x02)
    good(send(drive, ssc.LoadUnload.encode(load=1)))


def test_load_without_a_cartridge(empty):
    assert sense_of(send(empty, ssc.LoadUnload.encode(load=1))) == (2, 0x3A, 0)
    good(send(empty, ssc.LoadUnload.encode()))


def test_end_of_tape_with_load_is_refused(drive):
    response = send(drive, ssc.LoadUnload.encode(load=1, end_of_tape=1))
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCA, 0, 4])


# ---- PREVENT ALLOW MEDIUM REMOVAL ----------------------------------------------------------------------------------


def test_prevented_removal_is_refused_to_host_and_robot(drive):
    good(prevent(drive))
    assert drive.removal_prevented
    assert sense_of(send(drive, ssc.LoadUnload.encode())) == (5, 0x53, 0x02)
    assert sense_of(send(drive, ssc.LoadUnload.encode(), nexus=BETA)) == (5, 0x53, 0x02)
    assert refusal(drive.unload) == (5, 0x53, 0x02)
    assert ready(drive) is None  # the cartridge is still ready
    good(prevent(drive, 0))
    drive.load(drive.unload())


def test_each_nexus_prevents_for_itself(drive):
    good(prevent(drive))
    good(prevent(drive, nexus=BETA))
    good(prevent(drive, 0))
    assert drive.removal_prevented
    drive.nexus_lost(BETA)
    assert not drive.removal_prevented
    good(prevent(drive))
    drive.reset()
    assert not drive.removal_prevented


@pytest.mark.parametrize("value", [2, 3])
def test_obsolete_prevent_values_are_refused(drive, value):
    assert sense_of(prevent(drive, value)) == (5, 0x24, 0)


# ---- races ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def erasing(drive, monkeypatch):
    """An erase that runs until its event is set, and the event that its end sets."""
    started, go, done = threading.Event(), threading.Event(), threading.Event()
    real = drive.medium.erase

    def slow_erase(long=False):
        started.set()
        assert go.wait(60)
        real(long)

    monkeypatch.setattr(drive.medium, "erase", slow_erase)
    erase = Task(ALPHA, 0, ssc.Erase6.encode(long=1).ljust(16, b"\0"), complete=lambda response: done.set())
    assert drive.execute(erase) is None
    assert started.wait(60)
    yield go, done
    go.set()


def test_a_slow_command_is_not_waited_for(drive, erasing):
    """The robot has other drives to serve."""
    go, done = erasing
    began = time.monotonic()
    assert refusal(drive.unload) == (5, 0x53, 0x02)
    assert time.monotonic() - began < 40
    assert drive.medium is not None
    assert not done.is_set()
    data = data_of(send(drive, spc.RequestSense.encode(allocation_length=18)))
    assert (data[2], data[12], data[13]) == (0, 0x00, 0x16)  # operation in progress
    go.set()
    assert done.wait(60)
    drive.load(drive.unload())


@pytest.fixture
def insisting(drive, monkeypatch):
    """Takes the cartridge by force, and calls what it is given as soon as those who wait for the drive were told."""
    monkeypatch.setattr("scsi_targets.devices.tape.load.ROBOT_PATIENCE_SECONDS", 0)

    def take(then):
        clear = drive.tasks.clear_guests
        monkeypatch.setattr(drive.tasks, "clear_guests", lambda *args: (clear(*args), then())[0])
        with drive.removing(force=True) as cartridge:
            assert drive.cartridge is cartridge
        return cartridge

    return take


def test_an_operator_who_insists_ends_what_runs(drive, erasing, insisting):
    """What has been done is answered as such, and what waits for the medium as by a drive that has none."""
    go, done = erasing
    waiting = [Queued(drive, bytes([0x10, 0, 0, 0, 1, 0])), Queued(drive, spc.Reserve6.encode())]
    cartridge = insisting(go.set)
    assert (drive.cartridge, drive.medium, drive.load_state) == (None, None, LoadState.EMPTY)
    assert done.is_set()
    assert sense_of(waiting[0].answer()) == (2, 0x3A, 0x00)
    good(waiting[1].answer())
    assert ready(drive) == (2, 0x3A, 0x00)
    assert send(drive, TEST_UNIT_READY, nexus=BETA).status == 0x18  # it was not reset
    drive.load(cartridge)
    assert drive.medium.at_eod  # nothing was written after the erase


class Queued:
    """A command that waits for the worker."""

    def __init__(self, drive, cdb):
        self.answers = SimpleQueue()
        assert drive.execute(Task(ALPHA, 0, cdb.ljust(16, b"\0"), complete=self.answers.put)) is None

    def answer(self):
        return self.answers.get(timeout=60)


def test_an_operator_who_insists_ends_a_verify(drive, insisting, monkeypatch):
    for _ in range(8):
        good(write(drive, b"block"))
    drive.medium.rewind()
    read_block, standing, go = drive.medium.read_block, threading.Event(), threading.Event()
    read_blocks = []

    def stand(*args):
        standing.set()
        assert go.wait(60)
        read_blocks.append(args)
        return read_block(*args)

    monkeypatch.setattr(drive.medium, "read_block", stand)
    verify = Queued(drive, ssc.Verify6.encode(verify_to_end_of_data=1))
    assert standing.wait(60)
    insisting(go.set)
    assert sense_of(verify.answer()) == (2, 0x3A, 0x00)
    assert len(read_blocks) == 1


def test_an_operator_who_insists_waits_for_a_write(drive, monkeypatch):
    """It is answered GOOD, and is on the tape; the next one finds no medium."""
    write_blocks, standing, go, answers = drive.write_blocks, threading.Event(), threading.Event(), SimpleQueue()

    def stand(*args, **more):
        standing.set()
        assert go.wait(60)
        return write_blocks(*args, **more)

    monkeypatch.setattr(drive, "write_blocks", stand)
    monkeypatch.setattr("scsi_targets.devices.tape.load.ROBOT_PATIENCE_SECONDS", 0)
    monkeypatch.setattr("scsi_targets.devices.tape.load.log.warning", lambda *args, **more: go.set())
    writing = threading.Thread(target=lambda: answers.put(write(drive, b"whole")))
    writing.start()
    assert standing.wait(60)
    with drive.removing(force=True) as cartridge:
        pass
    writing.join(60)
    good(answers.get(timeout=60))
    assert sense_of(write(drive, b"late")) == (2, 0x3A, 0x00)
    drive.load(cartridge)
    quiet(drive)
    assert data_of(read(drive, 5)) == b"whole"


def test_what_an_operator_should_leave_alone(drive):
    assert drive.in_use() is None
    good(write(drive, b"block"))
    assert "written" in drive.in_use()
    good(send(drive, bytes([0x10, 0, 0, 0, 1, 0])))
    assert "not at its beginning" in drive.in_use()
    good(send(drive, bytes([0x01, 0, 0, 0, 0, 0])))  # REWIND
    assert drive.in_use() is None
    good(send(drive, spc.Reserve6.encode()))
    assert "alpha has reserved it" in drive.in_use()
    good(send(drive, spc.Release6.encode()))
    prevent(drive, nexus=BETA)
    assert "beta has locked it" in drive.in_use()
    prevent(drive, 0, nexus=BETA)
    key = bytes(8) + (7).to_bytes(8, "big") + bytes(8)
    good(send(drive, bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), data=key))
    assert drive.in_use() is None
    key = (7).to_bytes(8, "big") + bytes(16)
    good(send(drive, bytes([0x5F, 1, 3, 0, 0, 0, 0, 0, 24, 0]), data=key))
    assert "alpha has reserved it" in drive.in_use()
    good(send(drive, bytes([0x5F, 3, 0, 0, 0, 0, 0, 0, 24, 0]), data=key))  # CLEAR
    assert drive.in_use() is None


def test_a_removal_that_is_called_off_leaves_the_tape_where_it_is(drive):
    good(write(drive, b"one"))
    good(write(drive, b"two"))
    before = position(drive)
    with pytest.raises(RuntimeError, match="no room"), drive.removing():
        raise RuntimeError("no room")
    assert (position(drive), ready(drive)) == (before, None)
    good(write(drive, b"three"))

    def forbid():
        raise RuntimeError("not this one")

    with pytest.raises(RuntimeError, match="not this one"), drive.removing(forbid):
        raise AssertionError("it was forbidden")
    assert "written" in drive.in_use()  # nothing was done before it was asked


def test_an_operator_who_insists_goes_past_prevent(drive):
    prevent(drive)
    good(write(drive, b"kept"))
    with drive.removing(force=True) as cartridge:
        pass
    assert ready(drive) == (2, 0x3A, 0x00)
    assert not drive.removal_prevented
    drive.load(cartridge)
    quiet(drive)
    assert data_of(read(drive, 4)) == b"kept"


def test_counts_that_cannot_be_saved_keep_no_cartridge_out(drive, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drive.store, "put", full)
    drive.load(drive.unload())


def test_two_robots_take_the_cartridge_once(drive):
    outcomes = []

    def take():
        try:
            outcomes.append(drive.unload())
        except CheckCondition as error:
            outcomes.append(tuple(error.sense.code))

    hands = [threading.Thread(target=take) for _ in range(2)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join(60)
    assert (5, 0x3B, 0x0E) in outcomes
    cartridge = next(outcome for outcome in outcomes if not isinstance(outcome, tuple))
    drive.load(cartridge)
