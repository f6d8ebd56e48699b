"""The full-feature phase over a real socket, seen by a peer with its own description of the wire."""

import socket
import struct

import pytest
from scapy.packet import Raw

from scsi_targets.iscsi.limits import Limits
from tests.fuzz import layers
from tests.fuzz.peer import HungUp, Peer, text
from tests.support.waiting import becomes, eventually, in_time
from tests.unit.iscsi.conftest import Log
from tests.unit.iscsi.dummy import Served, serving
from tests.unit.iscsi.support import TARGET

TEST_UNIT_READY = bytes(6)
STORE = b"\xc1" + bytes(9)
DAWDLE = b"\xc0" + bytes(9)


def fetch(length: int) -> bytes:
    return struct.pack(">BBIBHB", 0xC2, 0, length, 0, 0, 0)


def ready(peer: Peer, *luns: int) -> Peer:
    """Logged in, with the power-on unit attentions taken."""
    peer.login(TARGET)
    for lun in luns or (0, 1):
        peer.send(peer.command(lun, TEST_UNIT_READY))
        assert sense_of(peer.receive()) == (6, 0x29, 0)
    return peer


def sense_of(response: layers.Pdu) -> tuple[int, int, int]:
    assert isinstance(response, layers.ScsiResponse), response
    assert response.status == 2
    sense = response.data[2:]
    assert len(sense) == int.from_bytes(response.data[:2], "big")
    return sense[2] & 15, sense[12], sense[13]


def good(response: layers.Pdu) -> layers.Pdu:
    assert isinstance(response, layers.ScsiResponse | layers.DataIn), response
    assert response.status == 0
    return response


# ---- SCSI commands -----------------------------------------------------------------------------------------------


def test_commands_reach_their_logical_unit(served: Served) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        for lun, words in ((0, b"to unit zero"), (1, b"and unit one")):
            command = peer.command(lun, STORE, write=1, expected_data_transfer_length=12)
            peer.send(command / Raw(words))
            assert (good(peer.receive()).residual_count, served.units[lun].kept) == (0, words)
        peer.send(peer.command(1, fetch(7), read=1, expected_data_transfer_length=7))
        answer = good(peer.receive())
        assert (answer.data, answer.has_status) == (b"and uni", 1)


def test_residuals(served: Served) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        peer.send(peer.command(0, fetch(4), read=1, expected_data_transfer_length=10))
        answer = good(peer.receive())
        assert (answer.data, answer.underflow, answer.overflow, answer.residual_count) == (bytes(4), 1, 0, 6)
        peer.send(peer.command(0, fetch(10), read=1, expected_data_transfer_length=4))
        answer = good(peer.receive())
        assert (answer.data, answer.underflow, answer.overflow, answer.residual_count) == (bytes(4), 0, 1, 6)


@pytest.mark.parametrize("field", [0x4000_0000_0000_0000, 0x0000_0000_0000_0000])
def test_both_forms_of_a_lun(served: Served, field: int) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        command = peer.command(0, TEST_UNIT_READY)
        command.lun = field
        peer.send(command)
        good(peer.receive())


@pytest.mark.parametrize("field", [0x0009_0000_0000_0000, 0x8000_0000_0000_0000, 0x0000_0001_0000_0000, 1])
def test_luns_that_are_not_there(served: Served, field: int) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        command = peer.command(0, TEST_UNIT_READY)
        command.lun = field
        peer.send(command)
        assert sense_of(peer.receive()) == (5, 0x25, 0)


def test_a_slow_command_leaves_the_connection_free(served: Served) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        slow = peer.command(0, DAWDLE)
        peer.send(slow)
        assert served.units[0].started.wait(60)
        peer.send(peer.command(1, TEST_UNIT_READY))
        good(peer.receive())
        assert peer.is_alive()
        served.units[0].go.set()
        assert good(peer.receive()).initiator_task_tag == slow.initiator_task_tag


