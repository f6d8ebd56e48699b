"""Copies between our units and those of other iSCSI targets: a second Tapebay, and Debian's tgt."""

import dataclasses
import threading
from contextlib import contextmanager

import pytest

from datamover.initiator import InitiatorSession
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.devices.copying import remote_disk, remote_session
from scsi_targets.devices.copying.remote import RemoteUnit, describe
from scsi_targets.devices.copying.remote_access import RemoteAddress
from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.server import Server
from scsi_targets.t10 import copy_descriptors as copy
from tests.support import packages
from tests.support.ports import free_port
from tests.support.tgt import TgtTarget, installed
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream, content, stream_to_block
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, code_of, failure
from tests.unit.devices.copying.test_participants import start
from tests.unit.devices.support import ALPHA, BETA, TARGET, send, sense_of
from tests.unit.devices.tape.support import good
from tests.unit.iscsi.support import Directory

ABORT = copy.CopyOperationAbort.encode(list_identifier=0)
NAME = "iqn.2026-11.test:copy-manager"


@pytest.fixture
def here(tmp_path):
    packages.require("libiscsi7")
    (tmp_path / "here").mkdir()
    site = Site(tmp_path / "here")
    yield site
    site.close()


@contextmanager
def serving(site):
    portals = [Portal("127.0.0.1", free_port(), 1)]  # some are started again at the same one
    limits = Limits(logout_grace_seconds=0.05)  # a copy does not log out because it is asked to
    server = Server(Directory({TARGET: dict(site.view.logical_units)}, portals), portals, limits)
    ((host, port),) = server.start()
    try:
        yield f"{host}:{port}", server
    finally:
        server.stop()


class There:
    """A second library: LUN 0 a disk, 1 and 2 drives."""

    def __init__(self, site, portal, server):
        self.site, self.server = site, server
        self.disk, self.tape = (add(RemoteAddress(portal, TARGET, lun, NAME)) for lun in (0, 1))


class Elsewhere:
    """What somebody else does on a thread of its own, because it waits for a lock that the copy's command holds, or for
    the command's end. The copy goes no further than `device.method` before it is done."""

    def __init__(self, monkeypatch, device, method):
        self._threads = []
        self._do = getattr(device, method)
        monkeypatch.setattr(device, method, self._wait_and_do)

    def _wait_and_do(self, *args, **more):
        for thread in self._threads:
            thread.join(60)
        return self._do(*args, **more)

    def begin(self, call, *args, **more):
        thread = threading.Thread(target=call, args=args, kwargs=more)
        thread.start()
        self._threads.append(thread)


def add(address):
    return RemoteUnit(address, describe(address))


@pytest.fixture
def there(tmp_path, here):
    (tmp_path / "there").mkdir()
    site = Site(tmp_path / "there")
    for number, drive in enumerate((site.disk, site.tape, site.other)):
        drive.identity = dataclasses.replace(drive.identity, serial_number=f"THERE{number:05}")
    with serving(site) as (portal, server):
        there = There(site, portal, server)
        here.remote_units = [there.disk, there.tape]
        yield there
    site.close()


def cscd(remote, **fields):
    """A CSCD descriptor with the remote unit's NAA designator."""
    naa = next(found.name for found in remote.description.designators if found.designator_type == 3)
    block_length = remote.description.block_length
    return copy.identification_descriptor(
        naa, device_type=remote.description.device_type, **{"block_length": block_length} | fields
    )


def test_what_is_there_is_described(there):
    assert there.disk.description.device_type == 0
    assert there.disk.description.block_length == 512
    assert there.tape.description.device_type == 1
    names = {found.name for found in there.disk.description.designators}
    assert there.site.disk.identity.naa in names


def test_their_disk_to_our_tape_and_back(here, there):
    there.site.disk.medium.write(content(BLOCKS * 512, seed=8), 0)
    cscds = [cscd(there.disk), here.tape_descriptor()]
    good(here.copy(block_to_stream(65536, BLOCKS), cscds=cscds, unit=here.tape))
    assert b"".join(here.written()) == content(BLOCKS * 512, seed=8)
    here.tape.loaded.rewind()
    there.site.disk.medium.write(bytes(BLOCKS * 512), 0)
    good(here.copy(stream_to_block(65536, BLOCKS), cscds=cscds, unit=here.tape))
    image = bytearray(BLOCKS * 512)
    there.site.disk.medium.read_into(image, 0)
    assert image == content(BLOCKS * 512, seed=8)


