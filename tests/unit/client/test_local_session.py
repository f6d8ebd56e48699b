"""The SCSI client over a session within the process: what it sends is answered as an iSCSI session's commands are."""

import threading

import pytest

from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Capacity, Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.tape_stream import TapeStream
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.unit.local_session import LocalSession, Stopped
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10 import spc
from tests.unit.devices.copying.support import BLOCKS, Site
from tests.unit.devices.support import ALPHA, TARGET

DISK, TAPE = 0, 1
JOB = Nexus("iqn.2026-01.io.tapebay:job", bytes(6), TARGET)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def test_a_disk_is_copied_and_read_back(site):
    with LocalSession(site.view, JOB) as session:
        disk, tape = Disk(session, DISK), Tape(session, TAPE)
        assert disk.capacity == Capacity(BLOCKS, 512)
        stream = TapeStream(CopyingUnit(session, TAPE), tape, [disk], block_length=65536)
        stream.add_extent(0, 0, BLOCKS * 512)
        stream.end()
        stream.write_filemarks()
        tape.rewind()
        block = bytearray(65536)
        assert b"".join(bytes(block[: tape.read_block(block)]) for _ in range(32)) == site.disk_data


def test_sense_data_arrives(site):
    with LocalSession(site.view, JOB) as session:
        tape = Tape(session, TAPE)
        tape.rewind()
        with pytest.raises(CommandFailed) as failed:
            tape.read_block(bytearray(512))
        assert failed.value.sense.code.key == 0x08  # BLANK CHECK


def test_its_reservation_keeps_others_out_until_it_is_gone(site):
    with LocalSession(site.view, JOB) as session:
        tape = Tape(session, TAPE)
        tape.run(spc.Reserve6.encode())
        with LocalSession(site.view, ALPHA) as other, pytest.raises(CommandFailed) as refused:
            Tape(other, TAPE).rewind()
        assert refused.value.status == 0x18
    with LocalSession(site.view, ALPHA) as other:
        Tape(other, TAPE).rewind()


def test_a_command_that_waits_is_given_up_when_it_is_stopped(site):
    stop = threading.Event()
    assert site.tape.occupy(0)  # the robot has the drive: the copy waits
    try:
        with LocalSession(site.view, JOB, stopped=stop.is_set) as session:
            disk, tape = Disk(session, DISK), Tape(session, TAPE)
            stream = TapeStream(CopyingUnit(session, DISK), tape, [disk], block_length=65536)
            stream.add_extent(0, 0, 65536)
            threading.Timer(0.1, stop.set).start()
            with pytest.raises(Stopped):
                stream.end()
            with pytest.raises(Stopped):
                tape.test_unit_ready()
    finally:
        site.tape.vacate()
    assert site.cartridges[0].end_of_data(0) == 0
