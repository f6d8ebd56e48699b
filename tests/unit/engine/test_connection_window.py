"""CmdSN: the command window, gaps, duplicates, immediate requests (RFC 7143 4.2.2.1), and abort()."""

import random

import pytest

from datamover.engine import Pdu, ScsiCommand

from .peer import NOP_IN, NOP_OUT, R2T, REJECT, SCSI_RESPONSE, TASK_MANAGEMENT, TEXT, Peer


def tags(peer: Peer, count: int) -> list[int]:
    return [peer.next().initiator_task_tag for _ in range(count)]


@pytest.mark.parametrize("start", [10, 0, 0x7FFFFFFE, 0xFFFFFFFD])
def test_the_window_closes_as_commands_are_outstanding_and_each_answer_opens_it(start: int) -> None:
    with Peer(exp_cmd_sn=start, command_window=3) as peer:
        peer.send(*(peer.command(tag) for tag in (1, 2, 3)))
        commands = [peer.next_command() for _ in range(3)]
        peer.send(peer.command(4))  # CmdSN = MaxCmdSN + 1: ignored silently
        peer.cmd_sn = commands[2].cmd_sn
        peer.take_cmd_sn()
        peer.nothing()
        for index, command in enumerate(commands):
            peer.connection.respond(command, 0)
            answer = peer.read()
            assert answer.exp_cmd_sn == (start + 3) & 0xFFFFFFFF
            assert answer.max_cmd_sn == (start + 3 + index) & 0xFFFFFFFF
        peer.send(*(peer.command(tag) for tag in (5, 6, 7)))
        assert tags(peer, 3) == [5, 6, 7]


@pytest.mark.parametrize("offset", [-1, -2, -(1 << 31), 8, 9, 1 << 30])
def test_a_command_outside_the_window_is_ignored_with_its_data(offset: int) -> None:
    with Peer(initial_r2t=False) as peer:
        peer.send(peer.command(1, cmd_sn=10 + offset, expected=2000, data=bytes(1000), write=True, final=False))
        peer.send(peer.data_out(1, bytes(1000), offset=1000))
        peer.send(peer.request(TEXT, immediate=False, cmd_sn=10 + offset, data=b"x=y\0"))
        peer.nothing()
        assert peer.silent()
        peer.send(peer.command(2))
        assert tags(peer, 1) == [2]


@pytest.mark.parametrize("seed", range(10))
def test_commands_come_in_cmd_sn_order_whatever_order_they_arrived_in(seed: int) -> None:
    with Peer(command_window=16) as peer:
        order = list(range(16))
        random.Random(seed).shuffle(order)
        peer.send(*(peer.command(100 + place, cmd_sn=10 + place) for place in order))
        assert tags(peer, 16) == [100 + place for place in range(16)]


def test_a_gap_holds_what_is_behind_it() -> None:
    with Peer() as peer:
        peer.send(peer.command(2, cmd_sn=11), peer.command(3, cmd_sn=12))
        peer.send(peer.request(TASK_MANAGEMENT, tag=4, immediate=False, cmd_sn=13))
        peer.nothing()
        peer.send(peer.command(1, cmd_sn=10))
        assert tags(peer, 4) == [4, 1, 2, 3], "task management goes ahead of commands"


def test_duplicates_are_ignored_silently() -> None:
    with Peer() as peer:
        peer.send(*(peer.command(tag, cmd_sn=12) for tag in (7, 8, 9)))
        peer.send(peer.command(6, cmd_sn=11), peer.command(5, cmd_sn=10), peer.command(4, cmd_sn=10))
        assert tags(peer, 3) == [5, 6, 7]
        peer.nothing()
        assert peer.silent()


def test_a_window_of_one() -> None:
    with Peer(command_window=1) as peer:
        for tag in range(5):
            peer.send(peer.command(tag))
            peer.connection.respond(peer.next_command(), 0)
            answer = peer.read()
            assert answer.max_cmd_sn == answer.exp_cmd_sn


