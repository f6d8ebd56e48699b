"""What a connection leaves when it ends: the numbers that would have come next, or that something was not answered."""

import pytest

from datamover.engine import ConnectionClosed

from .peer import NOP_OUT, Peer


def ended(peer: Peer) -> tuple[int, int] | None:
    """The peer hangs up, and the engine has noticed."""
    peer.socket.close()
    with pytest.raises(ConnectionClosed):
        peer.connection.receive(60)
    return peer.connection.settled()


def test_nothing_is_said_of_a_connection_that_lives() -> None:
    with Peer() as peer:
        assert peer.connection.settled() is None


@pytest.mark.parametrize("start", [(100, 10), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_the_numbers_that_would_have_come_next(start: tuple[int, int]) -> None:
    with Peer(stat_sn=start[0], exp_cmd_sn=start[1]) as peer:
        peer.send(peer.command(1), peer.command(2))
        for _ in range(2):
            peer.connection.respond(peer.next_command(), 0)
        peer.connection.flush()
        assert peer.read().stat_sn == start[0]
        assert peer.read().stat_sn == (start[0] + 1) & 0xFFFFFFFF
        assert ended(peer) == ((start[0] + 2) & 0xFFFFFFFF, (start[1] + 2) & 0xFFFFFFFF)


def test_an_answer_that_was_not_sent_has_taken_its_number() -> None:
    with Peer(stat_sn=100) as peer:
        peer.send(peer.command(1))
        peer.connection.respond(peer.next_command(), 0)
        peer.connection.shutdown()
        assert peer.connection.settled() == (101, 11)


def test_a_command_in_hand_is_not_answered_whatever_comes_of_it_later() -> None:
    with Peer() as peer:
        peer.send(peer.command(1))
        command = peer.next_command()
        peer.connection.shutdown()
        with pytest.raises(ConnectionClosed):
            peer.connection.respond(command, 0)
        assert peer.connection.settled() is None


def test_one_of_two_commands_is_not_answered() -> None:
    with Peer() as peer:
        peer.send(peer.command(1) + peer.command(2))
        peer.connection.respond(peer.next_command(), 0)
        second = peer.next_command()
        peer.connection.flush()
        assert peer.read().status == 0
        peer.connection.shutdown()
        assert peer.connection.settled() is None, second


def test_a_command_behind_a_gap_is_not_answered() -> None:
    with Peer() as peer:
        peer.send(peer.command(1, cmd_sn=11))
        peer.nothing()
        assert ended(peer) is None


def test_a_command_whose_data_is_awaited_is_not_answered() -> None:
    with Peer(initial_r2t=True, immediate_data=False) as peer:
        peer.send(peer.command(1, expected=1000, write=True))
        peer.nothing()
        assert ended(peer) is None


def test_a_command_of_which_half_has_come_is_not_answered() -> None:
    with Peer() as peer:
        peer.send(peer.command(1, expected=1000, data=bytes(1000), write=True)[:500])
        peer.socket.shutdown(1)
        with pytest.raises(ConnectionClosed):
            peer.connection.receive(60)
        assert peer.connection.settled() is None


def test_pdus_that_are_no_commands_leave_nothing() -> None:
    with Peer(stat_sn=7, exp_cmd_sn=10) as peer:
        peer.send(peer.request(NOP_OUT, tag=3))
        peer.next_pdu()
        assert ended(peer) == (7, 10)