def test_unexpected_unsolicited_data_ends_in_iscsi_sense(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET, ImmediateData="No", InitialR2T="Yes")
        peer.send(peer.command(0, STORE, write=1, expected_data_transfer_length=4) / Raw(b"abcd"))
        assert sense_of(peer.receive()) == (0xB, 0x0C, 0x0C)
        assert peer.is_alive()


def test_a_damaged_data_out_ends_in_a_crc_error(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET, DataDigest="CRC32C", InitialR2T="No", ImmediateData="No")
        command = peer.command(0, STORE, write=1, final=0, expected_data_transfer_length=4)
        peer.send(command)
        data = layers.DataOut(initiator_task_tag=command.initiator_task_tag) / Raw(b"abcd")
        whole = bytearray(peer.encode(data))
        whole[-6] ^= 1
        peer.send_bytes(bytes(whole))
        answers = [peer.receive(), peer.receive()]
        assert [type(answer) for answer in answers] == [layers.Reject, layers.ScsiResponse]
        assert answers[0].reason == 2
        assert sense_of(answers[1]) == (0xB, 0x47, 0x05)


def test_a_command_too_large_for_any_buffer(served: Served) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        peer.send(peer.command(0, STORE, write=1, expected_data_transfer_length=0xFFFF_FFFF))
        assert sense_of(peer.receive()) == (5, 0x24, 0)
        assert peer.is_alive()


# ---- NOP ---------------------------------------------------------------------------------------------------------


def test_nop_out_is_echoed(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET, MaxRecvDataSegmentLength=512)
        peer.send(layers.NopOut(initiator_task_tag=9, lun=1 << 48, cmd_sn=peer.cmd_sn) / Raw(b"ping" * 300))
        answer = peer.receive()
        assert isinstance(answer, layers.NopIn)
        assert (answer.initiator_task_tag, answer.target_transfer_tag) == (9, layers.NO_TAG)
        assert (answer.lun, answer.data) == (1 << 48, (b"ping" * 128))


