"""The server as a whole: portals, limits, reinstatement, hostile peers, the end."""

import resource
import socket
import threading
from collections.abc import Callable
from time import monotonic

import pytest
from scapy.packet import Raw

from datamover import engine
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi import server
from scsi_targets.iscsi.directory import ChapCredentials, Portal
from scsi_targets.iscsi.discovery import format_address
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.server import Server
from tests.fuzz import layers
from tests.fuzz.peer import INITIATOR_NAME, HungUp, Peer, text
from tests.support.ports import free_port
from tests.support.waiting import becomes, eventually, in_time
from tests.unit.iscsi.conftest import PATIENCE_SECONDS, Log
from tests.unit.iscsi.dummy import Served, serving
from tests.unit.iscsi.support import TARGET, Directory
from tests.unit.iscsi.test_session import DAWDLE, STORE, TEST_UNIT_READY, fetch, good, sense_of
from tests.unit.iscsi.test_task_management import REPORT_LUNS


def send_targets(peer: Peer) -> list[str]:
    peer.send(layers.TextRequest(cmd_sn=peer.take_cmd_sn()) / Raw(text({"SendTargets": "All"})))
    pairs = peer.receive().data.decode().split("\0")
    return [pair.partition("=")[2] for pair in pairs if pair.startswith("TargetAddress=")]


