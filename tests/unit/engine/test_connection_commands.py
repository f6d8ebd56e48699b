"""SCSI commands and other PDUs as receive() hands them out (RFC 7143 11.2, 11.3)."""

import random
import struct

import pytest

from datamover.engine import ConnectionClosed, Pdu, ScsiCommand

from .peer import DATA_IN, LOGOUT, NOP_OUT, SCSI_RESPONSE, SNACK, TASK_MANAGEMENT, TEXT, Peer

DIGESTS = [(False, False), (True, False), (False, True), (True, True)]
SEED = 3720


def pattern(length: int, seed: int = SEED) -> bytes:
    return random.Random(seed).randbytes(length)


def test_every_field_of_a_command() -> None:
    with Peer() as peer:
        cdb = bytes(range(0xA0, 0xB0))
        peer.send(peer.command(0x01020304, expected=512, read=True, lun=0x4001_0203_0405_0607, cdb=cdb, attribute=2))
        command = peer.next_command()
        assert command.initiator_task_tag == 0x01020304
        assert command.lun == 0x4001_0203_0405_0607
        assert command.cdb == cdb
        assert command.cmd_sn == 10
        assert command.task_attribute == 2
        assert (command.immediate, command.read, command.write) == (False, True, False)
        assert command.expected_data_transfer_length == 512
        assert (command.bidirectional_read_length, command.data_out, command.data_error) == (0, None, 0)
        assert peer.connection.commands == 1


@pytest.mark.parametrize("header_digest, data_digest", DIGESTS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 511, 512, 10_240, 65_536])
def test_immediate_data_arrive_whole(length: int, header_digest: bool, data_digest: bool) -> None:
    with Peer(header_digest=header_digest, data_digest=data_digest) as peer:
        data = pattern(length)
        peer.send(peer.command(7, expected=length, data=data, write=True))
        command = peer.next_command()
        assert command.data_out is not None
        assert bytes(command.data_out) == data
        assert len(command.data_out) == length
        peer.connection.respond(command, 0)
        response = peer.read()
        assert (response.opcode, response.status, response.tag, response.stat_sn) == (SCSI_RESPONSE, 0, 7, 100)
        assert (response.exp_cmd_sn, response.max_cmd_sn) == (11, 18)


def conversation(peer: Peer) -> bytes:
    """Several commands and PDUs with everything a stream can have between its headers."""
    extended = struct.pack(">HBx", 5, 1) + b"wxyz"
    return b"".join(
        [
            peer.command(1, expected=9, data=pattern(9), write=True),
            peer.command(2),
            peer.request(NOP_OUT, tag=3, data=b"ping!"),
            peer.command(4, ahs=extended),
            peer.command(5, expected=3000, data=pattern(3000), write=True),
            peer.request(TEXT, tag=6, immediate=False, data=b"SendTargets=All\0"),
        ]
    )


def check_conversation(peer: Peer) -> None:
    first, second, ping, fourth, fifth, text = (peer.next() for _ in range(6))
    assert isinstance(first, ScsiCommand) and isinstance(fourth, ScsiCommand) and isinstance(fifth, ScsiCommand)
    assert isinstance(ping, Pdu) and isinstance(text, Pdu)
    assert first.data_out is not None and bytes(first.data_out) == pattern(9)
    assert second.initiator_task_tag == 2
    assert (ping.opcode, ping.data, ping.immediate) == (NOP_OUT, b"ping!", True)
    assert fourth.cdb[16:] == b"wxyz"
    assert fifth.data_out is not None and bytes(fifth.data_out) == pattern(3000)
    assert (text.opcode, text.data, text.immediate, text.cmd_sn) == (TEXT, b"SendTargets=All\0", False, 14)


@pytest.mark.parametrize("header_digest, data_digest", DIGESTS)
def test_many_pdus_in_one_piece(header_digest: bool, data_digest: bool) -> None:
    with Peer(header_digest=header_digest, data_digest=data_digest) as peer:
        peer.send(conversation(peer))
        check_conversation(peer)


