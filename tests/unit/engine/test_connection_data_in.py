"""Data-In, residuals and status (RFC 7143 11.4, 11.7), and PDUs that Python makes."""

import random
import struct
import threading

import pytest

from datamover.engine import ConnectionClosed, ScsiCommand

from .peer import DATA_IN, NOP_IN, NOP_OUT, SCSI_RESPONSE, TEXT_RESPONSE, Answer, Peer

OVERFLOW, UNDERFLOW, STATUS, FINAL = 0x04, 0x02, 0x01, 0x80
GOOD, CHECK_CONDITION = 0x00, 0x02


def pattern(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def read_command(peer: Peer, expected: int, tag: int = 5) -> ScsiCommand:
    peer.send(peer.command(tag, expected=expected, read=True))
    return peer.next_command()


def read_until_status(peer: Peer) -> list[Answer]:
    answers = [peer.read()]
    while answers[-1].opcode == DATA_IN and not answers[-1].flags & STATUS:
        answers.append(peer.read())
    return answers


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("length", [1, 511, 512, 513, 8192, 8193, 100_001, 262_144, 262_145, 1 << 20])
@pytest.mark.parametrize("kind", ["bytes", "buffer", "view"])
def test_data_in_is_split_and_the_last_pdu_carries_good_status(length: int, kind: str, digests: bool) -> None:
    with Peer(header_digest=digests, data_digest=digests) as peer:
        command = read_command(peer, length)
        data = pattern(length)
        source: object = data
        if kind != "bytes":
            source = peer.pool.acquire(length)
            memoryview(source)[:] = data  # type: ignore[call-overload]
            source = memoryview(source)[:length] if kind == "view" else source  # type: ignore[call-overload]
        peer.connection.respond(command, GOOD, b"", source)  # type: ignore[arg-type]
        del source
        answers = read_until_status(peer)
        assert b"".join(answer.data for answer in answers) == data
        offset = 0
        for data_sn, answer in enumerate(answers):
            assert (answer.opcode, answer.data_sn, answer.offset, answer.tag) == (DATA_IN, data_sn, offset, 5)
            assert len(answer.data) <= 8192
            offset += len(answer.data)
            assert answer.final == (offset % 262_144 == 0 or offset == length), "F ends each MaxBurstLength"
            assert (answer.target_transfer_tag, answer.bhs[8:16]) == (0xFFFFFFFF, bytes(8))
        assert answers[-1].flags == FINAL | STATUS
        assert (answers[-1].stat_sn, answers[-1].status, answers[-1].residual) == (100, GOOD, 0)
        assert answers[-1].max_cmd_sn == 18, "the status gives the place back"


def test_the_memory_goes_back_to_the_pool_once_sent() -> None:
    with Peer() as peer:
        command = read_command(peer, 65536)
        peer.connection.respond(command, GOOD, b"", peer.pool.acquire(65536))
        read_until_status(peer)
        assert peer.pool.in_use_bytes == 0


def test_a_response_without_data() -> None:
    with Peer() as peer:
        peer.send(peer.command(5))
        peer.connection.respond(peer.next_command(), GOOD)
        answer = peer.read()
        assert (answer.opcode, answer.flags, answer.status, answer.data) == (SCSI_RESPONSE, FINAL, GOOD, b"")
        assert (answer.bhs[2], answer.data_sn, answer.residual) == (0, 0, 0)


@pytest.mark.parametrize("length", [8, 18, 252])
def test_sense_follows_its_length(length: int) -> None:
    with Peer(data_digest=True) as peer:
        peer.send(peer.command(5))
        sense = pattern(length)
        peer.connection.respond(peer.next_command(), CHECK_CONDITION, sense)
        answer = peer.read()
        assert (answer.opcode, answer.status) == (SCSI_RESPONSE, CHECK_CONDITION)
        assert answer.data == struct.pack(">H", length) + sense


def test_data_with_check_condition_are_followed_by_a_response() -> None:
    # A tape's READ of a shorter block: data, and sense with ILI (SSC-5 READ(6)).
    with Peer() as peer:
        peer.connection.respond(read_command(peer, 20_000), CHECK_CONDITION, b"\xf0" * 18, pattern(9000))
        first, second, response = peer.read(), peer.read(), peer.read()
        assert first.data + second.data == pattern(9000)
        assert (first.flags, second.flags) == (0, FINAL)
        assert (response.opcode, response.status, response.flags) == (SCSI_RESPONSE, CHECK_CONDITION, FINAL | UNDERFLOW)
        assert response.residual == 11_000
        assert response.data_sn == 2, "ExpDataSN counts the Data-In PDUs"
        assert (first.stat_sn, response.stat_sn) == (0, 100)


@pytest.mark.parametrize(
    "expected, data, wanted, flags, residual, sent",
    [
        (1000, 1000, -1, 0, 0, 1000),
        (1000, 400, -1, UNDERFLOW, 600, 400),
        (1000, 0, 0, UNDERFLOW, 1000, 0),
        (1000, 3000, -1, OVERFLOW, 2000, 1000),
        (1000, 1000, 3000, OVERFLOW, 2000, 1000),
        (0, 512, -1, OVERFLOW, 512, 0),
        (0, 0, 512, OVERFLOW, 512, 0),
        (1000, 100, 3000, UNDERFLOW, 900, 100),
        (10, 10, 1 << 40, OVERFLOW, 0xFFFFFFFF, 10),
    ],
)
def test_residuals_of_a_read(expected: int, data: int, wanted: int, flags: int, residual: int, sent: int) -> None:
    with Peer() as peer:
        peer.connection.respond(read_command(peer, expected), GOOD, b"", pattern(data), wanted)
        answers = read_until_status(peer)
        assert b"".join(answer.data for answer in answers) == (pattern(data)[:sent] if sent else b"")
        assert answers[-1].flags & (OVERFLOW | UNDERFLOW) == flags
        assert answers[-1].residual == residual
        assert answers[-1].opcode == (DATA_IN if sent else SCSI_RESPONSE)


@pytest.mark.parametrize(
    "expected, wanted, flags, residual",
    [(1000, -1, 0, 0), (1000, 1000, 0, 0), (1000, 512, UNDERFLOW, 488), (1000, 2048, OVERFLOW, 1048), (0, 512, 4, 512)],
)
def test_residuals_of_a_write(expected: int, wanted: int, flags: int, residual: int) -> None:
    with Peer() as peer:
        peer.send(peer.command(5, expected=expected, data=bytes(expected), write=True))
        peer.connection.respond(peer.next_command(), GOOD, b"", None, wanted)
        answer = peer.read()
        assert (answer.flags & 0x7F, answer.residual) == (flags, residual)


def test_a_command_without_direction_that_wants_data_overflows() -> None:
    with Peer() as peer:
        peer.send(peer.command(5))
        peer.connection.respond(peer.next_command(), GOOD, b"", pattern(36))
        answer = peer.read()
        assert (answer.opcode, answer.flags, answer.residual) == (SCSI_RESPONSE, FINAL | OVERFLOW, 36)


def test_responses_keep_stat_sn_in_the_order_they_were_given() -> None:
    with Peer(stat_sn=0xFFFFFFFE) as peer:
        peer.send(*(peer.command(tag) for tag in (1, 2, 3, 4)))
        commands = [peer.next_command() for _ in range(4)]
        for index in (2, 0, 3, 1):
            peer.connection.respond(commands[index], GOOD)
        answers = [peer.read() for _ in range(4)]
        assert [answer.tag for answer in answers] == [3, 1, 4, 2]
        assert [answer.stat_sn for answer in answers] == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1]


