"""The server as a whole: portals, limits, reinstatement, hostile peers, the end."""

import socket
import threading

import pytest
from scapy.packet import Raw

from scsi_targets.iscsi.directory import ChapCredentials, Portal
from scsi_targets.iscsi.discovery import format_address
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.server import Server
from tests.fuzz import layers
from tests.fuzz.peer import INITIATOR_NAME, HungUp, Peer, text
from tests.unit.iscsi.conftest import PATIENCE_SECONDS, Log
from tests.unit.iscsi.dummy import Served, serving
from tests.unit.iscsi.support import TARGET, Directory
from tests.unit.iscsi.test_session import STORE, TEST_UNIT_READY, good, sense_of


def send_targets(peer: Peer) -> list[str]:
    peer.send(layers.TextRequest(cmd_sn=peer.take_cmd_sn()) / Raw(text({"SendTargets": "All"})))
    pairs = peer.receive().data.decode().split("\0")
    return [pair.partition("=")[2] for pair in pairs if pair.startswith("TargetAddress=")]


# ---- portals -----------------------------------------------------------------------------------------------------


def test_many_portals_of_both_families(log: Log) -> None:
    portals = [
        Portal("127.0.0.1", 0, 1),
        Portal("::1", 0, 1),
        Portal("127.0.0.1", 0, 2, "192.0.2.5:3260"),
        Portal("0.0.0.0", 0, 3),
    ]
    with serving(portals=portals) as served:
        first, second, _, wildcard = (address[1] for address in served.addresses)
        expected = {
            0: [f"127.0.0.1:{first},1", f"[::1]:{second},1", "192.0.2.5:3260,2", f"127.0.0.1:{wildcard},3"],
            1: [f"[::1]:{second},1", f"127.0.0.1:{first},1", "192.0.2.5:3260,2"],
            2: ["192.0.2.5:3260,2", f"127.0.0.1:{first},1", f"[::1]:{second},1", f"127.0.0.1:{wildcard},3"],
            3: [f"127.0.0.1:{wildcard},3", f"127.0.0.1:{first},1", f"[::1]:{second},1", "192.0.2.5:3260,2"],
        }
        for number, addresses in expected.items():
            host = "127.0.0.1" if portals[number].host == "0.0.0.0" else portals[number].host
            with Peer((host, served.addresses[number][1])) as peer:
                peer.login(None)
                assert send_targets(peer) == addresses


def test_a_portal_may_be_a_name(log: Log) -> None:
    with serving(portals=[Portal("localhost", 0)]) as served, Peer(served.address) as peer:
        peer.login(None)
        assert send_targets(peer) == [f"{format_address(*served.address)},1"]


def test_a_small_budget_never_promises_more_places_than_it_has(log: Log) -> None:
    limits = Limits(buffer_budget_bytes=1 << 20, first_burst_length=1 << 18, command_window=128)
    with serving(limits) as served, Peer(served.address) as peer:
        assert peer.login(TARGET, FirstBurstLength=1 << 18, InitialR2T="No").max_cmd_sn == peer.cmd_sn
        peer.send(peer.command(0, TEST_UNIT_READY))
        assert peer.receive().max_cmd_sn <= peer.cmd_sn + 3


def test_the_group_tag_is_the_portals(log: Log) -> None:
    portals = [Portal("127.0.0.1", 0, 1), Portal("127.0.0.1", 0, 2)]
    with serving(portals=portals) as served:
        for portal, address in zip(portals, served.addresses, strict=True):
            with Peer(address) as peer:
                assert f"TargetPortalGroupTag={portal.portal_group_tag}\0".encode() in peer.login(TARGET).data


def test_a_port_that_is_taken_leaves_nothing_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
        probe.close()
        server = Server(Directory(), [Portal("127.0.0.1", free), Portal("127.0.0.1", taken.getsockname()[1])])
        with pytest.raises(OSError, match="in use"):
            server.start()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", free))
        server.stop()


# ---- sessions ----------------------------------------------------------------------------------------------------


def test_status_records(served: Served) -> None:
    assert served.server.sessions() == []
    with Peer(served.address) as peer:
        peer.login(TARGET, HeaderDigest="CRC32C", InitiatorAlias="host one")
        peer.send(peer.command(0, TEST_UNIT_READY))
        sense_of(peer.receive())
        (record,) = served.server.sessions()
        assert (record.initiator_name, record.initiator_alias, record.target_name) == (
            INITIATOR_NAME,
            "host one",
            TARGET,
        )
        assert (record.isid, record.state, record.authentication) == ("801234560000", "LOGGED_IN", "None")
        assert (record.header_digest, record.data_digest) == (True, False)
        assert (record.commands, record.pdus_in, record.pdus_out) == (1, 1, 1)
        assert record.portal == "{}:{}".format(*served.address)