def test_our_disk_to_their_tape_and_back(here, there):
    cscds = [here.disk_descriptor(), cscd(there.tape)]
    mark = copy.WriteFilemarks.encode(destination=1, filemark_count=1)
    good(here.copy(block_to_stream(65536, 1024), mark, block_to_stream(65536, 1024, 1024), cscds=cscds))
    whole = here.disk_data[: 2048 * 512]
    blocks = [whole[at : at + 65536] for at in range(0, len(whole), 65536)]
    assert there.site.written() == [*blocks[:8], None, *blocks[8:]]
    back = copy.LocateTape.encode(destination=1)
    over = copy.SpaceTape.encode(destination=1, code=1, count=1)
    first, second = stream_to_block(65536, 128, 2000), stream_to_block(65536, 128, 3000)
    good(here.copy(back, first, over, second, cscds=cscds))
    image = bytearray(BLOCKS * 512)
    here.disk.medium.read_into(image, 0)
    assert image[2000 * 512 : 2128 * 512] == blocks[0]
    assert image[3000 * 512 : 3128 * 512] == blocks[8]


def test_any_byte_of_their_disk(here, there):
    part = copy.BlockWithOffsetToBlockWithOffset.encode(
        source=0, destination=1, number_of_bytes=300_000, source_logical_block_address=1, source_byte_offset=5,
        destination_logical_block_address=7, destination_byte_offset=100,
    )  # fmt: skip
    little = copy.BlockWithOffsetToBlockWithOffset.encode(
        source=1, destination=0, number_of_bytes=20, source_logical_block_address=7, source_byte_offset=100,
        destination_logical_block_address=3000, destination_byte_offset=510,
    )  # fmt: skip
    before = bytearray(there.site.disk_data)
    good(here.copy(part, little, cscds=[here.disk_descriptor(), cscd(there.disk)]))
    image = bytearray(BLOCKS * 512)
    there.site.disk.medium.read_into(image, 0)
    before[7 * 512 + 100 : 7 * 512 + 100 + 300_000] = here.disk_data[517:300_517]
    assert image == before
    here.disk.medium.read_into(image, 0)
    assert image[3000 * 512 + 510 : 3000 * 512 + 530] == here.disk_data[517:537]


def test_what_they_say_is_forwarded(here, there):
    """A filemark, write protection, a reservation, blocks behind the end."""
    there.site.fill([content(512), None])
    cscds = [here.disk_descriptor(), cscd(there.tape), cscd(there.disk)]
    response = here.copy(stream_to_block(512, 1), stream_to_block(512, 1), cscds=cscds)
    segment, _, pointer, status, sense = failure(response, SOURCE)
    assert (segment, pointer, status, sense[2] & 0x80) == (1, bytes([0x80, 0, 48]), 2, 0x80)
    there.site.tape.loaded.write_protected = True
    segment, _, _, _, sense = failure(here.copy(block_to_stream(512, 1), cscds=cscds), DESTINATION)
    assert code_of(sense) == (7, 0x27, 0)
    there.site.tape.loaded.write_protected = False
    good(send(there.site.tape, bytes([0x16, 0, 0, 0, 0, 0]), nexus=BETA))
    _, _, _, status, _ = failure(here.copy(block_to_stream(512, 1), cscds=cscds), DESTINATION)
    assert status == 0x18
    good(send(there.site.tape, bytes([0x17, 0, 0, 0, 0, 0]), nexus=BETA))
    behind = copy.BlockToBlock.encode(
        source=2, destination=0, number_of_blocks=2, source_logical_block_address=BLOCKS - 1
    )
    _, _, _, _, sense = failure(here.copy(behind, cscds=cscds), SOURCE)
    assert code_of(sense) == (5, 0x21, 0)


def test_early_warning_of_their_tape_has_an_exact_residual(here, there):
    there.site.tape.loaded.early_warning_bytes = 40_000_000 - 1_000_000
    cscds = [here.disk_descriptor(), cscd(there.tape)]
    response = here.copy(block_to_stream(65536, BLOCKS), cscds=cscds)
    _, information, _, _, sense = failure(response, DESTINATION)
    assert (code_of(sense), sense[2] & 0x40) == ((0, 0, 2), 0x40)
    written = b"".join(there.site.written())
    assert written == here.disk_data[: len(here.disk_data) - information]
    assert 0 < len(written) < len(here.disk_data)


