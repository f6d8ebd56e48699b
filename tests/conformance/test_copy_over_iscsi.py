"""EXTENDED COPY as an initiator sees it: libiscsi, the server, a disk and two drives."""

import threading
from contextlib import contextmanager

import pytest

from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.settings import config_file
from datamover.initiator import Credentials, InitiatorError, InitiatorSession, TaskManagementOutcome
from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.server import Server
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc, spc, ssc
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
    server = Server(Directory({TARGET: dict(site.view.logical_units)}, portals), portals)
    (server.bound,) = server.start()
    yield server
    server.stop()


@contextmanager
def session(server, name="alpha"):
    with InitiatorSession(
        "{}:{}".format(*server.bound), TARGET, initiator_name=f"iqn.2026-11.test:{name}"
    ) as logged_in:
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


def test_a_copy_with_a_long_list_identifier(site, server):
    form = copy.ParameterListHeaderLid4
    data = copy.parameter_list(
        site.descriptors, [block_to_stream(65536, BLOCKS)], list_identifier=0xC0FFEE42, form=form, good_with_sense=1
    )
    with session(server) as alpha:
        result = alpha.command(DISK, copy.ExtendedCopyLid4.encode(parameter_list_length=len(data)), data)
        assert (result.status, result.residual) == (0, 0)
        status = copy.ReceiveCopyStatusLid4.encode(list_identifier=0xC0FFEE42, allocation_length=64)
        said = bytes(alpha.command(DISK, status, data_in_length=64).data)
        assert said[:6] == bytes.fromhex("00000030 01 01")
        assert said[8:32] == bytes.fromhex("fffffffe 00 14 12 00 0000000000200000 0001 000000000000")
        assert said[32:50] == bytes.fromhex("70 00 0f 00000000 0a 00000001 00 20 00 000000")
    assert b"".join(site.written()) == site.disk_data


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

    def stand(*args, **more):
        standing.set()
        assert go.wait(60)
        return write_blocks(*args, **more)

    monkeypatch.setattr(site.tape, "write_blocks", stand)
    with session(server) as alpha, session(server, "beta") as beta:
        command = alpha.submit(DISK, *order(site, block_to_stream(4096, BLOCKS), list_identifier=1))
        alpha.ping()
        assert standing.wait(60)
        block = beta.command(DISK, bytes([0x28, 0, 0, 0, 0, 3, 0, 0, 1, 0]), data_in_length=512)
        assert bytes(block.data) == site.disk_data[1536:2048]
        assert alpha.abort_task(command) is TaskManagementOutcome.FUNCTION_COMPLETE
        go.set()
        with pytest.raises(InitiatorError, match="aborted"):
            alpha.wait(command)
        assert site.tape.occupy(30)  # the copy has let go of the drive
        site.tape.vacate()
        assert alpha.command(TAPE, ssc.Rewind.encode()).status == 0
    assert b"".join(site.written()) == site.disk_data[: 1 << 20]


def test_a_reset_of_the_tape_aborts_the_copy_that_the_disk_runs(site, server, monkeypatch):
    go, standing = threading.Event(), threading.Event()
    write_blocks = site.tape.write_blocks

    def stand(*args, **more):
        standing.set()
        assert go.wait(60)
        return write_blocks(*args, **more)

    monkeypatch.setattr(site.tape, "write_blocks", stand)
    with session(server) as alpha, session(server, "beta") as beta:
        command = alpha.submit(DISK, *order(site, block_to_stream(4096, BLOCKS)))
        alpha.ping()
        assert standing.wait(60)
        assert beta.logical_unit_reset(TAPE) is TaskManagementOutcome.FUNCTION_COMPLETE
        go.set()
        result = alpha.wait(command)
    assert (result.status, result.sense[2] & 0x0F, bytes(result.sense[12:14])) == (2, 0xA, b"\x0d\x01")
    forwarded = result.sense[result.sense[9] + 1 :]
    assert (forwarded[2] & 0x0F, bytes(forwarded[12:14])) == (6, b"\x29\x03")
    assert len(b"".join(site.written())) < len(site.disk_data)


# ---- accounts ------------------------------------------------------------------------------------------------------

TARGETS = {name: f"iqn.2026-11.test:{name}" for name in "ab"}
SETTINGS = """
[library]
name = "accounts"
[changer]
slots = 4
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "iqn.2026-11.test:a"
luns = { 0 = "drive0", 1 = "mine" }
[[targets]]
iqn = "iqn.2026-11.test:b"
luns = { 0 = "theirs" }
[[drives]]
name = "drive0"
[[disks]]
name = "mine"
size = "1 MiB"
[[disks]]
name = "theirs"
size = "1 MiB"
[[chap.accounts]]
initiator = "*"
target = "*:a"
user = "user-of-a"
secret = "secret-of-aaaaa"
[[chap.accounts]]
initiator = "*"
target = "*:b"
user = "user-of-b"
secret = "secret-of-bbbbb"
"""


@pytest.fixture
def library(tmp_path):
    packages.require("libiscsi7")
    (tmp_path / "tapebay.toml").write_text(SETTINGS)
    settings = config_file.load(tmp_path / "tapebay.toml")
    LibraryFiles.create(settings).close()
    library = Library.open(settings)
    yield library
    library.stop()
    library.close()


def test_an_account_cannot_copy_what_it_could_not_log_in_to(library):
    """It is refused at target b, logs in to a, and names b's disk by its NAA designator."""
    (portal,) = library.start()
    account = {"credentials": Credentials("user-of-a", "secret-of-aaaaa")}
    with pytest.raises(InitiatorError):
        InitiatorSession(portal, TARGETS["b"], **account)
    secret = library.units["theirs"]
    secret.medium.write(b"secret" * 64, 0)
    with InitiatorSession(portal, TARGETS["a"], **account) as alpha:
        while alpha.command(1, spc.TestUnitReady.encode()).status:
            pass
        theirs, mine = (
            copy.identification_descriptor(library.units[name].identity.naa, device_type=0)
            for name in ("theirs", "mine")
        )
        out = copy.BlockToBlock.encode(source=0, destination=1, number_of_blocks=8)
        over = copy.BlockToBlock.encode(source=1, destination=0, number_of_blocks=8)
        for segment in (out, over, copy.VerifyCscd.encode(source=0)):
            data = copy.parameter_list([theirs, mine], [segment])
            result = alpha.command(1, copy.ExtendedCopyLid1.encode(parameter_list_length=len(data)), data)
            assert (result.sense[2] & 0x0F, bytes(result.sense[12:14])) == (0xA, b"\x0d\x02")
        block = alpha.command(1, sbc.Read10.encode(transfer_length=1), data_in_length=512)
        assert bytes(block.data) == bytes(512)
    read = bytearray(6 * 64)
    secret.medium.read_into(read, 0)
    assert read == b"secret" * 64
