"""Data-Out: unsolicited, solicited by R2T, in every negotiated combination, and all that can be wrong with it."""

import random

import pytest

from datamover import engine
from datamover.engine import ScsiCommand

from .peer import R2T, REJECT, RESERVED_TAG, SCSI_RESPONSE, Answer, Peer

FIRST_BURST, MAX_BURST, SEGMENT = 4096, 16384, 2048


def pattern(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def small_bursts(**options: object) -> Peer:
    return Peer(
        **{
            "first_burst_length": FIRST_BURST,
            "max_burst_length": MAX_BURST,
            "max_recv_data_segment_length": SEGMENT,
            **options,
        }
    )


def sequence(peer: Peer, tag: int, data: bytes, offset: int, ttt: int, lun: int = 0) -> bytes:
    """The Data-Out PDUs of one sequence, each as long as the target takes."""
    starts = range(0, len(data), SEGMENT)
    return b"".join(
        peer.data_out(
            tag,
            data[at : at + SEGMENT],
            offset=offset + at,
            data_sn=data_sn,
            ttt=ttt,
            final=at + SEGMENT >= len(data),
            lun=lun,
        )
        for data_sn, at in enumerate(starts)
    )


def answer_r2t(peer: Peer, r2t: Answer, data: bytes) -> None:
    assert r2t.opcode == R2T
    lun = int.from_bytes(r2t.bhs[8:16], "big")
    piece = data[r2t.offset : r2t.offset + r2t.length]
    peer.send(sequence(peer, r2t.tag, piece, r2t.offset, r2t.target_transfer_tag, lun))


def whole(command: ScsiCommand, data: bytes) -> None:
    assert command.data_error == engine.DATA_ERROR_NONE
    assert command.data_out is not None and bytes(command.data_out) == data


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("immediate_data", [False, True])
@pytest.mark.parametrize("initial_r2t", [False, True])
@pytest.mark.parametrize("length", [1, 2048, 4095, 4096, 4097, 16384, 50_001])
def test_a_write_in_every_negotiated_combination(
    length: int, initial_r2t: bool, immediate_data: bool, digests: bool
) -> None:
    options = {"initial_r2t": initial_r2t, "immediate_data": immediate_data}
    with small_bursts(header_digest=digests, data_digest=digests, **options) as peer:
        data = pattern(length)
        unsolicited = min(FIRST_BURST, length) if not initial_r2t else 0
        immediate = min(SEGMENT, FIRST_BURST, length) if immediate_data else 0
        more = unsolicited > immediate
        peer.send(peer.command(3, expected=length, data=data[:immediate], write=True, final=not more, lun=1 << 48))
        if more:
            peer.send(sequence(peer, 3, data[immediate:unsolicited], immediate, 0xFFFFFFFF))
        position, r2t_sn = max(immediate, unsolicited), 0
        while position < length:
            r2t = peer.read()
            assert (r2t.opcode, r2t.tag, r2t.offset, r2t.data_sn) == (R2T, 3, position, r2t_sn)
            assert r2t.length == min(MAX_BURST, length - position)
            assert (r2t.stat_sn, r2t.bhs[8:16]) == (100, b"\0\x01" + bytes(6))
            answer_r2t(peer, r2t, data)
            position += r2t.length
            r2t_sn += 1
        command = peer.next_command()
        whole(command, data)
        peer.connection.respond(command, 0)
        response = peer.read()
        assert (response.opcode, response.stat_sn, response.data_sn) == (SCSI_RESPONSE, 100, 0)


@pytest.mark.parametrize("outstanding", [1, 3])
def test_r2ts_of_one_command_keep_to_max_outstanding_r2t(outstanding: int) -> None:
    with small_bursts(max_outstanding_r2t=outstanding) as peer:
        data = pattern(5 * MAX_BURST)
        peer.send(peer.command(3, expected=len(data), write=True))
        waiting = [peer.read() for _ in range(outstanding)]
        peer.nothing()
        assert peer.silent()
        requested = outstanding
        while waiting:
            answer_r2t(peer, waiting.pop(0), data)
            if requested < 5:
                waiting.append(peer.read())
                requested += 1
        whole(peer.next_command(), data)


def test_data_of_several_commands_interleave() -> None:
    with small_bursts(initial_r2t=True) as peer:
        first, second = pattern(30_000), pattern(20_000)
        peer.send(peer.command(1, expected=len(first), write=True))
        peer.send(peer.command(2, expected=len(second), write=True))
        peer.send(peer.command(3, expected=100, data=bytes(100), write=True))
        for r2t in (peer.read(), peer.read()):
            answer_r2t(peer, r2t, {1: first, 2: second}[r2t.tag])
        for r2t in (peer.read(), peer.read()):
            answer_r2t(peer, r2t, {1: first, 2: second}[r2t.tag])
        commands = [peer.next_command() for _ in range(3)]
        assert [command.initiator_task_tag for command in commands] == [1, 2, 3], "in CmdSN order"
        whole(commands[0], first)
        whole(commands[1], second)


def test_an_empty_final_data_out_ends_a_sequence() -> None:
    with small_bursts(initial_r2t=False) as peer:
        data = pattern(1000)
        peer.send(peer.command(1, expected=1000, write=True, final=False))
        peer.send(peer.data_out(1, data, final=False), peer.data_out(1, b"", offset=1000, data_sn=1))
        whole(peer.next_command(), data)


def test_r2t_asks_for_what_a_short_unsolicited_burst_left() -> None:
    with small_bursts(initial_r2t=False) as peer:
        data = pattern(3000)
        peer.send(peer.command(1, expected=3000, write=True, final=False), peer.data_out(1, data[:1000]))
        r2t = peer.read()
        assert (r2t.offset, r2t.length) == (1000, 2000)
        answer_r2t(peer, r2t, data)
        whole(peer.next_command(), data)


# ---- what can be wrong: the command is handed out with data_error, after all the data under way -------------------


def failed(peer: Peer, error: int) -> None:
    command = peer.next_command()
    assert (command.data_error, command.data_out) == (error, None)
    peer.connection.respond(command, 2, b"\x72" + bytes(7))
    response = peer.read()
    assert (response.opcode, response.status, response.tag) == (SCSI_RESPONSE, 2, command.initiator_task_tag)
    assert peer.pool.in_use_bytes == 0
    peer.send(peer.command(99))
    assert peer.next_command().initiator_task_tag == 99, "the connection goes on"


@pytest.mark.parametrize("numbers", [(0, 0), (27, 27), (0xFFFFFFFF, 0), (1, 0), (0, 2)])
def test_wrong_data_sn(numbers: tuple[int, int]) -> None:
    with small_bursts(initial_r2t=False) as peer:
        peer.send(peer.command(1, expected=4096, write=True, final=False))
        peer.send(peer.data_out(1, bytes(2048), data_sn=numbers[0], final=False))
        peer.nothing()
        peer.send(peer.data_out(1, bytes(2048), data_sn=numbers[1], offset=2048))
        failed(peer, engine.DATA_ERROR_SEQUENCE)


@pytest.mark.parametrize("offset", [1, 2048, 0xFFFFFFFF])
def test_wrong_offset(offset: int) -> None:
    with small_bursts() as peer:
        peer.send(peer.command(1, expected=1024, write=True))
        ttt = peer.read().target_transfer_tag
        peer.send(peer.data_out(1, bytes(1024), ttt=ttt, offset=offset))
        failed(peer, engine.DATA_ERROR_SEQUENCE)


@pytest.mark.parametrize("length", [1020, 1028, 2048])
def test_an_r2t_answered_with_less_or_more(length: int) -> None:
    with small_bursts() as peer:
        peer.send(peer.command(1, expected=1024, write=True))
        peer.send(peer.data_out(1, bytes(length), ttt=peer.read().target_transfer_tag))
        failed(peer, engine.DATA_ERROR_AMOUNT)


@pytest.mark.parametrize("length", [2000, 4096])
def test_unsolicited_data_that_are_not_first_burst_length(length: int) -> None:
    with small_bursts(initial_r2t=False, max_recv_data_segment_length=8192) as peer:
        peer.send(peer.command(1, expected=8192, data=bytes(2048), write=True, final=False))
        peer.send(peer.data_out(1, bytes(length), offset=2048))
        failed(peer, engine.DATA_ERROR_AMOUNT)


def test_immediate_data_beyond_first_burst_length() -> None:
    with small_bursts(max_recv_data_segment_length=8192) as peer:
        peer.send(peer.command(1, expected=8192, data=bytes(FIRST_BURST + 4), write=True))
        failed(peer, engine.DATA_ERROR_AMOUNT)


@pytest.mark.parametrize("expected", [0, 99])
def test_immediate_data_beyond_the_expected_length(expected: int) -> None:
    with small_bursts() as peer:
        peer.send(peer.command(1, expected=expected, data=bytes(100), write=True))
        failed(peer, engine.DATA_ERROR_AMOUNT)


def test_immediate_data_that_were_not_negotiated() -> None:
    with small_bursts(immediate_data=False) as peer:
        peer.send(peer.command(1, expected=100, data=bytes(100), write=True))
        failed(peer, engine.DATA_ERROR_UNEXPECTED)


def test_unsolicited_data_that_were_not_negotiated() -> None:
    with small_bursts(initial_r2t=True) as peer:
        peer.send(peer.command(1, expected=100, write=True, final=False))
        peer.nothing()
        peer.send(peer.data_out(1, bytes(100)))
        failed(peer, engine.DATA_ERROR_UNEXPECTED)


def test_a_transfer_over_the_limit_is_handed_out_without_asking_for_data() -> None:
    with small_bursts() as peer:
        peer.send(peer.command(1, expected=engine.LIMIT_TRANSFER_BYTES + 1, data=bytes(512), write=True))
        failed(peer, engine.DATA_ERROR_TOO_LARGE)
        assert peer.connection.pdus_out == 1


def test_the_largest_transfer() -> None:
    with Peer() as peer:
        data = random.Random(0).randbytes(engine.LIMIT_TRANSFER_BYTES)
        peer.send(peer.command(1, expected=len(data), write=True))
        for _ in range(len(data) // 262_144):
            r2t = peer.read()
            for at in range(0, r2t.length, 65536):
                start = r2t.offset + at
                piece = data[start : start + 65536]
                ttt = r2t.target_transfer_tag
                final = at + 65536 >= r2t.length
                peer.send(peer.data_out(1, piece, offset=start, data_sn=at // 65536, ttt=ttt, final=final))
                assert peer.taken_in() == [] or final, "so that the socket never fills up"
        assert peer.connection.commands == 1


def damaged(pdu: bytes) -> bytes:
    return pdu[:-1] + bytes([pdu[-1] ^ 1])


def test_a_data_digest_error_rejects_the_pdu_and_fails_the_command_once_all_data_came() -> None:
    with small_bursts(data_digest=True, max_outstanding_r2t=2) as peer:
        data = pattern(2 * MAX_BURST)
        peer.send(peer.command(1, expected=len(data), write=True))
        first, second = peer.read(), peer.read()
        pdus = sequence(peer, 1, data[:MAX_BURST], 0, first.target_transfer_tag)
        one = len(peer.data_out(1, bytes(SEGMENT)))
        peer.send(damaged(pdus[:one]), pdus[one:])
        reject = peer.read()
        assert (reject.opcode, reject.bhs[2], reject.tag, reject.stat_sn) == (REJECT, 0x02, 0xFFFFFFFF, 100)
        assert reject.data == pdus[:48], "the header of the rejected PDU"
        peer.nothing()
        answer_r2t(peer, second, data)
        failed(peer, engine.DATA_ERROR_DIGEST)


def test_damaged_padding_is_a_digest_error_too() -> None:
    with small_bursts(data_digest=True) as peer:
        peer.send(peer.command(1, expected=5, write=True))
        pdu = bytearray(peer.data_out(1, b"abcde", ttt=peer.read().target_transfer_tag))
        pdu[48 + 7] = 1
        peer.send(bytes(pdu))
        assert peer.read().opcode == REJECT
        failed(peer, engine.DATA_ERROR_DIGEST)


def test_a_target_transfer_tag_that_was_never_given_out_is_rejected_and_ignored() -> None:
    with small_bursts() as peer:
        peer.send(peer.command(1, expected=1000, write=True))
        r2t = peer.read()
        stray = peer.data_out(1, bytes(1000), ttt=r2t.target_transfer_tag + 1)
        unsolicited = peer.data_out(1, bytes(1000))
        other_lun = peer.data_out(1, bytes(1000), ttt=r2t.target_transfer_tag, lun=1 << 48)
        for pdu in (stray, unsolicited, other_lun):
            peer.send(pdu)
            reject = peer.read()
            assert (reject.opcode, reject.bhs[2], reject.data) == (REJECT, 0x09, pdu[:48])
        answer_r2t(peer, r2t, pattern(1000))
        whole(peer.next_command(), pattern(1000))


@pytest.mark.parametrize("ttt", [RESERVED_TAG, 0, 1, 5])
def test_data_out_that_nobody_asked_for_are_rejected(ttt: int) -> None:
    with small_bursts() as peer:
        pdu = peer.data_out(77, bytes(2048), ttt=ttt)
        peer.send(pdu)
        reject = peer.read()
        assert (reject.opcode, reject.bhs[2], reject.data) == (REJECT, 0x09, pdu[:48])
        peer.nothing()
        assert peer.silent()


def test_late_data_out_are_ignored_once() -> None:
    """What was under way when its command was dropped, until its F bit; then the Target Transfer Tag is unknown."""
    with small_bursts() as peer:
        peer.send(peer.command(1, expected=2 * SEGMENT, write=True))
        ttt = peer.read().target_transfer_tag
        assert peer.connection.abort(initiator_task_tag=1) == [1]
        peer.send(peer.data_out(1, bytes(SEGMENT), ttt=ttt, final=False), peer.data_out(1, bytes(SEGMENT), ttt=ttt))
        peer.nothing()
        assert peer.silent()
        peer.send(peer.data_out(1, bytes(SEGMENT), ttt=ttt))
        assert peer.read().opcode == REJECT


def test_the_unsolicited_burst_of_a_rejected_or_ignored_command_is_ignored() -> None:
    with small_bursts(initial_r2t=False) as peer:
        for command in (
            peer.command(1, expected=2048, write=True, final=False, cmd_sn=1000),  # beyond the window
            peer.command(1, expected=2048, write=True, final=False, ahs=bytes([0, 1, 3, 0])),
        ):
            peer.send(command, peer.data_out(1, bytes(2048)))
        assert peer.read().opcode == REJECT  # of the AHS
        peer.nothing()
        assert peer.silent()


def test_bytes_for_an_aborted_command_cost_no_memory_for_ever() -> None:
    """More is forgotten than is remembered: then late Data-Out is rejected, which harms nobody."""
    with small_bursts(command_window=8) as peer:
        tags = []
        for tag in range(100):
            peer.send(peer.command(tag, expected=2048, write=True))
            tags.append(peer.read().target_transfer_tag)
            assert peer.connection.abort() == [tag]
        peer.send(peer.data_out(0, bytes(2048), ttt=tags[0]))
        assert peer.read().opcode == REJECT
        peer.send(peer.data_out(99, bytes(2048), ttt=tags[99]))
        peer.nothing()
        assert peer.silent()


def test_data_out_for_a_command_that_has_all_its_data_are_rejected() -> None:
    with small_bursts() as peer:
        peer.send(peer.command(1, expected=4, data=b"1234", write=True))
        command = peer.next_command()
        peer.send(peer.data_out(1, b"5678", offset=4))
        assert peer.read().opcode == REJECT
        whole(command, b"1234")


def test_the_later_of_two_r2ts_cannot_be_answered_first() -> None:
    with small_bursts(max_outstanding_r2t=2) as peer:
        data = pattern(2 * MAX_BURST)
        peer.send(peer.command(1, expected=len(data), write=True))
        first, second = peer.read(), peer.read()
        answer_r2t(peer, second, data)
        peer.nothing()
        answer_r2t(peer, first, data)
        failed(peer, engine.DATA_ERROR_SEQUENCE)