def test_a_reset_there_ends_the_copy_here(here, there, monkeypatch):
    read_into, reads = here.disk.medium.read_into, []
    standing, go = threading.Event(), threading.Event()

    def read(*args):
        reads.append(args)
        if len(reads) == 6:  # before the copy has all that it is to write
            standing.set()
            assert go.wait(60)
        return read_into(*args)

    monkeypatch.setattr(here.disk.medium, "read_into", read)
    segments, cscds = [block_to_stream(65536, BLOCKS)] * 8, [here.disk_descriptor(), cscd(there.tape)]
    running = start(here.disk, here, segments, BETA, cscds)
    assert standing.wait(60)
    there.site.tape.reset()
    go.set()
    assert sense_of(running.answer())[0] == 0xA
    assert len(b"".join(there.site.written())) < 8 * len(here.disk_data)


def test_a_connection_that_is_lost_in_mid_copy(here, there, monkeypatch):
    """What was written before it is on the tape, and the copy says that the unit is gone, not what it said."""
    read_into, reads = there.site.disk.medium.read_into, []
    elsewhere = Elsewhere(monkeypatch, here.tape, "write_blocks")
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", 65536)  # far more than can be read ahead

    def read(*args):
        reads.append(args)
        if len(reads) == 6:
            elsewhere.begin(there.server.stop)
        return read_into(*args)

    monkeypatch.setattr(there.site.disk.medium, "read_into", read)
    cscds = [cscd(there.disk), here.tape_descriptor()]
    response = here.copy(*[block_to_stream(65536, BLOCKS)] * 8, cscds=cscds, unit=here.tape)
    assert sense_of(response) == (0xA, 0x0D, 0x02)
    assert response.sense[15:18] == bytes([0x80, 0, 16])
    written = b"".join(here.written())
    assert written == (there.site.disk_data * 8)[: len(written)]


def test_a_unit_that_does_not_answer_in_time(here, there, monkeypatch):
    submit_read, go = remote_disk.RemoteDiskAccess._submit_read, threading.Event()

    def submit(*given):
        monkeypatch.setattr(remote_disk, "COMMAND_SECONDS", 0.3)  # of the one that is not answered
        return submit_read(*given)

    monkeypatch.setattr(remote_disk.RemoteDiskAccess, "_submit_read", submit)
    monkeypatch.setattr(there.site.disk.medium, "read_into", lambda *_: go.wait(60))
    response = here.copy(
        block_to_stream(65536, BLOCKS), cscds=[cscd(there.disk), here.tape_descriptor()], unit=here.tape
    )
    go.set()
    assert sense_of(response) == (0xA, 0x0D, 0x02)
    assert here.written() == []


