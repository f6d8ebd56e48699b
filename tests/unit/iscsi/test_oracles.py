"""Other people's programs against the server: libiscsi as the initiator, tshark as the reader of what was said."""

import itertools
import subprocess
from pathlib import Path

import pytest
from scapy.packet import Raw

from datamover.initiator import Credentials, InitiatorError, InitiatorSession, discover
from scsi_targets.iscsi.directory import ChapCredentials
from tests.fuzz import layers
from tests.fuzz.peer import Peer, text
from tests.support import packages
from tests.support.recorder import RecordingProxy
from tests.unit.iscsi.conftest import Log
from tests.unit.iscsi.dummy import Served
from tests.unit.iscsi.support import TARGET
from tests.unit.iscsi.test_session import STORE, TEST_UNIT_READY, fetch

CHAP = ChapCredentials("server", "in-secret-1234", "library", "out-secret-5678")
ONE_WAY = Credentials("server", "in-secret-1234")
MUTUAL = Credentials("server", "in-secret-1234", "library", "out-secret-5678")


def portal(served: Served) -> str:
    return "{}:{}".format(*served.address)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_iscsi_ls_and_iscsi_inq(served: Served) -> None:
    packages.require("libiscsi-bin")
    listed = run("iscsi-ls", f"iscsi://{portal(served)}")
    assert f"Target:{TARGET} Portal:{portal(served)},7" in listed
    assert "Product:MEMORY" in run("iscsi-inq", f"iscsi://{portal(served)}/{TARGET}/1")


def test_discovery(served: Served) -> None:
    packages.require("libiscsi7")
    (found,) = discover(portal(served))
    assert (found.name, found.addresses) == (TARGET, (f"{portal(served)},7",))


# Debian's libiscsi has no data digests; test_session.py and the engine's tests have them.
@pytest.mark.parametrize(
    ("header_digest", "immediate_data", "initial_r2t"), list(itertools.product([False, True], repeat=3))
)
def test_data_both_ways(served: Served, header_digest: bool, immediate_data: bool, initial_r2t: bool) -> None:
    packages.require("libiscsi7")
    words = bytes(range(256)) * 2001
    options = {"header_digest": header_digest, "immediate_data": immediate_data, "initial_r2t": initial_r2t}
    with InitiatorSession(portal(served), TARGET, **options) as session:
        session.command(0, TEST_UNIT_READY)
        assert session.command(0, STORE, data_out=words).status == 0
        assert served.units[0].kept == words
        answer = session.command(0, fetch(len(words)), data_in_length=len(words))
        assert bytes(answer.data) == words


@pytest.mark.parametrize("credentials", [ONE_WAY, MUTUAL])
def test_chap(served: Served, credentials: Credentials) -> None:
    packages.require("libiscsi7")
    served.directory.chap = CHAP
    with InitiatorSession(portal(served), TARGET, credentials=credentials) as session:
        session.command(0, TEST_UNIT_READY)
        (record,) = served.server.sessions()
        assert record.authentication == ("CHAP MD5" if credentials is ONE_WAY else "mutual CHAP MD5")


@pytest.mark.parametrize(
    "credentials",
    [
        None,
        Credentials("server", "in-secret-1235"),
        Credentials("other", "in-secret-1234"),
        Credentials("server", "in-secret-1234", "library", "out-secret-0000"),
    ],
)
def test_chap_refused_by_one_end_or_the_other(served: Served, credentials: Credentials | None) -> None:
    packages.require("libiscsi7")
    served.directory.chap = CHAP
    with pytest.raises(InitiatorError):
        InitiatorSession(portal(served), TARGET, credentials=credentials)


def test_tshark_finds_nothing_malformed(served: Served, log: Log, tmp_path: Path) -> None:
    packages.require("tshark")
    served.directory.chap = None
    with RecordingProxy(served.address) as proxy:
        with Peer(("127.0.0.1", proxy.port)) as peer:
            talk(peer)
        log.wait_for("logout")
    capture = tmp_path / "session.pcap"
    proxy.write_capture(capture)
    lines = run(
        "tshark", "-r", str(capture), "-Y", "iscsi", "-T", "fields", "-e", "iscsi.opcode", "-e", "_ws.malformed"
    )
    opcodes = {int(number, 0) for line in lines.splitlines() for number in line.split("\t")[0].split(",")}
    assert opcodes == {0x00, 0x01, 0x02, 0x03, 0x04, 0x06, 0x10, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x3F}
    assert run("tshark", "-r", str(capture), "-Y", "_ws.malformed || _ws.expert.severity >= 0x00800000") == ""
    shown = run("tshark", "-r", str(capture), "-Y", "iscsi.opcode == 0x23", "-V")
    for line in (
        "TargetPortalGroupTag=7",
        "HeaderDigest=None",
        "Status: Success (0x0000)",
        "= NSG: Full feature phase (0x3)",
    ):
        assert line in shown


def talk(peer: Peer) -> None:
    """One of everything that a login and a session can say without data."""
    peer.login(TARGET, HeaderDigest="None", MaxBurstLength=65536)
    for pdu in (
        peer.command(0, TEST_UNIT_READY),
        peer.command(0, fetch(20), read=1, expected_data_transfer_length=20),
        layers.NopOut(initiator_task_tag=5, cmd_sn=peer.cmd_sn) / Raw(b"ping"),
        layers.TaskManagementRequest(function=5, initiator_task_tag=6, cmd_sn=peer.cmd_sn),
        layers.SnackRequest(initiator_task_tag=7),
        layers.TextRequest(initiator_task_tag=8, cmd_sn=peer.take_cmd_sn()) / Raw(text({"SendTargets": ""})),
        layers.LogoutRequest(initiator_task_tag=9, cmd_sn=peer.cmd_sn),
    ):
        peer.send(pdu)
        peer.receive()