def test_output_waits_for_receive_on_its_own_thread() -> None:
    with Peer() as peer:
        peer.send(peer.command(1), peer.command(2))
        first = peer.next_command()
        peer.connection.respond(first, GOOD)
        assert peer.connection.bytes_out == 0
        second = peer.next_command()
        assert peer.connection.bytes_out == 0, "a whole PDU was buffered"
        peer.connection.respond(second, GOOD)
        assert peer.connection.receive(0) is None
        assert peer.connection.bytes_out == 96


def test_much_output_does_not_wait() -> None:
    with Peer() as peer:
        peer.connection.respond(read_command(peer, 65536), GOOD, b"", bytes(65536))
        assert peer.connection.bytes_out > 65536


def test_send_pdu_fills_in_what_the_engine_owns() -> None:
    with Peer(header_digest=True, data_digest=True) as peer:
        bhs = bytearray(48)
        bhs[0:2] = bytes([TEXT_RESPONSE, 0x80])
        bhs[4:8] = b"\xff" * 4
        bhs[16:20] = b"\0\0\0\x07"
        for text in (b"", b"TargetName=iqn.x\0", pattern(5000)):
            peer.connection.send_pdu(bytes(bhs), text)
        answers = [peer.read() for _ in range(3)]
        assert [answer.data for answer in answers] == [b"", b"TargetName=iqn.x\0", pattern(5000)]
        assert [answer.stat_sn for answer in answers] == [100, 101, 102]
        assert all((a.exp_cmd_sn, a.max_cmd_sn, a.tag, a.bhs[4]) == (10, 17, 7, 0) for a in answers)