# ---- what runs out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), OSError(12, "Cannot allocate memory"), None])
def test_a_connection_that_cannot_be_had_costs_nobody_else(
    served: Served, log: Log, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    """No descriptor, no memory, no thread: the connection at hand goes without, and the next is served."""
    with monkeypatch.context() as patched:
        if error is None:

            def start(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patched.setattr(threading.Thread, "start", start)
        else:

            def accept(listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
                raise error

            patched.setattr(socket.socket, "accept", accept)
        with socket.create_connection(served.address):
            log.wait_for("connection not accepted")
    with Peer(served.address) as peer:
        peer.login(TARGET)
        assert peer.is_alive()


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_a_session_that_finds_no_resources_costs_nobody_else(
    served: Served, log: Log, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine, "Connection", fail)
        with Peer(served.address) as peer, pytest.raises(HungUp):
            peer.login(TARGET)
            peer.receive()
        assert log.wait_for("connection lost")["reason"]
    becomes([], served.server.sessions)
    with Peer(served.address) as peer:
        peer.login(TARGET)
        assert peer.is_alive()


def test_descriptors_are_left_for_the_rest_of_the_process(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4, 4))
    with serving() as served, Peer(served.address) as peer:
        peer.login(TARGET)
        with Peer(served.address) as another, pytest.raises(HungUp):
            another.login(TARGET)
        assert "connections are open" in log.wait_for("connection not accepted")["reason"]
        assert peer.is_alive()


def test_a_peer_that_floods_the_log_gets_few_lines(log: Log) -> None:
    with serving() as served:
        for _ in range(100):
            with socket.create_connection(served.address) as peer:
                peer.sendall(b"\xff" * 48)
                assert peer.recv(1) == b""
        with Peer(served.address) as alive:
            alive.login(TARGET)
    lines = [line for line in log.rest() if line["event"] == "protocol error"]
    assert 20 <= len(lines) <= 25


def test_a_peer_that_does_not_read_holds_no_other_session(log: Log) -> None:
    """It asks for more than it takes; the others' commands, its own unit's reset and stop() do not wait for it."""
    with serving(Limits(logout_grace_seconds=0.1)) as served:
        stuck = Peer(served.address)
        stuck.login(TARGET)
        for lun in (0, 1):
            stuck.send(stuck.command(lun, TEST_UNIT_READY))
            stuck.receive()
        for _ in range(8):
            stuck.send(stuck.command(0, fetch(8 << 20), read=1, expected_data_transfer_length=8 << 20))
        stuck.send(stuck.command(1, DAWDLE))
        with Peer(served.address) as peer:
            peer.login(TARGET, isid=7)
            for lun in (0, 1):
                peer.send(peer.command(lun, TEST_UNIT_READY))
                assert sense_of(peer.receive()) == (6, 0x29, 0)
            peer.send(layers.TaskManagementRequest(function=5, lun=0, cmd_sn=peer.cmd_sn))
            assert peer.receive().response == 0
            peer.send(peer.command(0, TEST_UNIT_READY))
            assert sense_of(peer.receive()) == (6, 0x29, 3)
        began = monotonic()
        served.server.stop()
        assert monotonic() - began < 40
        stuck.socket.close()


# ---- views that change ---------------------------------------------------------------------------------------------

ME = Principal.initiator(INITIATOR_NAME)
LUNS_CHANGED = (6, 0x3F, 0x0E)


def turn_ready(peer: Peer, lun: int) -> None:
    peer.send(peer.command(lun, TEST_UNIT_READY))
    assert sense_of(peer.receive()) == (6, 0x29, 0)


def sense_until(peer: Peer, lun: int, wanted: tuple[int, int, int]) -> None:
    """TEST UNIT READY until that is its answer: the session sees to the change when it comes by."""
    for _ in range(1000):
        peer.send(peer.command(lun, TEST_UNIT_READY))
        response = peer.receive()
        if response.status == 2 and sense_of(response) == wanted:
            return
    raise AssertionError(wanted)


def test_a_view_is_replaced_between_two_commands(served: Served) -> None:
    with Peer(served.address) as peer, Peer(served.address) as other:
        peer.login(TARGET)
        other.login(TARGET, isid=9)
        for each in (peer, other):
            for lun in (0, 1):
                turn_ready(each, lun)
        served.directory.masked[ME] = {0: served.units[0], 5: served.units[1]}
        served.server.views_changed()
        for each in (peer, other):
            sense_until(each, 0, LUNS_CHANGED)
            each.send(each.command(0, TEST_UNIT_READY))
            good(each.receive())
            each.send(each.command(1, TEST_UNIT_READY))
            assert sense_of(each.receive()) == (5, 0x25, 0)
            each.send(each.command(5, TEST_UNIT_READY))
            assert sense_of(each.receive()) == LUNS_CHANGED
            each.send(each.command(0, REPORT_LUNS, read=1, expected_data_transfer_length=64))
            assert good(each.receive()).data[8:] == bytes(8) + bytes([0, 5]) + bytes(6)


def test_a_view_that_stays_as_it_was_is_not_told(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        turn_ready(peer, 0)
        served.server.views_changed()
        assert peer.is_alive()
        peer.send(peer.command(0, TEST_UNIT_READY))
        good(peer.receive())


def test_a_unit_that_leaves_the_view_lets_a_running_command_end(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        for lun in (0, 1):
            turn_ready(peer, lun)
        peer.send(peer.command(1, DAWDLE))
        assert served.units[1].started.wait(60)
        served.directory.masked[ME] = {0: served.units[0]}
        served.server.views_changed()
        sense_until(peer, 0, LUNS_CHANGED)
        peer.send(peer.command(1, TEST_UNIT_READY))
        assert sense_of(peer.receive()) == (5, 0x25, 0)
        assert served.units[1].nexuses
        served.units[1].go.set()
        good(peer.receive())
        eventually(lambda: peer.is_alive() and not served.units[1].nexuses)  # it ends with its last command


def test_a_new_unit_begins_with_its_own_power_on(served: Served) -> None:
    served.directory.masked[ME] = {0: served.units[0]}
    with Peer(served.address) as peer:
        peer.login(TARGET)
        turn_ready(peer, 0)
        del served.directory.masked[ME]
        served.server.views_changed()
        sense_until(peer, 0, LUNS_CHANGED)
        turn_ready(peer, 1)


def end_view(served: Served, peer: Peer, how: str, a_day_later: Callable[[], None]) -> None:
    """Logs in, and takes away what the session sees; the target asks for a logout."""
    served.directory.ends_at = server.time() + 3600
    peer.login(TARGET)
    if how == "expired":
        a_day_later()
    else:
        if how == "revoked":
            served.directory.forbidden.add(INITIATOR_NAME)
        else:
            served.directory.others.append(INITIATOR_NAME)
        served.server.views_changed()
    message = peer.receive()
    assert (type(message), message.event) == (layers.AsynchronousMessage, 1)


@pytest.mark.parametrize("how", ["revoked", "expired", "somebody else's"])
def test_an_ended_view_shows_nothing_any_more(log: Log, how: str, a_day_later: Callable[[], None]) -> None:
    with serving(Limits(logout_grace_seconds=PATIENCE_SECONDS)) as served, Peer(served.address) as peer:
        end_view(served, peer, how, a_day_later)
        peer.send(peer.command(0, TEST_UNIT_READY))
        assert sense_of(peer.receive()) == (5, 0x25, 0)


@pytest.mark.parametrize("how", ["revoked", "expired", "somebody else's"])
def test_an_ended_view_is_a_logout_and_then_the_end(log: Log, how: str, a_day_later: Callable[[], None]) -> None:
    def ends(grace_seconds: float) -> None:
        with serving(Limits(logout_grace_seconds=grace_seconds)) as served, Peer(served.address) as peer:
            end_view(served, peer, how, a_day_later)  # HungUp where the grace was over before it was asked to
            with pytest.raises(HungUp):
                peer.receive()
            log.wait_for("session closed")

    in_time(ends, HungUp, (0.05, 1.0, 10.0))


def test_a_session_that_logs_out_when_asked_is_not_closed(log: Log) -> None:
    with serving(Limits(logout_grace_seconds=60)) as served, Peer(served.address) as peer:
        peer.login(TARGET)
        served.directory.forbidden.add(INITIATOR_NAME)
        served.server.views_changed()
        assert peer.receive().event == 1
        peer.send(layers.LogoutRequest(reason=0, cmd_sn=peer.cmd_sn))
        assert peer.receive().response == 0
        log.wait_for("logout")


def test_nobody_takes_the_session_of_another_account(log: Log) -> None:
    accounts = [ChapCredentials("alice", "secret-of-alice"), ChapCredentials("bob", "secret-of-bobby")]
    with serving() as served:
        served.directory.chap, served.directory.more_accounts = accounts[0], accounts[1:]
        with chap_login(served, accounts[0]) as alice:
            with pytest.raises(AssertionError, match="0202"):
                chap_login(served, accounts[1])
            assert alice.is_alive()
            assert served.server.sessions()[0].principal == "account alice"
        log.wait_for("connection lost")
        # The line is written just before alice's session gives everything back.
        with eventually(lambda: chap_login(served, accounts[1]), despite=(AssertionError,)) as bob:
            assert bob.is_alive()


def chap_login(served: Served, account: ChapCredentials) -> Peer:
    """The name and ISID are always the same."""
    peer = Peer(served.address)
    try:
        peer.chap_login(TARGET, account.username, account.secret)
    except AssertionError:
        peer.close()
        raise
    return peer


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
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = free_port()
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
        assert refused_status(three, b"\x80\x12\x34\x56\x00\x00", tsih % 0xFFFF + 1) == 0x020A
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
        becomes(0, lambda: served.server.pool.in_use_bytes)


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
        with pytest.raises(HungUp):
            slow.receive()
        with pytest.raises(HungUp):
            for _ in range(2):  # the grace may be over before the session's thread has come by to ask
                assert isinstance(peer.receive(), layers.AsynchronousMessage)
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
        becomes(0, lambda: served.server.pool.in_use_bytes)