@pytest.mark.parametrize("header_digest, data_digest", DIGESTS)
def test_the_same_byte_by_byte(header_digest: bool, data_digest: bool) -> None:
    with Peer(header_digest=header_digest, data_digest=data_digest) as peer:
        for byte in conversation(peer):
            peer.send(bytes([byte]))
            item = peer.connection.receive(0)
            if item is not None:
                peer.waiting.append(item)
        check_conversation(peer)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_cut_anywhere(seed: int) -> None:
    rng = random.Random(seed)
    with Peer(header_digest=True, data_digest=True) as peer:
        stream = conversation(peer)
        while stream:
            cut = rng.randrange(1, 200)
            peer.send(stream[:cut])
            stream = stream[cut:]
            if (item := peer.connection.receive(0)) is not None:
                peer.waiting.append(item)
        check_conversation(peer)


def test_the_reserved_answer_to_a_ping_and_every_opcode_reach_python() -> None:
    with Peer() as peer:
        for opcode in (NOP_OUT, TASK_MANAGEMENT, TEXT, LOGOUT, SNACK):
            sent = peer.request(opcode, tag=0xFFFFFFFF, data=b"x" * 5)
            peer.send(sent)
            pdu = peer.next_pdu()
            assert (pdu.opcode, pdu.bhs, pdu.data) == (opcode, sent[:48], b"x" * 5)
            assert (pdu.immediate, pdu.initiator_task_tag, pdu.cmd_sn) == (True, 0xFFFFFFFF, 10)


def test_extended_cdb_and_bidirectional_length() -> None:
    ahs = struct.pack(">HBx", 245, 1) + pattern(244) + struct.pack(">HBxI", 5, 2, 4096)
    with Peer() as peer:
        data = pattern(100)
        peer.send(peer.command(9, expected=100, data=data, read=True, write=True, cdb=b"\x7f" * 16, ahs=ahs))
        command = peer.next_command()
        assert command.cdb == b"\x7f" * 16 + pattern(244)
        assert command.bidirectional_read_length == 4096
        assert command.data_out is not None and bytes(command.data_out) == data
        peer.connection.respond(command, 0, b"", b"r" * 4000, 100)
        data_in, response = peer.read(), peer.read()
        assert (data_in.opcode, data_in.data, data_in.flags) == (DATA_IN, b"r" * 4000, 0x80)
        assert (response.opcode, response.flags) == (SCSI_RESPONSE, 0x88)  # bidirectional read residual underflow
        assert (response.word(40), response.residual) == (96, 0)


def test_receive_says_none_when_nothing_comes_in_time() -> None:
    with Peer() as peer:
        assert peer.connection.receive(0) is None
        assert peer.connection.receive(0.01) is None
        peer.send(peer.command(1)[:30])
        assert peer.connection.receive(0.01) is None


def test_receive_takes_what_came_before_the_peer_closed_and_then_says_so() -> None:
    with Peer() as peer:
        peer.send(peer.command(1), peer.command(2))
        peer.socket.close()
        assert peer.next_command().initiator_task_tag == 1
        assert peer.next_command().initiator_task_tag == 2
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match="peer closed"):
                peer.connection.receive(5)


def test_counters() -> None:
    with Peer() as peer:
        sent = conversation(peer)
        peer.send(sent)
        for _ in range(6):
            item = peer.next()
            if isinstance(item, ScsiCommand):
                peer.connection.respond(item, 0)
        answers = [peer.read() for _ in range(4)]
        connection = peer.connection
        assert (connection.commands, connection.pdus_in, connection.bytes_in) == (4, 6, len(sent))
        assert (connection.pdus_out, connection.bytes_out) == (len(answers), 48 * len(answers))


def test_the_data_outlive_the_command_and_the_connection() -> None:
    with Peer() as peer:
        peer.send(peer.command(1, expected=1000, data=pattern(1000), write=True))
        data = peer.next_command().data_out
    del peer
    assert data is not None and bytes(data) == pattern(1000)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), 1e10])
def test_impossible_timeouts(timeout: float) -> None:
    with Peer() as peer, pytest.raises(ValueError, match="timeout_seconds"):
        peer.connection.receive(timeout)
