"""A command that failed because its state could not be kept has changed nothing; one without state needs no disk."""

import errno
import threading

import pytest

from scsi_targets.devices.unit.state_store import MemoryStore
from scsi_targets.t10 import sbc, spc
from tests.unit.devices.changer.support import Library
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import make_drive


class FullStore(MemoryStore):
    """A store whose file system runs full, or goes read-only, when the test says so."""

    error: int | None = None

    def put(self, key, value, /):
        if self.error is not None:
            raise OSError(self.error, "state")
        super().put(key, value)


def a_unit(kind, directory, store):
    if kind == "disk":
        disk = make_disk(directory, store=store)
        yield disk
        disk.close()
    elif kind == "tape":
        drive = make_drive(store=store)
        yield drive
        drive.close()
    else:
        library = Library(directory)
        library.changer.close()
        library.memory = store
        library.start()
        yield library.changer
        library.close()


@pytest.fixture(params=["disk", "tape", "changer"])
def unit(request, tmp_path):
    store = FullStore()
    units = a_unit(request.param, tmp_path, store)
    unit = next(units)
    for nexus in (ALPHA, BETA):
        unit.nexus_established(nexus)
        send(unit, bytes(6), nexus=nexus)
    yield unit
    store.error = None
    units.close()


def out(unit, action, key=0, action_key=0, type_=0, aptpl=0, nexus=ALPHA):
    data = key.to_bytes(8, "big") + action_key.to_bytes(8, "big") + bytes(4) + bytes([aptpl, 0, 0, 0])
    return send(unit, bytes([0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0]), nexus=nexus, data=data)


def reservations(unit):
    return data_of(send(unit, spc.ReadReservation.encode(allocation_length=255))), data_of(
        send(unit, spc.ReadFullStatus.encode(allocation_length=4096))
    )


FAILURES = [(errno.ENOSPC, (5, 0x55, 3)), (errno.EDQUOT, (5, 0x55, 3)), (errno.EROFS, (4, 0x44, 0))]


@pytest.mark.parametrize(("error", "code"), FAILURES)
def test_persistent_reserve_out_that_failed_has_changed_nothing(unit, error, code):
    assert out(unit, 0, action_key=1, aptpl=1).status == 0
    assert out(unit, 0, action_key=2, aptpl=1, nexus=BETA).status == 0
    before = reservations(unit)
    unit.store.error = error
    failing = [
        lambda: out(unit, 1, key=1, type_=3),
        lambda: out(unit, 0, key=1, action_key=0x99, aptpl=1),
        lambda: out(unit, 0, key=1, action_key=1, aptpl=0),
        lambda: out(unit, 6, action_key=0, aptpl=1),
        lambda: out(unit, 4, key=1, action_key=2, type_=1),
        lambda: out(unit, 3, key=1),
    ]
    for command in failing:
        assert sense_of(command()) == code
        assert reservations(unit) == before
        assert send(unit, spc.LogSense.encode(), nexus=BETA).status == 0  # nobody was told anything
    unit.store.error = None
    assert out(unit, 1, key=1, type_=3).status == 0


def test_a_release_that_failed_keeps_the_reservation(unit):
    assert out(unit, 0, action_key=1, aptpl=1).status == 0
    assert out(unit, 1, key=1, type_=3).status == 0
    unit.store.error = errno.ENOSPC
    assert sense_of(out(unit, 2, key=1, type_=3)) == (5, 0x55, 3)
    assert send(unit, spc.ModeSelect6.encode(), nexus=BETA).status == 0x18


def test_without_aptpl_no_disk_is_needed(unit):
    unit.store.error = errno.ENOSPC
    assert out(unit, 0, action_key=1).status == 0
    assert out(unit, 1, key=1, type_=3).status == 0
    assert out(unit, 2, key=1, type_=3).status == 0
    assert out(unit, 3, key=1).status == 0
    for command in (spc.Reserve6, spc.Release6, spc.Reserve10, spc.Release10):
        assert send(unit, command.encode()).status == 0


def test_mode_select_that_failed_has_changed_nothing(unit):
    page = bytearray(data_of(send(unit, spc.ModeSense10.encode(page_code=0x0A, disable_block_descriptors=1,
                                                                allocation_length=255))))  # fmt: skip
    before = bytes(page)
    page[0:2], page[8] = bytes(2), page[8] & 0x3F
    page[10] |= 0x04  # D_SENSE
    unit.store.error = errno.ENOSPC
    cdb = spc.ModeSelect10.encode(page_format=1, save_pages=1, parameter_list_length=len(page))
    assert sense_of(send(unit, cdb, data=bytes(page))) == (5, 0x55, 3)
    for control in (0, 3):
        asked = spc.ModeSense10.encode(page_code=0x0A, page_control=control, disable_block_descriptors=1,
                                       allocation_length=255)  # fmt: skip
        assert data_of(send(unit, asked)) == before
    assert send(unit, b"\xd5").sense[0] == 0x70
    assert send(unit, spc.LogSense.encode(), nexus=BETA).status == 0
    unsaved = spc.ModeSelect10.encode(page_format=1, parameter_list_length=len(page))
    assert send(unit, unsaved, data=bytes(page)).status == 0  # what is not saved needs no disk


def test_a_cache_that_cannot_be_written_stays_on(tmp_path, monkeypatch):
    disk = make_disk(tmp_path)
    disk.nexus_established(ALPHA)
    send(disk, bytes(6))
    sense_page = spc.ModeSense10.encode(page_code=0x08, disable_block_descriptors=1, allocation_length=255)
    page = bytearray(data_of(send(disk, sense_page)))
    before = bytes(page)
    page[0:2], page[3], page[8] = bytes(2), 0, page[8] & 0x3F
    page[10] &= ~0x04  # WCE
    cdb = spc.ModeSelect10.encode(page_format=1, parameter_list_length=len(page))

    def fails() -> None:
        raise OSError(errno.EIO, "image")

    with monkeypatch.context() as patch:
        patch.setattr(disk.image, "synchronize", fails)
        assert sense_of(send(disk, cdb, data=bytes(page))) == (3, 0x0C, 0)
        assert data_of(send(disk, sense_page)) == before
        assert send(disk, sbc.SynchronizeCache10.encode()).status == 2
    assert send(disk, cdb, data=bytes(page)).status == 0
    disk.close()


class SlowStore(MemoryStore):
    """A store whose put() waits until the test lets it go."""

    def __init__(self):
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def put(self, key, value, /):
        self.reached.set()
        assert self.go.wait(60)
        super().put(key, value)


@pytest.mark.parametrize("command", ["persistent reserve out", "mode select"])
def test_others_do_not_wait_for_the_disk_that_keeps_state(tmp_path, command):
    store = SlowStore()
    disk = make_disk(tmp_path, store=store)
    page = bytes(8) + bytes([0x08, 18]) + bytes(18)
    select = spc.ModeSelect10.encode(page_format=1, save_pages=1, parameter_list_length=len(page))

    def change():
        if command == "mode select":
            answers.append(send(disk, select, data=page))
        else:
            answers.append(out(disk, 0, action_key=1, aptpl=1))

    answers = []
    changing = threading.Thread(target=change)
    changing.start()
    assert store.reached.wait(60)
    assert disk.lock.acquire(timeout=60)  # the unit's lock is free, so every command goes on
    disk.lock.release()
    assert send(disk, sbc.Read10.encode(transfer_length=1), nexus=BETA).status == 0
    assert not answers
    store.go.set()
    changing.join(60)
    assert [answer.status for answer in answers] == [0]
    disk.close()