def test_reinstatement_ends_the_old_session_first(served: Served, log: Log) -> None:
    with Peer(served.address) as old, Peer(served.address) as new:
        old.login(TARGET)
        old.send(old.command(0, bytes([0x16, 0, 0, 0, 0, 0])))
        assert sense_of(old.receive()) == (6, 0x29, 0)
        old.send(old.command(0, bytes([0x16, 0, 0, 0, 0, 0])))
        good(old.receive())
        new.login(TARGET)
        with pytest.raises(HungUp):
            old.receive()
        new.send(new.command(0, TEST_UNIT_READY))
        assert sense_of(new.receive()) == (6, 0x29, 0x00)  # RESERVE and mode pages are gone
        new.send(new.command(0, STORE))
        good(new.receive())  # and the reservation went with the old nexus
        assert len(served.server.sessions()) == 1
    assert [log.next()["event"] for _ in range(3)] == ["login", "session closed", "login"]


def test_another_isid_is_another_session(served: Served) -> None:
    with Peer(served.address) as one, Peer(served.address) as two:
        one.login(TARGET)
        keys = {"InitiatorName": INITIATOR_NAME, "TargetName": TARGET}
        two.send(layers.LoginRequest(isid=b"\x80\x00\x00\x00\x00\x09") / Raw(text(keys)))
        assert two.receive().status_class == 0
        assert one.is_alive()
        assert two.is_alive()
        assert len({record.tsih for record in served.server.sessions()}) == 2


def refused_status(peer: Peer, isid: bytes = b"\x80\x00\x00\x00\x00\x08", tsih: int = 0, **keys: str) -> int:
    """The status of a login."""
    wanted = {"InitiatorName": INITIATOR_NAME, "TargetName": TARGET} | keys
    peer.send(layers.LoginRequest(isid=isid, tsih=tsih) / Raw(text(wanted)))
    answer = peer.receive()
    return answer.status_class << 8 | answer.status_detail


def test_too_many_sessions(log: Log) -> None:
    with serving(Limits(sessions=1)) as served, Peer(served.address) as one, Peer(served.address) as two:
        one.login(TARGET)
        assert refused_status(two) == 0x0302
        line = log.wait_for("login refused")
        assert (line["status"], line["reason"], line["initiator"]) == ("0302h", "too many sessions", INITIATOR_NAME)
        assert one.is_alive()


def test_a_second_connection_for_a_session(served: Served) -> None:
    with Peer(served.address) as one, Peer(served.address) as two, Peer(served.address) as three:
        tsih = one.login(TARGET).tsih
        assert refused_status(two, b"\x80\x12\x34\x56\x00\x00", tsih) == 0x0206
        assert refused_status(three, b"\x80\x12\x34\x56\x00\x00", tsih + 1) == 0x020A
        assert one.is_alive()


def test_refusals_are_logged_with_what_is_known(served: Served, log: Log) -> None:
    with Peer(served.address) as peer:
        assert refused_status(peer, TargetName="iqn.2026-11.org.example:none") == 0x0203
        with pytest.raises(HungUp):
            peer.receive()
    line = log.next()
    assert (line["event"], line["level"], line["status"]) == ("login refused", "warning", "0203h")
    assert (line["initiator"], line["target"]) == (INITIATOR_NAME, "iqn.2026-11.org.example:none")
    assert line["peer"].startswith("127.0.0.1:")


def test_a_name_with_line_breaks_stays_on_its_line(served: Served, log: Log) -> None:
    with Peer(served.address) as peer:
        assert refused_status(peer, InitiatorName="iqn.a\nINFO all is well\x1b[2J") == 0x0207
    assert log.next()["initiator"] == "'iqn.a\\ninfo all is well\\x1b[2j'"


def test_a_wrong_secret_is_not_logged(served: Served, log: Log) -> None:
    served.directory.chap = ChapCredentials("server", "in-secret-1234")
    with Peer(served.address) as peer:
        assert refused_status(peer) == 0x0201
    assert "in-secret-1234" not in str(log.next())


# ---- hostile peers -----------------------------------------------------------------------------------------------

GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: library\r\n\r\n".ljust(200),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"\xff" * 48,
    bytes(48),  # a NOP-Out before the login
    bytes(layers.LoginRequest(data_segment_length=0xFFFFFF)),
    bytes(layers.LoginRequest(total_ahs_length=255)),
    bytes(layers.LoginRequest() / Raw(b"\xff" * 8192)),
    bytes(layers.LoginRequest() / Raw(b"A=1\0" * 2048)),
    bytes(layers.LoginRequest() / Raw(b"X-" + b"k" * 8000 + b"=1\0")),
    bytes(layers.LoginRequest() / Raw(b"InitiatorName=" + b"n" * 8000 + b"\0")),
    bytes(layers.LoginRequest(version_min=3) / Raw(b"InitiatorName=iqn.a\0")),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_ends_in_one_line_and_a_closed_connection(served: Served, log: Log, garbage: bytes) -> None:
    with Peer(served.address) as neighbour, Peer(served.address) as peer:
        neighbour.login(TARGET)
        assert log.next()["event"] == "login"
        peer.send_bytes(garbage)
        with pytest.raises(HungUp):
            while True:
                answer = peer.receive()
                assert isinstance(answer, layers.LoginResponse)
                assert answer.status_class == 2
        line = log.next()
        assert line["event"] in ("protocol error", "login refused")
        assert "\n" not in str(line)
        assert neighbour.is_alive()
        assert log.rest() == []
        assert served.server.pool.in_use_bytes == 0