def test_a_ping_of_our_own_does_not_use_up_a_stat_sn() -> None:
    with Peer() as peer:
        ping = bytearray(48)
        ping[0:2] = bytes([NOP_IN, 0x80])
        ping[16:20] = b"\xff" * 4
        answer = bytearray(ping)
        answer[16:20] = b"\0\0\0\x01"
        for bhs in (ping, answer, ping):
            peer.connection.send_pdu(bhs)
        assert [peer.read().stat_sn for _ in range(3)] == [100, 100, 101]


def test_more_output_than_one_batch_holds() -> None:
    with Peer(max_send_data_segment_length=512) as peer:
        command = read_command(peer, 600_000)
        stream = bytearray()

        def drain() -> None:
            while len(stream) < 600_000 + 48 * -(-600_000 // 512):
                stream.extend(peer.socket.recv(1 << 16))

        reader = threading.Thread(target=drain)
        reader.start()
        peer.connection.respond(command, GOOD, b"", pattern(600_000))
        peer.connection.flush()
        reader.join()
        payload = b"".join(stream[at + 48 : at + 560] for at in range(0, len(stream), 560))
        assert payload == pattern(600_000)


def test_a_segment_length_declared_later_holds_from_then_on() -> None:
    with Peer(max_send_data_segment_length=512) as peer:
        for declared in (1024, 513, 1 << 20):
            peer.connection.set_max_send_data_segment_length(declared)
            peer.connection.respond(read_command(peer, 1500), GOOD, b"", pattern(1500))
            peer.connection.flush()
            lengths = [len(answer.data) for answer in read_until_status(peer)]
            assert (max(lengths), sum(lengths)) == (min(declared, 1500), 1500)
        for refused in (511, 1 << 24):
            with pytest.raises(ValueError, match="512 to 16777215"):
                peer.connection.set_max_send_data_segment_length(refused)
        with pytest.raises(OverflowError):
            peer.connection.set_max_send_data_segment_length(-1)


def test_what_respond_refuses() -> None:
    with Peer() as peer, Peer() as other:
        peer.send(peer.command(1))
        command = peer.next_command()
        with pytest.raises(ValueError, match="another connection"):
            other.connection.respond(command, GOOD)
        with pytest.raises(ValueError, match="status"):
            peer.connection.respond(command, 256)
        with pytest.raises(ValueError, match="253"):
            peer.connection.respond(command, CHECK_CONDITION, bytes(253))
        with pytest.raises(TypeError):
            peer.connection.respond(command)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            peer.connection.respond(command, GOOD, "sense")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'colour'"):
            peer.connection.respond(command, GOOD, colour=1)  # type: ignore[call-arg]
        peer.connection.respond(command, status=GOOD, data_length=0)
        with pytest.raises(ValueError, match="already"):
            peer.connection.respond(command, GOOD)
        assert peer.read().opcode == SCSI_RESPONSE
        assert peer.silent()


def test_what_send_pdu_refuses() -> None:
    with Peer() as peer:
        with pytest.raises(ValueError, match="47"):
            peer.connection.send_pdu(bytes(47))
        with pytest.raises(ValueError, match="8193"):
            peer.connection.send_pdu(bytes(48), bytes(8193))
        assert peer.silent()


def test_answering_a_closed_connection() -> None:
    with Peer() as peer:
        peer.send(peer.command(1), peer.command(2), peer.request(NOP_OUT))
        first, second = peer.next_command(), peer.next_command()
        peer.connection.shutdown()
        with pytest.raises(ConnectionClosed, match="shutdown"):
            peer.connection.respond(first, GOOD, b"", bytes(10_000))
        with pytest.raises(ConnectionClosed, match="shutdown"):
            peer.connection.respond(second, GOOD)
        with pytest.raises(ConnectionClosed):
            peer.connection.send_pdu(bytes(48))
        with pytest.raises(ConnectionClosed):
            peer.connection.flush()
        with pytest.raises(ConnectionClosed):
            peer.connection.receive()