@pytest.mark.parametrize("kind", ["disk", "tape"])
@pytest.mark.parametrize("how", ["stopped", "aborted", "reset"])
def test_a_copy_that_is_stopped_does_not_wait_for_who_does_not_answer(here, there, monkeypatch, kind, how):
    monkeypatch.setattr(remote_session, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(remote_session, "STOPPING_SECONDS", 0.1)
    standing, go = threading.Event(), threading.Event()

    def stand(*_, **__):
        standing.set()
        go.wait(60)

    if kind == "disk":
        monkeypatch.setattr(there.site.disk.medium, "read_into", stand)
        cscds, ours, side = [cscd(there.disk), here.tape_descriptor()], here.tape, DESTINATION
    else:
        monkeypatch.setattr(there.site.tape, "write_blocks", stand)
        cscds, ours, side = [here.disk_descriptor(), cscd(there.tape)], here.disk, SOURCE
    copying = start(here.other, here, [block_to_stream(65536, BLOCKS)], ALPHA, cscds=cscds)
    assert standing.wait(60)
    (record,) = here.other.copy_manager.recent()
    if how == "reset":
        ours.reset()
        assert code_of(failure(copying.answer(), side)[4]) == (6, 0x29, 0x03)
    else:
        stop = record.cancel if how == "stopped" else lambda: send(here.other, ABORT)
        stop()
        assert sense_of(copying.answer()) == (0xA, 0x2F, 0x02)
        assert record.reason == "it was stopped"
    go.set()
    assert here.tape.occupy(60)
    here.tape.vacate()


def test_who_cannot_be_reached(here, there, tmp_path):
    gone = RemoteUnit(RemoteAddress("127.0.0.1:1", TARGET, 0, NAME), there.disk.description)
    another = RemoteUnit(
        RemoteAddress(there.disk.address.portal, TARGET, 2, NAME), there.tape.description
    )  # LUN 2 is not the drive that was added
    for remote, segment in ((gone, block_to_stream(512, 1)), (another, copy.WriteFilemarks.encode(destination=0))):
        here.remote_units = [remote]
        response = here.copy(
            copy.VerifyCscd.encode(source=copy.THIS_LOGICAL_UNIT), segment, cscds=[cscd(remote), here.tape_descriptor()]
        )
        assert sense_of(response) == (0xA, 0x0D, 0x02)
        assert response.sense[8:12] == bytes([0, 0, 0, 1])
        assert response.sense[15:18] == bytes([0x80, 0, 16])
    assert here.written() == there.site.written(there.site.other) == []


def test_only_what_was_added_is_known(here, there):
    here.remote_units = []
    response = here.copy(block_to_stream(512, 1), cscds=[cscd(there.disk), here.tape_descriptor()])
    assert sense_of(response) == (0xA, 0x0D, 0x02)


def test_copies_have_their_tape_one_after_another(here, there):
    cscds = [here.disk_descriptor(), cscd(there.tape)]
    copies = [
        start(here.disk, here, [block_to_stream(512, 4, 4 * n)], BETA, cscds, list_identifier=n) for n in range(6)
    ]
    for running in copies:
        good(running.answer())
    assert there.site.written() == [here.disk_data[at : at + 512] for at in range(0, 24 * 512, 512)]


# ---- somebody else's target ----------------------------------------------------------------------------------------


@pytest.fixture
def tgt(here):
    if not installed():
        packages.require("tgt")
    with TgtTarget(disk_megabytes=4) as running:
        yield running


def test_tgts_disk_to_our_tape_and_our_disk_to_tgts(here, tgt):
    address = RemoteAddress(tgt.portal, tgt.target_name, tgt.disk_lun, NAME)
    remote = add(address)
    here.remote_units = [remote]
    with InitiatorSession(tgt.portal, tgt.target_name) as session:
        for at in range(0, 4 << 20, 1 << 20):
            Disk(session, tgt.disk_lun).write(content(1 << 20, seed=at), at // 512)
        cscds = [cscd(remote), here.tape_descriptor()]
        good(here.copy(block_to_stream(262144, 8192), cscds=cscds, unit=here.tape))
        assert b"".join(here.written()) == b"".join(content(1 << 20, seed=at) for at in range(0, 4 << 20, 1 << 20))
        forth = copy.BlockToBlock.encode(
            source=0, destination=1, number_of_blocks=BLOCKS, destination_logical_block_address=100
        )
        good(here.copy(forth, cscds=[here.disk_descriptor(), cscd(remote)]))
        into = bytearray(BLOCKS * 512)
        for at in range(0, len(into), 1 << 20):
            Disk(session, tgt.disk_lun).read(memoryview(into)[at : at + (1 << 20)], 100 + at // 512)
        assert into == here.disk_data


def test_our_disk_to_tgts_tape_and_back(here, tgt):
    remote = add(RemoteAddress(tgt.portal, tgt.target_name, tgt.tape_lun, NAME))
    here.remote_units = [remote]
    cscds = [here.disk_descriptor(), cscd(remote)]
    mark = copy.WriteFilemarks.encode(destination=1, filemark_count=1)
    good(here.copy(block_to_stream(65536, 2048), mark, cscds=cscds))
    with InitiatorSession(tgt.portal, tgt.target_name) as session:
        Tape(session, tgt.tape_lun).rewind()
    good(here.copy(stream_to_block(65536, 2048, 2048), cscds=cscds))
    image = bytearray(BLOCKS * 512)
    here.disk.medium.read_into(image, 0)
    assert image[2048 * 512 :] == here.disk_data[: 2048 * 512]
