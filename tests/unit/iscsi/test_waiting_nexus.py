"""A nexus whose connection broke: it waits for its initiator port where its view says so, and ends everywhere else."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.directory import Forbidden
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.pdu import TaskFunction, TaskResponse
from scsi_targets.t10 import sense
from tests.fuzz import layers
from tests.fuzz.peer import INITIATOR_NAME, HungUp, Peer
from tests.support.waiting import becomes, eventually
from tests.unit.iscsi.conftest import Log
from tests.unit.iscsi.dummy import Memory, Served, serving
from tests.unit.iscsi.support import TARGET
from tests.unit.iscsi.test_session import STORE, TEST_UNIT_READY, fetch, good, ready, sense_of
from tests.unit.iscsi.test_task_management import dawdling, manage, second_session, waiting_for_data

RESERVE = bytes([0x16, 0, 0, 0, 0, 0])
POWER_ON, RESET = (6, 0x29, 0x00), (6, 0x29, 0x03)
CONFLICT = 0x18
OTHER = "iqn.2026-01.org.example:second"


@pytest.fixture
def served(served: Served) -> Served:
    served.directory.nexus_waits = True
    return served


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    """Closed at the end."""
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.close()


def first_session(served: Served, peers: list[Peer]) -> Peer:
    """Logged in, with the unit attentions taken and unit 0 reserved."""
    peers.append(ready(Peer(served.address)))
    peers[-1].send(peers[-1].command(0, RESERVE))
    good(peers[-1].receive())
    return peers[-1]


def cut(peer: Peer) -> None:
    """The connection breaks: a reset, and nothing that was on its way arrives."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def come_back(served: Served, before: Peer, peers: list[Peer], *, answers: int = 0, commands: int = 0) -> Peer:
    """The same initiator port, with the numbers as they stood, or other ones."""
    peer = Peer(served.address)
    peers.append(peer)
    peer.cmd_sn = (before.cmd_sn + commands) & 0xFFFFFFFF
    peer.exp_stat_sn = (before.exp_stat_sn + answers) & 0xFFFFFFFF
    peer.login(TARGET)
    return peer


def answer(peer: Peer, lun: int = 0, cdb: bytes = TEST_UNIT_READY) -> layers.Pdu:
    peer.send(peer.command(lun, cdb))
    return peer.receive()


def assert_goes_on(peer: Peer) -> None:
    for lun in (0, 1):
        good(answer(peer, lun))


def assert_lost(served: Served, peer: Peer) -> None:
    """Each unit says so, and what was reserved is free."""
    for lun in (0, 1):
        assert sense_of(answer(peer, lun)) == POWER_ON
    assert served.units[0].reservations.legacy_holder is None


def wait_until_lost(served: Served) -> None:
    for unit in served.units:
        becomes(set(), lambda unit=unit: unit.nexuses)  # type: ignore[misc]
    assert served.units[0].reservations.legacy_holder is None


# ---- it goes on ------------------------------------------------------------------------------------------------------


