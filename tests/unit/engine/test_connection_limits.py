"""Bounds: the buffer budget, an exhausted pool, a peer that stops reading."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from datamover import engine
from datamover.engine import BufferPool, Connection, ConnectionClosed, ScsiCommand
from tests.support.waiting import in_time

from .peer import DEFAULTS, R2T, Answer, Peer

KIB = 1024


def data_for(peer: Peer, r2t: Answer) -> bytes:
    assert r2t.opcode == R2T
    return peer.data_out(r2t.tag, bytes(r2t.length), offset=r2t.offset, ttt=r2t.target_transfer_tag)


def tight(**options: object) -> Peer:
    """Room for two transfers of 64 KiB beside a first burst for each of 4 places."""
    return Peer(
        **{
            "first_burst_length": 4 * KIB,
            "max_recv_data_segment_length": 64 * KIB,
            "command_window": 4,
            "buffer_budget_bytes": 144 * KIB,
            **options,
        }
    )


def test_r2ts_wait_for_the_budget_and_go_on_when_commands_are_answered() -> None:
    with tight() as peer:
        peer.send(*(peer.command(tag, expected=64 * KIB, write=True) for tag in (1, 2, 3, 4)))
        first, second = peer.read(), peer.read()
        assert (first.tag, second.tag) == (1, 2)
        peer.nothing()
        assert peer.silent(), "the third waits for memory"
        assert peer.pool.in_use_bytes == 128 * KIB
        peer.send(data_for(peer, first), data_for(peer, second))
        commands = [peer.next_command(), peer.next_command()]
        peer.nothing()
        assert peer.silent(), "what Python holds still counts"
        for command in commands:
            peer.connection.respond(command, 0)
        del command, commands
        answers = [peer.read() for _ in range(4)]
        assert sorted(answer.tag for answer in answers if answer.opcode == R2T) == [3, 4]


def test_the_oldest_command_may_go_over_the_budget_alone() -> None:
    with tight(buffer_budget_bytes=32 * KIB) as peer:
        peer.send(*(peer.command(tag, expected=64 * KIB, write=True) for tag in (1, 2, 3)))
        for tag in (1, 2, 3):
            r2t = peer.read()
            assert r2t.tag == tag
            peer.nothing()
            assert peer.silent()
            assert peer.pool.in_use_bytes == 64 * KIB
            peer.send(data_for(peer, r2t))
            command = peer.next_command()
            peer.nothing()
            assert peer.silent(), "memory that is handed out comes back, so nobody else may go over"
            peer.connection.respond(command, 0)
            assert peer.read().tag == tag
            del command


def test_the_budget_bounds_the_window_by_first_bursts() -> None:
    with tight(first_burst_length=64 * KIB, buffer_budget_bytes=128 * KIB, command_window=4) as peer:
        peer.send(*(peer.command(tag, expected=64 * KIB, data=bytes(64 * KIB), write=True) for tag in (1, 2, 3)))
        commands = [peer.next_command(), peer.next_command()]
        peer.cmd_sn = 12
        peer.nothing()
        peer.connection.respond(commands[0], 0)
        assert (peer.read().max_cmd_sn, peer.pool.in_use_bytes) == (12, 128 * KIB)


@pytest.mark.parametrize("immediate_data", [False, True])
def test_an_exhausted_pool_fails_the_oldest_command_and_nothing_else(immediate_data: bool) -> None:
    with tight() as peer:
        hog = peer.pool.acquire(16 << 20), peer.pool.acquire(16 << 20), peer.pool.acquire(16 << 20)
        rest = peer.pool.acquire(16 << 20)
        data = bytes(4 * KIB) if immediate_data else b""
        peer.send(peer.command(1, expected=64 * KIB, data=data, write=True), peer.command(2))
        command = peer.next_command()
        assert (command.data_error, command.data_out) == (engine.DATA_ERROR_NO_BUFFER, None)
        peer.connection.respond(command, 0x28)
        assert peer.next_command().initiator_task_tag == 2
        assert peer.read().status == 0x28
        del hog, rest
        peer.send(peer.command(3, expected=64 * KIB, write=True))
        assert peer.read().opcode == R2T


def test_r2ts_wait_for_memory_that_another_connection_gives_back() -> None:
    with tight() as peer:
        peer.send(peer.command(1, expected=8, data=b"handover", write=True))
        held: ScsiCommand | None = peer.next_command()
        hog = [peer.pool.acquire(16 << 20) for _ in range(3)]
        hog += [peer.pool.acquire(1 << 20) for _ in range(15)]
        hog += [peer.pool.acquire(512 << 10), peer.pool.acquire(256 << 10), peer.pool.acquire(128 << 10)]
        hog += [peer.pool.acquire(64 << 10)]
        peer.send(peer.command(2, expected=64 * KIB, write=True))
        peer.nothing()
        assert peer.silent(), "the first command's memory may come back, so the second waits"
        del hog
        assert peer.read().tag == 2, "receive() looks for memory again by itself"
        assert held is not None


def test_a_peer_that_stops_reading_is_given_up() -> None:
    with Peer(send_timeout_seconds=0.3, max_send_data_segment_length=65536) as peer:
        peer.send(peer.command(1, expected=16 << 20, read=True))
        command = peer.next_command()
        before = time.monotonic()
        with pytest.raises(ConnectionClosed, match="stopped reading"):
            peer.connection.respond(command, 0, b"", bytes(16 << 20))
        assert time.monotonic() - before < 40
        with pytest.raises(ConnectionClosed, match="stopped reading"):
            peer.connection.receive(5)


def test_a_peer_that_reads_by_drops_is_given_up() -> None:
    stop = threading.Event()
    with Peer(send_timeout_seconds=0.5, max_send_data_segment_length=65536) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def drip() -> None:
            while not stop.wait(0.05):
                peer.socket.recv(100)

        reader = threading.Thread(target=drip)
        reader.start()
        peer.send(peer.command(1, expected=16 << 20, read=True))
        command = peer.next_command()
        try:
            with pytest.raises(ConnectionClosed, match="stopped reading"):
                peer.connection.respond(command, 0, b"", bytes(16 << 20))
        finally:
            stop.set()
            reader.join()


def test_a_send_has_a_time_limit_as_a_whole() -> None:
    """A peer that takes a good deal again and again, and yet never enough, is not waited for."""
    stop = threading.Event()
    with Peer(send_timeout_seconds=0.6, max_send_data_segment_length=1 << 20) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def sip() -> None:
            while not stop.wait(0.2):
                for _ in range(20):
                    peer.socket.recv(4096)

        reader = threading.Thread(target=sip)
        reader.start()
        peer.send(peer.command(1, expected=16 << 20, read=True))
        command = peer.next_command()
        before = time.monotonic()
        try:
            with pytest.raises(ConnectionClosed, match="stopped reading"):
                peer.connection.respond(command, 0, b"", bytes(16 << 20))
        finally:
            stop.set()
            reader.join()
        assert time.monotonic() - before < 25


# ---- data that were asked for and do not come ------------------------------------------------------------------------


def gives_up(peer: Peer) -> None:
    with pytest.raises(ConnectionClosed, match="did not send the data"):
        while True:
            peer.connection.receive(20)


@pytest.mark.parametrize("pings", [False, True])
def test_an_unanswered_r2t_ends_the_connection(pings: bool) -> None:
    with Peer(data_timeout_seconds=0.3) as peer:
        peer.send(peer.command(1, expected=64 * KIB, write=True))
        if pings:  # a peer that is alive otherwise
            peer.send(*(peer.request(0) for _ in range(3)))
        gives_up(peer)
        assert Answer(peer.socket.recv(48), b"").opcode == R2T


def test_an_unsolicited_burst_that_does_not_end_ends_the_connection() -> None:
    with Peer(data_timeout_seconds=0.3, initial_r2t=False) as peer:
        peer.send(peer.command(1, expected=64 * KIB, write=True, final=False))
        gives_up(peer)


def test_a_pdu_that_does_not_end_ends_the_connection() -> None:
    with Peer(data_timeout_seconds=0.3) as peer:
        peer.send(peer.command(1, expected=KIB, data=bytes(KIB), write=True)[:500])
        gives_up(peer)


def test_data_by_drops_end_the_connection() -> None:
    stop = threading.Event()
    with Peer(data_timeout_seconds=0.4) as peer:
        peer.send(peer.command(1, expected=64 * KIB, write=True))

        def drip() -> None:
            pdu = data_for(peer, Answer(peer.socket.recv(48), b""))
            for at in range(len(pdu)):
                if stop.wait(0.02):
                    return
                peer.socket.send(pdu[at : at + 1])

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            gives_up(peer)
        finally:
            stop.set()
            dripping.join()


def test_nothing_is_due_once_the_data_have_come() -> None:
    def stays(seconds: float) -> None:
        with Peer(data_timeout_seconds=seconds) as peer:
            peer.send(peer.command(1, expected=64 * KIB, write=True))
            peer.send(data_for(peer, peer.read()))
            command = peer.next_command()
            assert peer.connection.receive(seconds * 1.5) is None
            peer.connection.respond(command, 0)
            assert peer.read().status == 0

    in_time(stays, ConnectionClosed, (0.5, 5.0, 20.0))


# ---- the share of a connection ---------------------------------------------------------------------------------------


@contextmanager
def hogs(pool: BufferPool, count: int) -> Iterator[None]:
    """Connections that ask for as much as they get, send nothing, and never end by themselves."""
    with ExitStack() as stack:
        for _ in range(count):
            ours, theirs = socket.socketpair()
            options = DEFAULTS | {"command_window": 16, "max_burst_length": (16 << 20) - KIB}
            connection = Connection(ours.detach(), pool, **(options | {"buffer_budget_bytes": 64 << 20}))
            stack.callback(theirs.close)
            stack.callback(connection.shutdown)
            for tag in range(8):
                bhs = struct.pack(">BBxxxxxxQIIII16s", 1, 0xA1, 0, tag, 16 << 20, 10 + tag, 0, bytes(16))
                theirs.sendall(bhs)
            connection.receive(0)
        yield


@pytest.mark.parametrize("count", [1, 18, 60])
def test_connections_that_only_take_leave_memory_for_others(count: int) -> None:
    """A first burst for many, and a whole block for one more."""
    pool = BufferPool(512 << 20)
    with hogs(pool, count), Peer(pool=pool) as large, Peer(pool=pool) as small:
        assert pool.in_use_bytes <= (512 << 20) * 15 // 16
        for tag in range(4):
            small.send(small.command(tag, expected=64 * KIB, data=bytes(64 * KIB), write=True))
            command = small.next_command()
            assert command.data_error == 0
        large.send(large.command(1, expected=8 << 20, write=True))
        assert large.read().opcode == R2T


def test_a_peer_that_only_sends_pings_and_never_reads_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    connection = Connection(ours.detach(), BufferPool(1 << 20), **(DEFAULTS | {"send_timeout_seconds": 0.3}))

    def flood() -> None:
        try:
            while True:
                theirs.sendall(b"\x3f" + bytes(47))
        except OSError:
            return

    with theirs:
        sender = threading.Thread(target=flood)
        sender.start()
        with pytest.raises(ConnectionClosed, match="stopped reading"):
            while True:
                connection.receive(5)
        del connection
        sender.join()


def test_the_memory_of_a_dropped_connection_comes_back() -> None:
    peer = tight()
    pool = peer.pool
    peer.send(*(peer.command(tag, expected=64 * KIB, write=True) for tag in (1, 2, 3)))
    peer.send(peer.command(4, expected=64 * KIB, data=bytes(4 * KIB), write=True)[:2000])
    assert peer.taken_in() == []
    assert pool.in_use_bytes >= 128 * KIB
    peer.socket.close()
    del peer
    assert pool.in_use_bytes == 0
