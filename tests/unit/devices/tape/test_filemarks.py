"""WRITE FILEMARKS(6), durability, and what every move does with buffered data (SSC-3 6.9, 4.2.11)."""

import shutil

import pytest

from datamover.engine import storage_fault, storage_faults_clear
from scsi_targets.t10 import ssc
from tests.unit.devices.support import BETA, send, sense_of
from tests.unit.devices.tape.support import (
    END_OF_MEDIUM,
    filemarks,
    good,
    moved,
    position,
    quiet,
    read,
    rewind,
    set_block_length,
    space,
    stream_sense,
    write,
)
from vlib_images.cartridge.cartridge import Cartridge

EIO, ENOSPC, EOPNOTSUPP = 5, 28, 95


@pytest.fixture(autouse=True)
def no_faults_left():
    yield
    storage_faults_clear()


class Spy:
    """Counts the synchronize() calls of a cartridge."""

    def __init__(self, medium: Cartridge) -> None:
        self.calls = 0
        self._real = medium.synchronize
        medium.synchronize = self

    def __call__(self) -> None:
        self.calls += 1
        self._real()


def test_filemarks_are_objects(drive):
    good(filemarks(drive, 3))
    assert position(drive) == (0, 3)
    assert drive.medium.file_number == 3
    good(filemarks(drive, 0))
    assert position(drive) == (0, 3)


def test_setmarks_are_refused(drive):
    assert sense_of(filemarks(drive, 1, write_setmarks=1)) == (5, 0x24, 0)


def test_immediate_zero_promises_durability_and_immediate_does_not(drive):
    spy = Spy(drive.medium)
    good(write(drive, b"x"))
    good(filemarks(drive, 1, immediate=1))
    assert spy.calls == 0
    good(filemarks(drive, 1))
    assert spy.calls == 1
    good(filemarks(drive, 0))  # asks again; the cartridge knows that nothing is left to make durable
    assert spy.calls == 2


@pytest.mark.parametrize(
    "cdb",
    [
        ssc.Rewind.encode(), ssc.Space6.encode(code=3), ssc.Space16.encode(code=0, count=0), ssc.Locate10.encode(),
        ssc.Locate16.encode(), ssc.LoadUnload.encode(), ssc.LoadUnload.encode(load=1),
    ],
    ids=["rewind", "space 6", "space 16", "locate 10", "locate 16", "unload", "load"],
)  # fmt: skip
def test_moves_make_durable_what_was_written(drive, cdb):
    spy = Spy(drive.medium)
    good(write(drive, b"x"))
    good(send(drive, cdb))
    assert spy.calls == 1


def test_no_filemark_appears_by_itself(drive):
    """A spurious filemark at close was another library's mistake."""
    good(write(drive, b"only"))
    rewind(drive)
    assert moved(read(drive, 4)) == b"only"
    assert stream_sense(read(drive, 4))[:4] == (0, 8, 0, 5)


def test_unbuffered_mode_is_durable_before_good(drive):
    good(set_block_length(drive, 0, buffered=0))
    spy = Spy(drive.medium)
    good(write(drive, b"a"))
    good(write(drive, b"b"))
    assert spy.calls == 2


def test_a_failed_flush_is_a_deferred_error_of_the_next_move(drive):
    good(write(drive, b"x"))
    storage_fault("sync", EIO, times=1)
    response = send(drive, ssc.Rewind.encode())
    assert response.sense[0] & 0x7F == 0x71  # deferred, current command not done
    assert sense_of(response) == (3, 0x0C, 0x00)
    assert position(drive) == (0, 1)


def test_a_failed_flush_of_write_filemarks_is_its_own_error(drive):
    good(write(drive, b"x"))
    storage_fault("sync", EIO, times=1)
    response = filemarks(drive)
    assert response.sense[0] & 0x7F == 0x70
    assert sense_of(response) == (3, 0x0C, 0x00)


def test_a_full_disk_under_the_library_is_a_write_error_at_end_of_medium(drive):
    good(write(drive, b"a" * 1000))
    good(filemarks(drive))
    storage_fault("write", ENOSPC, times=1000)
    storage_fault("allocate", ENOSPC, times=1000)
    response = good_until_failure(drive)
    assert stream_sense(response)[:4] == (END_OF_MEDIUM, 3, 0x0C, 0x00)
    storage_faults_clear()
    rewind(drive)
    assert moved(read(drive, 1000)) == b"a" * 1000


def good_until_failure(drive):
    for _ in range(200):
        if (response := write(drive, bytes(60_000))).status:
            return response
        if (response := filemarks(drive)).status:
            return response
    raise AssertionError("no failure came")


def test_write_error_of_the_storage(drive):
    good(write(drive, b"a"))
    storage_fault("sync", EIO, times=1000)
    assert stream_sense(filemarks(drive)) == (0, 3, 0x0C, 0x00, None)
    good(space(drive, 3))


def test_write_filemarks_is_never_good_before_it_is_true(drive):
    """A host that asks again for what has failed must not be told that all is well."""
    good(write(drive, b"a"))
    storage_fault("sync", EIO, times=1)
    assert stream_sense(filemarks(drive, 0)) == (0, 3, 0x0C, 0x00, None)
    assert stream_sense(filemarks(drive, 0)) == (0, 3, 0x0C, 0x00, None)
    storage_faults_clear()


def test_write_filemarks_waits_until_a_full_disk_has_room(drive):
    storage_fault("allocate", EOPNOTSUPP, times=10**9)
    good(write(drive, b"a"))
    storage_fault("write", ENOSPC, times=2)
    for _ in range(2):
        assert stream_sense(filemarks(drive, 0))[:4] == (END_OF_MEDIUM, 3, 0x0C, 0x00)
    good(filemarks(drive, 0))
    assert drive.medium.storage.partitions[0].segments.tail.marked > 0


@pytest.mark.cartridge_directory
def test_a_vanished_directory_is_a_write_error(drive):
    good(write(drive, b"a"))
    good(filemarks(drive))
    shutil.rmtree(drive.medium.storage.files.path)
    good(write(drive, b"b"))
    assert stream_sense(filemarks(drive)) == (0, 3, 0x0C, 0x00, None)


def test_deferred_error_is_reported_once_whoever_asks(drive):
    good(write(drive, b"x"))
    storage_fault("sync", EIO, times=1)
    assert send(drive, ssc.Rewind.encode(), nexus=BETA).status == 2
    good(send(drive, ssc.Rewind.encode()))


@pytest.mark.cartridge_directory
def test_storage_that_cannot_be_read_is_a_read_error(drive):
    for _ in range(40):
        good(write(drive, bytes(60_000)))
    cartridge = drive.unload()
    directory = cartridge.storage.files.path
    cartridge.close()
    with Cartridge.open(directory) as again:
        drive.load(again)
        quiet(drive)
        storage_fault("read", EIO, times=1000)
        assert stream_sense(read(drive, 60_000)) == (0, 3, 0x11, 0x00, 60_000)
        good(set_block_length(drive, 60_000))
        assert stream_sense(read(drive, 2, fixed=1)) == (0, 3, 0x11, 0x00, 2)
        storage_faults_clear()
        rewind(drive)
        good(read(drive, 2, fixed=1))
        drive.unload()