def test_it_goes_on_with_what_it_holds(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    good(answer(first, 1))
    cut(first)
    assert log.wait_for("connection lost")["nexus"] == "waits"
    other = second_session(served)
    peers.append(other)
    assert answer(other).status == CONFLICT  # while nobody is there
    back = come_back(served, first, peers)
    assert_goes_on(back)
    assert answer(other).status == CONFLICT
    logins = [line for line in log.seen + log.rest() if line["event"] == "login" and line["initiator"] != OTHER]
    assert [line.get("nexus") for line in logins] == [None, "continues"]


def test_it_is_shown_while_it_waits(served: Served, log: Log, peers: list[Peer]) -> None:
    served.directory.ends_at = time.time() + 3600
    first = first_session(served, peers)
    (before,) = served.server.sessions()
    cut(first)
    (waits,) = eventually(served.server.waiting)
    assert (waits.state, waits.waiting_since is not None, waits.tsih) == ("WAITING", True, before.tsih)
    assert (waits.initiator_name, waits.commands, waits.since) == (INITIATOR_NAME, 3, before.since)
    assert waits.waits_until == served.directory.ends_at and served.server.sessions() == []
    served.directory.ends_at += 3600  # a lease that is extended
    served.server.views_changed()
    becomes([served.directory.ends_at], lambda: [one.waits_until for one in served.server.waiting()])
    assert_goes_on(come_back(served, first, peers))
    assert served.server.waiting() == []


def test_a_new_login_may_come_before_the_cut_is_noticed(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    back = come_back(served, first, peers)
    with pytest.raises(HungUp):
        first.receive()
    assert_goes_on(back)
    assert log.wait_for("session closed")["nexus"] == "waits"
    assert served.units[0].reservations.legacy_holder is not None


def test_it_goes_on_as_often_as_it_is_cut(served: Served, peers: list[Peer]) -> None:
    peer = first_session(served, peers)
    for round_ in range(10):
        if round_ % 2:
            cut(peer)
        peer = come_back(served, peer, peers)
        assert_goes_on(peer)
    (nexus,) = served.units[0].nexuses
    assert nexus.initiator_name == INITIATOR_NAME


def test_a_silent_peer_that_was_given_up_comes_back(
    log: Log, peers: list[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cable that was pulled for longer than the target waits."""
    with serving(Limits(logout_grace_seconds=0.05)) as served:
        served.directory.nexus_waits = True
        first = first_session(served, peers)
        with monkeypatch.context() as patched:  # from here on, so that nobody has to be quick before and afterwards
            patched.setattr(Limits, "keep_alive_seconds", 0.1)
            served.server.views_changed()  # which has the session look at what it waits for
            assert log.wait_for("connection lost")["nexus"] == "waits"
        good(answer(come_back(served, first, peers)))


def test_what_happened_meanwhile_is_told(served: Served, log: Log, peers: list[Peer]) -> None:
    """As to a session that was there: nothing is kept from it, and nothing is told that did not happen."""
    first = first_session(served, peers)
    cut(first)
    log.wait_for("connection lost")
    served.units[0].reset()
    served.units[1].establish_unit_attention(sense.MODE_PARAMETERS_CHANGED, served.units[1].nexuses.copy())
    back = come_back(served, first, peers)
    assert sense_of(answer(back)) == RESET
    assert sense_of(answer(back, 1)) == (6, 0x2A, 0x01)
    assert_goes_on(back)


def test_an_attention_that_waited_before_goes_on_waiting(served: Served, peers: list[Peer]) -> None:
    first = Peer(served.address)
    peers.append(first)
    first.login(TARGET)
    assert first.is_alive()
    assert_lost(served, come_back(served, first, peers))  # not one command came between


def test_a_connection_that_breaks_before_its_session_begins_changes_nothing(
    served: Served, log: Log, peers: list[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_session(served, peers)
    cut(first)
    log.wait_for("connection lost")

    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError("for a test")

    with monkeypatch.context() as patched:
        patched.setattr("scsi_targets.iscsi.connection.Session", no_memory)
        come_back(served, first, peers)
        assert log.wait_for("connection lost")["reason"] == "for a test"
    assert_goes_on(come_back(served, first, peers))


# ---- what is uncertain -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answers", "commands"), [(-1, 0), (1, 0), (0, 1), (0, -1), (-7, -7), (2**31, 0)])
def test_numbers_that_do_not_fit_are_another_initiator_s(
    served: Served, log: Log, peers: list[Peer], answers: int, commands: int
) -> None:
    """An answer that did not arrive, a command that did not, an initiator that has been started anew."""
    first = first_session(served, peers)
    cut(first)
    log.wait_for("connection lost")
    assert_lost(served, come_back(served, first, peers, answers=answers, commands=commands))


def test_a_write_whose_answer_was_not_received_is_told(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    data = b"x" * 512
    first.send(first.command(0, STORE, write=1, expected_data_transfer_length=len(data)) / data)
    becomes(data, lambda: served.units[0].kept)
    cut(first)
    log.wait_for("connection lost")
    assert_lost(served, come_back(served, first, peers))


def test_a_command_that_runs_is_aborted_and_told(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    dawdling(served, first, 1)
    cut(first)
    assert "nexus" not in log.wait_for("connection lost")
    assert_lost(served, come_back(served, first, peers))


def test_a_command_that_runs_when_it_is_reinstated_is_told(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    dawdling(served, first, 1)
    assert_lost(served, come_back(served, first, peers))
    assert "nexus" not in log.wait_for("session closed")


def test_a_command_whose_data_did_not_arrive_is_told(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    waiting_for_data(first)
    cut(first)
    assert "nexus" not in log.wait_for("connection lost")
    assert_lost(served, come_back(served, first, peers))


def test_a_command_that_was_cut_in_two_is_told(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    whole = first.encode(first.command(0, STORE, write=1, expected_data_transfer_length=512) / (b"x" * 512))
    first.send_bytes(whole[:300])
    first.socket.shutdown(socket.SHUT_WR)
    log.wait_for("connection lost")
    assert served.units[0].kept == b""
    assert_lost(served, come_back(served, first, peers))


def test_a_command_that_is_aborted_but_still_runs_is_told(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    command = dawdling(served, first, 1)
    first.send(layers.TaskManagementRequest(
        function=TaskFunction.ABORT_TASK, lun=1 << 48, initiator_task_tag=first.tag(), cmd_sn=first.cmd_sn,
        referenced_task_tag=command.initiator_task_tag,
    ))  # fmt: skip
    eventually(lambda: not served.units[1].tasks.running or served.units[1].tasks.running.aborted)  # type: ignore[union-attr]
    cut(first)
    log.wait_for("connection lost")
    assert_lost(served, come_back(served, first, peers))


# ---- what ends it ----------------------------------------------------------------------------------------------------


def test_an_ordinary_target_s_nexus_ends_with_its_connection(served: Served, log: Log, peers: list[Peer]) -> None:
    served.directory.nexus_waits = False
    first = first_session(served, peers)
    cut(first)
    assert "nexus" not in log.wait_for("connection lost")
    wait_until_lost(served)
    assert_lost(served, come_back(served, first, peers))


@pytest.mark.parametrize("how", ["logout", "operator", "garbage", "cold reset"])
def test_a_session_that_is_ended_takes_its_nexus_along(served: Served, log: Log, peers: list[Peer], how: str) -> None:
    first = first_session(served, peers)
    if how == "logout":
        first.send(layers.LogoutRequest(initiator_task_tag=first.tag(), cmd_sn=first.cmd_sn))
        assert first.receive().response == 0
    elif how == "operator":
        (record,) = served.server.sessions()
        assert served.server.end_session(record.tsih, "ended by an operator", 60)
    elif how == "garbage":
        first.send_bytes(b"\xff" * 4096)
    else:
        assert manage(first, TaskFunction.TARGET_COLD_RESET) is TaskResponse.FUNCTION_COMPLETE
    wait_until_lost(served)
    assert sense_of(answer(come_back(served, first, peers)))[:2] == POWER_ON[:2]


def test_an_operator_ends_one_that_waits(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    cut(first)
    (waits,) = eventually(served.server.waiting)
    assert served.server.end_session(waits.tsih, "ended by an operator", 60)
    assert served.server.waiting() == []
    assert [unit.nexuses for unit in served.units] == [set(), set()]
    assert_lost(served, come_back(served, first, peers))


@pytest.mark.parametrize("how", ["forbidden", "over", "somebody else's", "another unit", "without one", "renumbered"])
def test_who_waits_sees_the_same_or_is_lost(served: Served, log: Log, peers: list[Peer], how: str) -> None:
    cut(first_session(served, peers))
    log.wait_for("connection lost")
    directory, units = served.directory, served.directory.targets[TARGET]
    new = Memory("M2")
    served.units.append(new)
    if how == "forbidden":
        directory.errors[TARGET] = Forbidden("the grant is over")
    elif how == "over":
        directory.ends_at = time.time() - 1
    elif how == "somebody else's":
        directory.others.append(INITIATOR_NAME)
    elif how == "another unit":
        units[2] = new
    elif how == "without one":
        del units[1]
    else:
        units[0], units[1] = units[1], units[0]
    served.server.views_changed()
    wait_until_lost(served)


def test_the_end_of_a_view_that_comes_without_being_told_of(
    served: Served, log: Log, peers: list[Peer], a_day_later: Callable[[], None]
) -> None:
    served.directory.ends_at = time.time() + 3600
    first = first_session(served, peers)
    cut(first)
    assert log.wait_for("connection lost")["nexus"] == "waits"
    a_day_later()
    wait_until_lost(served)


def test_a_view_that_changed_in_the_moment_of_the_return_is_told(served: Served, log: Log, peers: list[Peer]) -> None:
    """Whoever looks after those that wait may not have come by: the session itself asks what it sees."""
    first = first_session(served, peers)
    cut(first)
    log.wait_for("connection lost")
    del served.directory.targets[TARGET][1]
    back = come_back(served, first, peers)
    first_answer = sense_of(answer(back))
    assert first_answer in [(6, 0x3F, 0x0E), POWER_ON]
    assert sense_of(answer(back, 1)) == (5, 0x25, 0)


def test_the_end_of_the_server_ends_those_that_wait(log: Log, peers: list[Peer]) -> None:
    with serving() as served:
        served.directory.nexus_waits = True
        cut(first_session(served, peers))
        log.wait_for("connection lost")
        served.server.stop()
        assert [unit.nexuses for unit in served.units] == [set(), set()]


def test_another_initiator_port_is_another_nexus(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    cut(first)
    log.wait_for("connection lost")
    other = Peer(served.address)
    peers.append(other)
    other.cmd_sn, other.exp_stat_sn = first.cmd_sn, first.exp_stat_sn
    other.login(TARGET, isid=9)
    assert sense_of(answer(other)) == POWER_ON
    assert answer(other).status == CONFLICT
    assert_goes_on(come_back(served, first, peers))


def test_somebody_else_at_the_same_port_is_another_nexus(served: Served, log: Log, peers: list[Peer]) -> None:
    """The name and ISID prove nothing: with other rights it is somebody else, who inherits nothing."""
    first = first_session(served, peers)
    cut(first)
    log.wait_for("connection lost")
    served.directory.others.append(INITIATOR_NAME)
    other = come_back(served, first, peers)
    assert sense_of(answer(other)) == POWER_ON
    assert Principal.account("somebody else") in {nexus.principal for nexus in served.units[0].nexuses.copy()}


def test_two_returns_at_once(served: Served, peers: list[Peer]) -> None:
    """One takes over from the other. It is told that something was lost, or nothing was."""
    first = first_session(served, peers)
    for _ in range(10):
        pair = [Peer(served.address), Peer(served.address)]
        peers.extend(pair)
        for peer in pair:
            peer.cmd_sn, peer.exp_stat_sn = first.cmd_sn, first.exp_stat_sn
        cut(first)

        def come(peer: Peer) -> Peer | None:
            try:
                peer.login(TARGET)
            except HungUp:  # the other one came later, and before this one was answered
                return None
            return peer

        with ThreadPoolExecutor(2) as pool:
            back = [peer for peer in pool.map(come, pair) if peer is not None]
        (first,) = [peer for peer in back if peer.is_alive()]
        status = answer(first).status
        assert (status == 0) == (served.units[0].reservations.legacy_holder is not None)
        for _ in range(2 if status else 1):
            assert answer(first, 1).status in (0, 2)
        good(answer(first, 0, RESERVE))
        assert [len(unit.nexuses) for unit in served.units] == [1, 1]


def test_memory_comes_back(served: Served, log: Log, peers: list[Peer]) -> None:
    first = first_session(served, peers)
    data = b"y" * 4096
    first.send(first.command(0, STORE, write=1, expected_data_transfer_length=len(data)) / data)
    good(first.receive())
    cut(first)
    log.wait_for("connection lost")
    becomes(0, lambda: served.server.pool.in_use_bytes)
    back = come_back(served, first, peers)
    back.send(back.command(0, fetch(4096), read=1, expected_data_transfer_length=4096))
    assert good(back.receive()).data == data
