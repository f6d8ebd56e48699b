"""The SCSI client against our own disks and drives, over libiscsi and the server."""

import dataclasses
import hashlib

import pytest

from datamover.initiator import InitiatorSession
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Capacity, Disk
from scsi_targets.client.tape import FILEMARKS, Tape, TapeFile
from scsi_targets.client.unit import CommandFailed, NoSuchAnswer, Unit
from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.server import Server
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from tests.support import packages
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream, content, stream_to_block
from tests.unit.devices.support import TARGET
from tests.unit.iscsi.support import Directory

DISK, TAPE, ABSENT = 0, 1, 7


@pytest.fixture
def site(tmp_path):
    packages.require("libiscsi7")
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def session(site):
    portals = [Portal("127.0.0.1", 0, 1)]
    server = Server(Directory({TARGET: dict(site.view.logical_units)}, portals), portals)
    ((host, port),) = server.start()
    with InitiatorSession(f"{host}:{port}", TARGET) as session:
        yield session
    server.stop()


def test_names_are_those_of_the_logical_unit(site, session):
    disk = Disk(session, DISK)
    assert disk.naa() == site.disk.identity.naa
    assert [found.designator_type for found in disk.designations()] == [1, 3]
    with pytest.raises(CommandFailed, match="LUN 7: CDB 1201"):
        Unit(session, ABSENT).naa()


def test_unit_attentions_are_passed_over(site, session):
    site.disk.establish_unit_attention(sense.MODE_PARAMETERS_CHANGED, site.disk.nexuses)
    Unit(session, DISK).test_unit_ready()  # that of the login, too
    with pytest.raises(CommandFailed) as failed:
        Unit(session, ABSENT).test_unit_ready()
    assert (failed.value.status, failed.value.sense.code) == (2, sense.LOGICAL_UNIT_NOT_SUPPORTED)
    assert "LUN 7: CDB 000000000000" in str(failed.value)


def test_a_disk(site, session):
    disk = Disk(session, DISK)
    assert disk.capacity == Capacity(BLOCKS, 512)
    assert disk.capacity.size_bytes == BLOCKS * 512
    disk.write(content(1024, seed=9), 5)
    into = bytearray(1536)
    disk.read(into, 4)
    assert into == site.disk_data[2048:2560] + content(1024, seed=9)
    image = bytearray(BLOCKS * 512)
    site.disk.medium.read_into(image, 0)
    assert disk.sha256() == hashlib.sha256(image).hexdigest()


def test_a_tape(site, session):
    tape = Tape(session, TAPE)
    tape.use_variable_blocks()
    for seed in range(3):
        tape.write_block(content(1000, seed))
    tape.write_filemarks()
    assert tape.position() == (0, 4, 1)
    tape.rewind()
    into = bytearray(2000)
    assert tape.read_block(into) == 1000
    assert bytes(into[:1000]) == content(1000, 0)
    tape.locate(1)
    whole = hashlib.sha256(content(1000, 1) + content(1000, 2)).hexdigest()
    assert tape.sha256_of_file(2000, 1000) == whole
    tape.locate(0)
    with pytest.raises(NoSuchAnswer, match="goes on after 2000 bytes"):
        tape.sha256_of_file(2000, 1000)
    tape.locate(0)
    with pytest.raises(CommandFailed) as failed:
        tape.sha256_of_file(5000, 1000)
    assert failed.value.sense.filemark
    tape.unload()
    with pytest.raises(CommandFailed):
        tape.test_unit_ready()
    tape.load()


class PlainDrive:
    """A session with a drive that does less than LTO: it takes no notice of SILI, or READ POSITION tells nothing."""

    def __init__(self, session, *, tells=True):
        self._session, self._tells = session, tells

    def command(self, lun, cdb, *args, **more):
        if cdb[0] == 0x08:
            cdb = bytes([cdb[0], cdb[1] & ~2, *cdb[2:]])
        result = self._session.command(lun, cdb, *args, **more)
        if cdb[0] == 0x34 and not self._tells:
            return dataclasses.replace(result, data=memoryview(bytes(32)))
        return result


def test_a_file_of_a_drive_that_takes_no_notice_of_sili(site, session):
    site.fill([content(1000), content(1000), content(300), None, content(50)])
    tape = Tape(PlainDrive(session), TAPE)
    assert tape.file_ahead() == TapeFile(3, 1000, 300)
    tape.space(FILEMARKS)
    assert tape.file_ahead() == TapeFile(1, 50, 50)


def test_a_drive_that_does_not_say_where_it_is(site, session):
    site.fill([content(1000), None])
    with pytest.raises(NoSuchAnswer, match="READ POSITION does not say where the tape is"):
        Tape(PlainDrive(session, tells=False), TAPE).file_ahead()


def test_a_copy_and_what_a_failed_one_tells(site, session):
    disk, tape = Disk(session, DISK), Tape(session, TAPE)
    manager = CopyingUnit(session, DISK)
    manager.extended_copy([disk.cscd(), tape.cscd()], [block_to_stream(65536, BLOCKS)])
    assert b"".join(site.written()) == site.disk_data
    status = manager.status()
    assert (status.copy_command_status, status.segments_processed) == (1, 1)
    assert manager.operating_parameters().maximum_cscd_descriptor_count == 64
    tape.write_filemarks()
    tape.rewind()
    with pytest.raises(CommandFailed) as failed:
        manager.extended_copy([disk.cscd(), tape.cscd()], [copy.VerifyCscd.encode(source=0), stream_to_block(512, 1)])
    found = failed.value.sense
    assert found.code == sense.THIRD_PARTY_DEVICE_FAILURE
    assert found.command_specific & 0xFFFF == 1
    assert (found.forwarded.by_destination, found.forwarded.status) == (False, 2)