def test_another_pdu_keeps_its_place_only_until_it_is_handed_out() -> None:
    with Peer(command_window=1) as peer:
        for tag in range(5):
            peer.send(peer.request(TEXT, tag=tag, immediate=False))
            assert tags(peer, 1) == [tag]


def test_immediate_requests_pass_by_a_closed_window_and_data_still_to_come() -> None:
    with Peer(command_window=1) as peer:
        peer.send(peer.command(1, expected=100, write=True))
        assert peer.read().opcode == R2T
        peer.send(peer.command(2, immediate=True), peer.request(TASK_MANAGEMENT, tag=3), peer.request(NOP_OUT, tag=4))
        assert tags(peer, 3) == [2, 3, 4]


def test_immediate_commands_gather_data_too() -> None:
    with Peer() as peer:
        peer.send(peer.command(1, expected=100, write=True, immediate=True), peer.command(2))
        r2t = peer.read()
        assert tags(peer, 1) == [2]
        peer.send(peer.data_out(1, b"i" * 100, ttt=r2t.target_transfer_tag))
        command = peer.next_command()
        assert command.immediate and command.data_out is not None and bytes(command.data_out) == b"i" * 100


def test_too_many_immediate_commands_are_rejected() -> None:
    with Peer() as peer:
        peer.send(*(peer.command(tag, immediate=True) for tag in range(65)))
        commands = [peer.next_command() for _ in range(64)]
        reject = peer.read()
        assert (reject.opcode, reject.bhs[2], int.from_bytes(reject.data[16:20], "big")) == (REJECT, 0x06, 64)
        peer.connection.respond(commands[0], 0)
        peer.send(peer.command(64, immediate=True))
        assert tags(peer, 1) == [64]


def test_a_rejected_command_leaves_a_gap() -> None:
    # RFC 7143 7.3: the CmdSN of a rejected PDU must not be considered received.
    with Peer(data_digest=True) as peer:
        pdu = peer.command(1, expected=100, data=bytes(100), write=True)
        peer.send(pdu[:-1] + b"\xff", peer.command(2))
        reject = peer.read()
        assert (reject.opcode, reject.bhs[2], reject.exp_cmd_sn) == (REJECT, 0x02, 10)
        peer.nothing()
        peer.send(pdu)
        assert tags(peer, 2) == [1, 2]


def test_plug_fills_a_gap() -> None:
    with Peer() as peer:
        peer.send(peer.command(3, cmd_sn=12), peer.command(2, cmd_sn=11))
        peer.nothing()
        assert not peer.connection.plug(11), "it came"
        assert not peer.connection.plug(9)
        assert not peer.connection.plug(18)
        assert peer.connection.plug(13)
        assert not peer.connection.plug(13)
        assert peer.connection.plug(10)
        assert tags(peer, 2) == [2, 3]
        peer.send(peer.command(4, cmd_sn=13), peer.command(5, cmd_sn=14))
        assert tags(peer, 1) == [5], "the plugged CmdSN counts as received"


# ---- discard() and abort() ------------------------------------------------------------------------------------------


def test_a_discarded_command_is_never_answered_and_a_closed_window_is_announced() -> None:
    with Peer(command_window=2) as peer:
        peer.send(peer.command(1), peer.command(2))
        first, second = peer.next_command(), peer.next_command()
        peer.connection.discard(first)
        nop_in = peer.read()
        assert (nop_in.opcode, nop_in.tag, nop_in.target_transfer_tag) == (NOP_IN, 0xFFFFFFFF, 0xFFFFFFFF)
        assert (nop_in.exp_cmd_sn, nop_in.max_cmd_sn, nop_in.stat_sn) == (12, 12, 100)
        peer.connection.respond(first, 0)
        peer.connection.discard(first)
        peer.connection.respond(second, 0)
        answer = peer.read()
        assert (answer.opcode, answer.tag, answer.stat_sn) == (SCSI_RESPONSE, 2, 100)
        peer.connection.discard(second)
        assert peer.silent()


def test_a_command_that_dies_unanswered_gives_its_place_back() -> None:
    with Peer(command_window=1) as peer:
        peer.send(peer.command(1))
        command: ScsiCommand | Pdu | None = peer.next_command()
        del command
        assert peer.read().opcode == NOP_IN
        peer.send(peer.command(1))
        assert tags(peer, 1) == [1]


