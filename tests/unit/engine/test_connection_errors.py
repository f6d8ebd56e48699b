"""What a peer may not do: format errors close the connection, other violations are rejected, parameters are checked."""

import socket
import struct

import pytest

from datamover.engine import BufferPool, Connection, ConnectionClosed, ProtocolError

from .peer import DATA_OUT, DEFAULTS, LOGIN, NOP_OUT, REJECT, SCSI_COMMAND, TEXT, Peer

INITIATOR_OPCODES = {0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10}


def closes(peer: Peer, match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        while peer.connection.receive(5):
            pass
    with pytest.raises(ConnectionClosed, match="protocol error"):
        peer.connection.receive(5)


@pytest.mark.parametrize("opcode", [NOP_OUT, SCSI_COMMAND, TEXT, DATA_OUT, 0x3F])
@pytest.mark.parametrize("claim", [65_537, 0x7FFFFF, 0xFFFFFF])
def test_a_data_segment_longer_than_declared(opcode: int, claim: int) -> None:
    with Peer() as peer:
        header = bytearray(48)
        header[0:2] = bytes([opcode | 0x40, 0x80])
        header[5:8] = claim.to_bytes(3, "big")
        peer.send(bytes(header))
        closes(peer, f"DataSegmentLength {claim} is over our MaxRecvDataSegmentLength 65536")
        assert peer.pool.in_use_bytes == 0


def test_the_line_names_the_pdu() -> None:
    with Peer() as peer:
        header = bytearray(peer.request(TEXT, tag=0x1234ABCD))
        header[5:8] = b"\xff\xff\xff"
        peer.send(bytes(header))
        closes(peer, r"Text PDU \(opcode 04h, Initiator Task Tag 1234ABCDh\)")


@pytest.mark.parametrize("bit", [0, 3, 17, 200, 383, 384, 415])
def test_a_header_digest_error(bit: int) -> None:
    with Peer(header_digest=True) as peer:
        pdu = bytearray(peer.command(1))
        pdu[bit // 8] ^= 1 << bit % 8
        peer.send(bytes(pdu), peer.command(2) * 50)  # enough bytes for whatever TotalAHSLength now says
        closes(peer, "header digest error")


@pytest.mark.parametrize(
    "ahs, line",
    [
        (struct.pack(">HBx", 9, 1) + bytes(4), "AHSLength 9 goes beyond TotalAHSLength"),
        (struct.pack(">HBx", 0, 1), "AHSLength 0 of an Extended CDB"),
        (struct.pack(">HBx", 246, 1) + bytes(248), "AHSLength 246 of an Extended CDB"),
        (struct.pack(">HBx", 9, 2) + bytes(8), "AHS of type 2 and length 9"),
    ],
)
def test_additional_headers_that_make_no_sense(ahs: bytes, line: str) -> None:
    with Peer() as peer:
        peer.send(peer.command(1, ahs=ahs))
        closes(peer, line)


@pytest.mark.parametrize("immediate", [False, True])
def test_an_additional_header_of_a_reserved_type_is_rejected(immediate: bool) -> None:
    with Peer() as peer:
        pdu = peer.command(1, ahs=struct.pack(">HBx", 1, 3), immediate=immediate)
        peer.send(pdu, peer.command(2))
        reject = peer.read()
        assert (reject.opcode, reject.bhs[2], reject.data) == (REJECT, 0x09, pdu)
        assert peer.next_command().initiator_task_tag == 2, "the CmdSN of the rejected command counts as received"


@pytest.mark.parametrize("data", [b"", b"1234"])
def test_a_discovery_session_rejects_scsi_commands(data: bytes) -> None:
    with Peer(discovery=True) as peer:
        pdu = peer.command(1, expected=2048, data=data, write=True)
        peer.send(pdu)
        reject = peer.read()
        assert (reject.opcode, reject.bhs[2], reject.data) == (REJECT, 0x04, pdu[:48])
        peer.nothing()
        assert peer.silent() and peer.pool.in_use_bytes == 0
        peer.send(peer.request(TEXT, immediate=False, data=b"SendTargets=All\0"))
        assert peer.next_pdu().data == b"SendTargets=All\0", "the CmdSN of the rejected command counts as received"


def test_data_announced_without_the_w_bit() -> None:
    for options in ({"data": b"1234"}, {"final": False}):
        with Peer() as peer:
            peer.send(peer.command(1, expected=4, read=True, **options))  # type: ignore[arg-type]
            closes(peer, "without the W bit")


def test_the_reserved_task_tag() -> None:
    with Peer() as peer:
        peer.send(peer.command(0xFFFFFFFF))
        closes(peer, "reserved Initiator Task Tag")


def test_pdus_waiting_behind_a_gap_are_bounded() -> None:
    with Peer(command_window=64) as peer:
        for place in range(1, 20):
            peer.send(peer.request(NOP_OUT, immediate=False, cmd_sn=10 + place, data=bytes(65_536)))
            try:
                assert peer.taken_in() == []
            except ProtocolError as error:
                assert place == 17
                assert "more than 1048576 bytes" in str(error)
                return
        pytest.fail("the bound was never reached")


@pytest.mark.parametrize("opcode", [code for code in range(64) if code not in INITIATOR_OPCODES])
def test_an_unknown_opcode_is_rejected_and_the_connection_goes_on(opcode: int) -> None:
    with Peer(header_digest=True, data_digest=True) as peer:
        pdu = peer.request(opcode, immediate=False, cmd_sn=10, data=b"some data")
        peer.send(pdu)
        reject = peer.read()
        assert (reject.opcode, reject.flags, reject.tag) == (REJECT, 0x80, 0xFFFFFFFF)
        assert reject.bhs[2] == (0x04 if opcode == LOGIN else 0x05)
        assert reject.data == pdu[:48]
        assert (reject.stat_sn, reject.exp_cmd_sn) == (100, 10)
        peer.send(peer.command(1))
        assert peer.next_command().initiator_task_tag == 1


def test_a_reject_carries_the_additional_header_too() -> None:
    with Peer() as peer:
        peer.send(peer.command(1, immediate=True) * 2)  # the second: its tag is in use
        ahs = struct.pack(">HBx", 241, 1) + bytes(240)
        pdu = peer.command(1, ahs=ahs, immediate=True)
        peer.send(pdu)
        first = peer.next_command()
        assert peer.read().opcode == REJECT
        assert peer.read().data == pdu
        peer.connection.respond(first, 0)


@pytest.mark.parametrize("handed_out", [False, True])
def test_a_task_tag_still_in_use_is_rejected(handed_out: bool) -> None:
    with Peer() as peer:
        peer.send(peer.command(1) if handed_out else peer.command(1, expected=10, write=True))
        first = peer.next_command() if handed_out else None
        if not handed_out:
            peer.read()
        peer.send(peer.command(1, expected=4, data=b"1234", write=True, cmd_sn=11))
        reject = peer.read()
        assert (reject.opcode, reject.bhs[2], reject.exp_cmd_sn) == (REJECT, 0x04, 11)
        if first:
            peer.connection.respond(first, 0)
            peer.send(peer.command(1, cmd_sn=11))
            assert peer.next_command().initiator_task_tag == 1, "free again once answered"


def test_a_flood_of_rejects_does_not_wait_for_a_request() -> None:
    with Peer() as peer:
        peer.send(peer.request(0x3F) * 2000)
        for stat_sn in range(100, 2100):
            reject = peer.read()
            assert (reject.opcode, reject.stat_sn) == (REJECT, stat_sn)


# ---- the constructor ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_recv_data_segment_length", 511),
        ("max_recv_data_segment_length", 1 << 24),
        ("max_recv_data_segment_length", (1 << 32) + 512),
        ("max_send_data_segment_length", 0),
        ("first_burst_length", 511),
        ("first_burst_length", 262_145),
        ("max_burst_length", -1),
        ("max_burst_length", 1 << 24),
        ("max_outstanding_r2t", 0),
        ("max_outstanding_r2t", 65_536),
        ("command_window", 0),
        ("command_window", 4097),
        ("buffer_budget_bytes", 0),
        ("send_timeout_seconds", 0),
        ("send_timeout_seconds", float("nan")),
        ("data_timeout_seconds", 0),
        ("data_timeout_seconds", float("inf")),
    ],
)
def test_parameters_out_of_range_are_named_and_the_socket_stays_the_callers(name: str, value: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError, match=name):
            Connection(ours.fileno(), BufferPool(1 << 20), **(DEFAULTS | {name: value}))
        ours.send(b"still open")
        assert theirs.recv(10) == b"still open"


def test_not_a_socket() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Connection(-1, BufferPool(1 << 20), **DEFAULTS)
    with pytest.raises(TypeError, match="BufferPool"):
        Connection(0, object(), **DEFAULTS)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Connection(0, BufferPool(1 << 20))  # type: ignore[call-arg]


def test_the_engine_closes_the_socket_when_the_connection_dies() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours.detach(), BufferPool(1 << 20), **DEFAULTS)
        theirs.settimeout(0.01)
        with pytest.raises(TimeoutError):
            theirs.recv(1)
        del connection
        assert theirs.recv(1) == b""


def test_a_nonblocking_socket_is_made_blocking() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        connection = Connection(ours.detach(), BufferPool(1 << 20), **DEFAULTS)
        assert connection.receive(0.01) is None