@pytest.mark.parametrize(
    "start", [b"", b"\x43", bytes(layers.LoginRequest())[:47], bytes(layers.LoginRequest() / Raw(b"A=1\0"))[:50]]
)
def test_a_login_that_never_ends(log: Log, start: bytes) -> None:
    with serving(Limits(login_timeout_seconds=0.1)) as served, Peer(served.address) as peer:
        if start:
            peer.send_bytes(start)
        with pytest.raises(HungUp):
            peer.receive()
        line = log.next()
        assert (line["event"], line["reason"]) == ("login refused", "not over after 0.1 s")


def test_a_peer_that_goes_away_in_its_login(served: Served, log: Log) -> None:
    with Peer(served.address) as peer:
        peer.send_bytes(b"\x43\x00")
    line = log.next()
    assert (line["event"], line["phase"]) == ("connection lost", "login")


def test_silent_peers_cannot_keep_the_others_out(log: Log) -> None:
    with serving(Limits(pending_logins=2)) as served:
        silent = [Peer(served.address) for _ in range(4)]
        for gave_way in silent[:2]:
            with pytest.raises(HungUp):
                gave_way.receive()
            line = log.next()
            assert (line["event"], line["reason"]) == ("connection lost", "too many logins at once")
        with Peer(served.address) as honest:
            honest.login(TARGET)
            assert honest.is_alive()
            with pytest.raises(HungUp):
                silent[2].receive()
        silent[3].send_bytes(b"\x43")
        for each in silent:
            each.close()


def test_garbage_in_full_feature_phase(served: Served, log: Log) -> None:
    with Peer(served.address) as peer, Peer(served.address) as neighbour:
        keys = {"InitiatorName": "iqn.2026-01.org.example:neighbour", "TargetName": TARGET}
        neighbour.send(layers.LoginRequest() / Raw(text(keys)))
        neighbour.receive()
        peer.login(TARGET)
        peer.send_bytes(b"\x01\x80\x00\x00\x00\xff\xff\xff" + bytes(40))
        with pytest.raises(HungUp):
            while True:
                peer.receive()
        assert log.wait_for("protocol error")["initiator"] == INITIATOR_NAME
        assert neighbour.is_alive()


# ---- the end -----------------------------------------------------------------------------------------------------


def test_stop_asks_for_a_logout_and_waits_for_it(log: Log) -> None:
    with serving(Limits(logout_grace_seconds=PATIENCE_SECONDS)) as served, Peer(served.address) as peer:
        peer.login(TARGET)
        stopping = threading.Thread(target=served.server.stop)
        stopping.start()
        message = peer.receive()
        assert isinstance(message, layers.AsynchronousMessage)
        assert (message.event, message.parameter_3, message.tag) == (1, PATIENCE_SECONDS, layers.NO_TAG)
        assert [record.state for record in served.server.sessions()] == ["LOGOUT_REQUESTED"]
        peer.send(layers.LogoutRequest(cmd_sn=peer.cmd_sn))
        assert peer.receive().response == 0
        stopping.join(PATIENCE_SECONDS)
        assert not stopping.is_alive()
        assert [log.next()["event"] for _ in range(2)] == ["login", "logout"]


def test_stop_closes_whoever_does_not_log_out(log: Log) -> None:
    with (
        serving(Limits(logout_grace_seconds=0.05)) as served,
        Peer(served.address) as peer,
        Peer(served.address) as slow,
    ):
        peer.login(TARGET)
        slow.send(layers.LoginRequest(transit=0, next_stage=0, continue_=1) / Raw(b"Initia"))
        assert slow.receive().status_class == 0
        served.server.stop()
        assert isinstance(peer.receive(), layers.AsynchronousMessage)
        for each in (peer, slow):
            with pytest.raises(HungUp):
                each.receive()
        assert served.server.sessions() == []
        with pytest.raises(ConnectionRefusedError):
            Peer(served.address)
    lines = {(line["event"], line.get("reason")) for line in log.rest()}
    assert {("session closed", "the server stops"), ("connection lost", "the server stops")} <= lines


def test_memory_comes_back(served: Served, log: Log) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        for _ in range(3):
            peer.send(peer.command(0, STORE, write=1, expected_data_transfer_length=1 << 20))
        assert isinstance(peer.receive(), layers.ReadyToTransfer)
        assert served.server.pool.in_use_bytes >= 1 << 20
    log.wait_for("connection lost")
    with Peer(served.address) as peer:
        peer.login(TARGET)
        assert served.server.pool.in_use_bytes == 0