def test_a_nop_out_without_a_tag_gets_no_answer(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        peer.send(layers.NopOut(initiator_task_tag=layers.NO_TAG, cmd_sn=peer.cmd_sn))
        peer.send(layers.NopOut(initiator_task_tag=9, cmd_sn=peer.cmd_sn))
        assert peer.receive().initiator_task_tag == 9


def test_a_silent_peer_is_asked_and_then_given_up(log: Log) -> None:
    with serving(Limits(keep_alive_seconds=0.05)) as served, Peer(served.address) as peer:
        peer.login(TARGET)
        ping = peer.receive()
        assert isinstance(ping, layers.NopIn)
        assert (ping.initiator_task_tag, ping.lun) == (layers.NO_TAG, 0)
        assert ping.target_transfer_tag != layers.NO_TAG
        with pytest.raises(HungUp):
            peer.receive()
        assert log.wait_for("connection lost")["reason"] == "no answer to a NOP-In for 0.05 s"


def test_a_silent_peer_is_given_up_however_often_the_target_looks_at_something(log: Log) -> None:
    with serving(Limits(keep_alive_seconds=0.2)) as served, Peer(served.address) as peer:
        peer.login(TARGET)

        def given_up() -> bool:
            served.server.views_changed()
            log.seen += (lines := log.rest())
            return "connection lost" in [line["event"] for line in lines]

        eventually(given_up)
        assert isinstance(peer.receive(), layers.NopIn)
        with pytest.raises(HungUp):
            peer.receive()


def test_a_silent_peer_is_given_up_while_a_command_runs_on_a_unit_that_it_no_longer_sees(log: Log) -> None:
    with serving() as served, Peer(served.address) as peer, pytest.MonkeyPatch.context() as patched:
        ready(peer)
        peer.send(peer.command(1, DAWDLE))
        assert served.units[1].started.wait(60)
        patched.setattr(Limits, "keep_alive_seconds", 0.05)  # from here on, so that nobody has to be quick before
        del served.directory.targets[TARGET][1]
        served.server.views_changed()
        assert log.wait_for("connection lost")["reason"] == "no answer to a NOP-In for 0.05 s"
        becomes(set(), lambda: served.units[1].nexuses)


def test_a_peer_that_answers_stays(log: Log) -> None:
    def answers(seconds: float) -> None:
        with serving(Limits(keep_alive_seconds=seconds)) as served, Peer(served.address) as peer:
            peer.login(TARGET)
            tags = set()
            for _ in range(4):
                ping = peer.receive()
                tags.add(ping.target_transfer_tag)
                peer.send(layers.NopOut(initiator_task_tag=layers.NO_TAG, target_transfer_tag=ping.target_transfer_tag,
                                        cmd_sn=peer.cmd_sn))  # fmt: skip
            assert len(tags) == 4
            if not peer.is_alive():
                raise HungUp

    in_time(answers, HungUp, (0.3, 3.0, 20.0))


def test_who_is_busy_is_not_pinged_because_the_target_has_to_look_at_something(served: Served) -> None:
    """Its thread may be woken once more by a call that it has seen to."""
    with Peer(served.address) as peer:
        ready(peer)
        (member,) = served.server._table.members()
        session = member.session
        assert session is not None
        for _ in range(20):
            session.look_again()
            eventually(lambda: not session._attention)
            session.connection.wake()
            peer.send(peer.command(0, TEST_UNIT_READY))
            good(peer.receive())


def test_an_idle_discovery_session_is_closed(log: Log) -> None:
    with serving(Limits(discovery_seconds=0.05)) as served, Peer(served.address) as peer:
        peer.login(None)
        with pytest.raises(HungUp):
            peer.receive()
        assert "a discovery session has 0.05 s" in log.wait_for("discovery ended")["reason"]


# ---- logout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [0, 1])
def test_logout(served: Served, log: Log, reason: int) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        peer.send(layers.LogoutRequest(reason=reason, initiator_task_tag=4, cmd_sn=peer.cmd_sn))
        answer = peer.receive()
        assert isinstance(answer, layers.LogoutResponse)
        assert (answer.response, answer.initiator_task_tag) == (0, 4)
        with pytest.raises(HungUp):
            peer.receive()
    line = log.wait_for("logout")
    assert (line["initiator"], line["target"]) == ("iqn.2026-01.org.example:peer", TARGET)


def test_a_logout_whose_answer_nobody_waits_for(served: Served, log: Log) -> None:
    for _ in range(20):
        with Peer(served.address) as peer:
            peer.login(TARGET)
            peer.send(layers.LogoutRequest(cmd_sn=peer.cmd_sn))
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert log.wait_for("login")["target"] == TARGET
        assert log.next()["event"] in ("logout", "connection lost")


@pytest.mark.parametrize(("reason", "cid", "response"), [(1, 7, 1), (2, 0, 2), (2, 7, 2)])
def test_logouts_that_leave_the_session_as_it_is(served: Served, reason: int, cid: int, response: int) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        peer.send(layers.LogoutRequest(reason=reason, cid=cid, cmd_sn=peer.cmd_sn))
        assert peer.receive().response == response
        assert peer.is_alive()


def test_an_unknown_logout_reason_is_rejected(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        peer.send(layers.LogoutRequest(reason=99, cmd_sn=peer.cmd_sn))
        answer = peer.receive()
        assert (type(answer), answer.reason) == (layers.Reject, 0x09)
        assert peer.is_alive()


def test_a_reservation_is_free_as_soon_as_the_logout_is_answered(served: Served) -> None:
    with Peer(served.address) as holder, Peer(served.address) as other:
        ready(holder, 0)
        holder.send(holder.command(0, bytes([0x16, 0, 0, 0, 0, 0])))
        good(holder.receive())
        other.send(layers.LoginRequest(isid=b"\x80other", cmd_sn=1) / Raw(text(
            {"InitiatorName": "iqn.2026-01.org.example:other", "TargetName": TARGET})))  # fmt: skip
        other.receive()
        other.send(other.command(0, TEST_UNIT_READY))
        assert sense_of(other.receive()) == (6, 0x29, 0)
        other.send(other.command(0, STORE))
        assert other.receive().status == 0x18
        holder.send(layers.LogoutRequest(cmd_sn=holder.cmd_sn))
        holder.receive()
        other.send(other.command(0, STORE))
        good(other.receive())


# ---- everything else ---------------------------------------------------------------------------------------------


def test_snack_is_rejected_with_its_header(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        snack = layers.SnackRequest(kind=1, begin_run=1, run_length=2)
        peer.send(snack)
        answer = peer.receive()
        assert isinstance(answer, layers.Reject)
        assert (answer.reason, answer.data) == (0x03, bytes(snack)[:48])
        assert peer.is_alive()


def test_text_in_a_normal_session(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        request = layers.TextRequest(initiator_task_tag=6, cmd_sn=peer.take_cmd_sn())
        peer.send(request / Raw(text({"SendTargets": "", "X-a": "1"})))
        answer = peer.receive()
        host, port = served.address
        assert isinstance(answer, layers.TextResponse)
        assert answer.data == text({"X-a": "NotUnderstood", "TargetName": TARGET, "TargetAddress": f"{host}:{port},7"})
        assert answer.final == 1


def test_bad_text_is_rejected_and_the_session_goes_on(served: Served) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        peer.send(layers.TextRequest(cmd_sn=peer.take_cmd_sn()) / Raw(b"\xff\xff"))
        answer = peer.receive()
        assert (type(answer), answer.reason) == (layers.Reject, 0x04)
        assert peer.is_alive()


@pytest.mark.parametrize(("declared", "expected"), [(512, [512, 512, 476]), (1024, [1024, 476]), (65536, [1500])])
def test_another_segment_length_declared_in_full_feature_phase(
    served: Served, declared: int, expected: list[int]
) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET, MaxRecvDataSegmentLength=1000)
        request = layers.TextRequest(cmd_sn=peer.take_cmd_sn())
        peer.send(request / Raw(text({"MaxRecvDataSegmentLength": declared})))
        answer = peer.receive()
        assert (type(answer), answer.data) == (layers.TextResponse, b"")
        peer.send(peer.command(0, TEST_UNIT_READY))
        peer.receive()
        peer.send(peer.command(0, fetch(1500), read=1, expected_data_transfer_length=1500))
        assert [len(peer.receive().data) for _ in expected] == expected
        peer.send(layers.NopOut(initiator_task_tag=9, cmd_sn=peer.cmd_sn) / Raw(bytes(2000)))
        assert len(peer.receive().data) == min(2000, declared)


def test_discovery_answers_send_targets_and_nothing_of_scsi(served: Served, log: Log) -> None:
    with Peer(served.address) as peer:
        peer.login(None)
        request = layers.TextRequest(cmd_sn=peer.take_cmd_sn())
        peer.send(request / Raw(text({"SendTargets": "All"})))
        host, port = served.address
        assert peer.receive().data == text({"TargetName": TARGET, "TargetAddress": f"{host}:{port},7"})
        for wrong in (
            layers.TaskManagementRequest(function=5, cmd_sn=peer.cmd_sn),
            layers.NopOut(initiator_task_tag=9, cmd_sn=peer.cmd_sn),
            layers.LogoutRequest(reason=1, cmd_sn=peer.cmd_sn),
            layers.LogoutRequest(reason=2, cmd_sn=peer.cmd_sn),
            peer.command(0, TEST_UNIT_READY),
            peer.command(0, STORE, write=1, expected_data_transfer_length=1 << 20),
        ):
            peer.send(wrong)
            answer = peer.receive()
            assert (type(answer), answer.reason) == (layers.Reject, 0x04), wrong
            assert answer.data[:48] == bytes(wrong)[:48]
        assert served.server.pool.in_use_bytes == 0
        peer.send(layers.LogoutRequest(reason=0, cmd_sn=peer.cmd_sn))
        assert peer.receive().response == 0
    log.wait_for("logout")
