"""EXTENDED COPY as an initiator sees it: libiscsi, the server, a disk and two drives."""

import threading
from contextlib import contextmanager

import pytest

from datamover.initiator import InitiatorError, Session, TaskManagementResponse
from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.server import Server
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import ssc
from tests.support import packages
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream
from tests.unit.devices.support import TARGET
from tests.unit.iscsi.support import Directory

DISK, TAPE = 0, 1


@pytest.fixture
def site(tmp_path):
    packages.require("libiscsi7")
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def server(site):
    portals = [Portal("127.0.0.1", 0, 1)]
    server = Server(Directory({TARGET: site.target}, portals), portals)
    (server.bound,) = server.start()
    yield server
    server.stop()


@contextmanager
def session(server, name="alpha"):
    with Session("{}:{}".format(*server.bound), TARGET, initiator_name=f"iqn.2026-11.test:{name}") as logged_in:
        for lun in (DISK, TAPE):
            while logged_in.command(lun, bytes(6)).status:
                pass  # unit attentions of the login
        yield logged_in


def order(site, *segments, **header):
    data = copy.parameter_list(site.descriptors, segments, **header)
    return copy.ExtendedCopyLid1.encode(parameter_list_length=len(data)), data


@pytest.mark.parametrize("lun", [DISK, TAPE])
def test_copy_and_read_back(site, server, lun):
    with session(server) as alpha:
        cdb, data = order(site, block_to_stream(65536, BLOCKS), list_identifier=9)
        result = alpha.command(lun, cdb, data)
        assert (result.status, result.residual) == (0, 0)
        status = copy.ReceiveCopyStatusLid1.encode(list_identifier=9, allocation_length=12)
        assert bytes(alpha.command(lun, status, data_in_length=12).data) == bytes.fromhex(
            "00000008 01 0001 00 00200000"
        )
        assert alpha.command(TAPE, ssc.Rewind.encode()).status == 0
        read = ssc.Read6.encode(transfer_length=65536)
        blocks = [bytes(alpha.command(TAPE, read, data_in_length=65536).data) for _ in range(BLOCKS * 512 // 65536)]
        assert b"".join(blocks) == site.disk_data


def test_a_failure_brings_its_forwarded_sense(site, server):
    site.tape.loaded.write_filemarks(1)
    site.tape.loaded.rewind()
    with session(server) as alpha:
        segment = copy.StreamToBlock.encode(
            source=1, destination=0, stream_device_transfer_length=512, number_of_blocks=1
        )
        result = alpha.command(DISK, *order(site, segment))
        assert result.status == 2
        assert (result.sense[2] & 0x0F, result.sense[12:14]) == (0xA, b"\x0d\x01")
        assert result.sense[result.sense[8] + 1 :][2] == 0x80  # the drive's own: a filemark


def test_the_disk_serves_others_while_it_is_copied_and_the_copy_can_be_aborted(site, server, monkeypatch):
    go, standing = threading.Event(), threading.Event()
    write_blocks = site.tape.write_blocks

    def stand(*args):
        standing.set()
        assert go.wait(30)
        return write_blocks(*args)

    monkeypatch.setattr(site.tape, "write_blocks", stand)
    with session(server) as alpha, session(server, "beta") as beta:
        command = alpha.submit(DISK, *order(site, block_to_stream(4096, BLOCKS), list_identifier=1))
        alpha.ping()
        assert standing.wait(30)
        block = beta.command(DISK, bytes([0x28, 0, 0, 0, 0, 3, 0, 0, 1, 0]), data_in_length=512)
        assert bytes(block.data) == site.disk_data[1536:2048]
        assert alpha.abort_task(command) is TaskManagementResponse.FUNCTION_COMPLETE
        go.set()
        with pytest.raises(InitiatorError, match="aborted"):
            alpha.wait(command)
        assert site.tape.occupy(30)  # the copy has let go of the drive
        site.tape.vacate()
        assert alpha.command(TAPE, ssc.Rewind.encode()).status == 0
    assert b"".join(site.written()) == site.disk_data[: 1 << 20]