def waiting_commands(peer: Peer) -> dict[int, int]:
    """Two commands whose data are still to come, one whole behind them, one behind a gap, one immediate. Returns the
    Target Transfer Tags of the R2Ts by task tag."""
    peer.send(
        peer.command(1, expected=1000, write=True, lun=1 << 48),
        peer.command(2, expected=1000, write=True),
        peer.command(3, lun=1 << 48),
        peer.command(5, cmd_sn=14, lun=1 << 48),
        peer.command(6, expected=1000, write=True, immediate=True, lun=1 << 48),
    )
    peer.cmd_sn = 13
    r2ts = [peer.read() for _ in range(3)]
    assert {r2t.opcode for r2t in r2ts} == {R2T}
    peer.nothing()
    return {r2t.tag: r2t.target_transfer_tag for r2t in r2ts}


@pytest.mark.parametrize(
    "criteria, dropped",
    [
        ({}, {1, 2, 3, 5, 6}),
        ({"initiator_task_tag": 2}, {2}),
        ({"initiator_task_tag": 5}, {5}),
        ({"initiator_task_tag": 77}, set()),
        ({"lun": 1 << 48}, {1, 3, 5, 6}),
        ({"lun": 2 << 48}, set()),
        ({"lun": 1 << 48, "before_cmd_sn": 12}, {1}),
        ({"before_cmd_sn": 13}, {1, 2, 3}),
        ({"initiator_task_tag": None, "lun": None, "before_cmd_sn": None}, {1, 2, 3, 5, 6}),
    ],
)
def test_abort_drops_what_matches(criteria: dict[str, int], dropped: set[int]) -> None:
    with Peer(command_window=8) as peer:
        transfer_tags = waiting_commands(peer)
        assert set(peer.connection.abort(**criteria)) == dropped
        late = sorted({1, 2, 6} & dropped)
        peer.send(*(peer.data_out(tag, bytes(1000), ttt=transfer_tags[tag]) for tag in late))
        peer.nothing()
        assert peer.silent(), "Data-Out on its way for a dropped command is ignored"
        held = sum(4096 for tag in (1, 2, 6) if tag not in dropped)
        assert peer.pool.in_use_bytes == held
        if {1, 2} <= dropped:
            peer.send(peer.command(4, cmd_sn=13), peer.command(7, cmd_sn=15))
            expected = [tag for tag in (3, 4, 5, 7) if tag not in dropped]
            assert tags(peer, len(expected)) == expected, "CmdSN of dropped commands count as received"


def test_abort_while_the_data_are_being_received() -> None:
    with Peer(initial_r2t=False) as peer:
        peer.send(peer.command(1, expected=3000, write=True, final=False))
        pdu = peer.data_out(1, bytes(3000))
        peer.send(pdu[:2000])
        assert peer.taken_in() == []
        assert peer.connection.abort(initiator_task_tag=1) == [1]
        assert peer.pool.in_use_bytes > 0, "receive() may be writing there"
        peer.send(pdu[2000:], peer.command(1))
        assert tags(peer, 1) == [1]
        assert peer.pool.in_use_bytes == 0


def test_abort_lets_a_later_command_go() -> None:
    with Peer() as peer:
        peer.send(peer.command(1, expected=1000, write=True), peer.command(2))
        peer.read()
        peer.nothing()
        peer.connection.abort(initiator_task_tag=1)
        assert tags(peer, 1) == [2]


def test_what_abort_and_plug_refuse() -> None:
    with Peer() as peer:
        with pytest.raises(TypeError):
            peer.connection.abort(1)  # type: ignore[misc]
        with pytest.raises(TypeError):
            peer.connection.abort(lun="0")  # type: ignore[arg-type]
        with pytest.raises(OverflowError):
            peer.connection.abort(initiator_task_tag=-1)
        with pytest.raises(TypeError):
            peer.connection.plug("1")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            peer.connection.discard("1")  # type: ignore[arg-type]
