"""Several threads at one connection: answers from workers, shutdown, the lock of receive()."""

import gc
import random
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

import pytest

from datamover.engine import Connection, ConnectionClosed, PoolExhausted, ScsiCommand

from .peer import DATA_IN, SCSI_RESPONSE, Peer

SEED = 42


@contextmanager
def receiving(peer: Peer) -> Iterator[None]:
    """A thread that owns the connection and waits in receive(); what it is handed out is dropped."""

    def wait() -> None:
        with suppress(ConnectionClosed):
            while True:
                peer.connection.receive()

    owner = threading.Thread(target=wait)
    owner.start()
    try:
        yield
    finally:
        peer.connection.shutdown()
        owner.join(60)
        assert not owner.is_alive()


@pytest.mark.parametrize("length", [0, 100, 100_000])
def test_an_answer_from_another_thread_leaves_at_once(length: int) -> None:
    with Peer() as peer:
        peer.send(peer.command(1, expected=length, read=bool(length)))
        command = peer.next_command()
        with receiving(peer):
            peer.connection.respond(command, 0, b"", bytes(length))
            assert peer.socket.recv(48)[0] == (DATA_IN if length else SCSI_RESPONSE)


def test_nobody_but_the_owner_sends() -> None:
    """A worker only leaves its answer: no byte of it moves before the connection's own thread comes by."""
    with Peer() as peer:
        peer.send(peer.command(1), peer.command(2, expected=10, write=True))
        command = peer.next_command()
        assert peer.read().tag == 2

        def work() -> None:
            peer.connection.respond(command, 0)
            peer.connection.flush()
            peer.connection.abort()
            with pytest.raises(RuntimeError, match="only the thread of receive"):
                peer.connection.send_pdu(bytes(48))

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        assert not select.select([peer.socket], [], [], 0)[0]
        assert peer.read().tag == 1


def test_a_peer_that_does_not_read_holds_no_worker() -> None:
    """Its own thread waits for the socket; answers, aborts and discards of others go on, and shutdown() ends it."""
    with Peer(send_timeout_seconds=60.0, command_window=64, max_send_data_segment_length=1 << 20) as peer:
        peer.send(*(peer.command(tag, expected=16 << 20, read=True) for tag in range(3)))
        first, second, third = (peer.next_command() for _ in range(3))
        with receiving(peer):
            peer.connection.respond(first, 0, b"", bytes(16 << 20))
            peer.socket.recv(1)  # the owner has begun to send, and nobody reads on
            peer.connection.respond(second, 0, b"", bytes(16 << 20))
            peer.connection.discard(third)
            peer.connection.abort()
            peer.connection.flush()


def test_wake_lets_receive_return() -> None:
    with Peer() as peer:
        returned: SimpleQueue[object] = SimpleQueue()
        waiter = threading.Thread(target=lambda: returned.put(peer.connection.receive()))
        waiter.start()
        peer.connection.wake()
        assert returned.get(timeout=60) is None
        waiter.join()
        peer.connection.wake()
        peer.send(peer.command(1))
        assert peer.connection.receive(20) is None, "a call is not lost when nobody waits yet"
        assert peer.next_command().initiator_task_tag == 1


def test_when_the_peer_was_heard_is_when_its_last_byte_came() -> None:
    def microseconds() -> int:
        return time.monotonic_ns() // 1000

    begun = microseconds()
    with Peer() as peer:
        made, connection = microseconds(), peer.connection
        assert begun <= connection.heard_at_microseconds <= made
        connection.wake()
        assert connection.receive(60) is None  # called, not heard
        assert connection.heard_at_microseconds <= made
        peer.send(peer.command(1)[:7])  # a part is enough
        assert connection.receive(0) is None
        assert made <= connection.heard_at_microseconds <= microseconds()


def test_answers_that_the_peer_does_not_read_hold_no_more_than_a_share() -> None:
    budget = 2 << 20
    with Peer(buffer_budget_bytes=budget, command_window=16) as peer:
        peer.send(*(peer.command(tag, expected=1 << 20, read=True) for tag in range(3)))
        commands = [peer.next_command() for _ in range(3)]

        def work() -> None:
            for command in commands[:2]:
                peer.connection.respond(command, 0, b"", peer.connection.acquire(1 << 20))
            with pytest.raises(PoolExhausted):
                peer.connection.acquire(1 << 20)

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        assert peer.pool.in_use_bytes == budget
        reader = threading.Thread(target=read_exactly, args=(peer, 2 * (1 << 20)))
        reader.start()
        peer.connection.receive(0)
        reader.join()
        peer.connection.acquire(1 << 20)


def test_answers_that_were_never_sent_give_their_memory_back() -> None:
    peer = Peer()
    pool = peer.pool
    peer.send(peer.command(1, expected=1 << 20, read=True), peer.command(2, expected=8, data=b"handover", write=True))
    reading, writing = peer.next_command(), peer.next_command()

    def work(connection: Connection, *commands: ScsiCommand) -> None:
        connection.respond(commands[0], 0, b"", connection.acquire(1 << 20))
        connection.respond(commands[1], 0, b"", memoryview(bytes(5000)))

    worker = threading.Thread(target=work, args=(peer.connection, reading, writing))
    worker.start()
    worker.join()
    peer.socket.close()
    del peer, reading, writing, worker
    gc.collect()
    assert pool.in_use_bytes == 0


def test_shutdown_wakes_a_blocked_receive() -> None:
    with Peer() as peer:
        errors: SimpleQueue[ConnectionClosed] = SimpleQueue()

        def wait() -> None:
            while errors.empty():
                try:
                    peer.connection.receive()
                except RuntimeError:
                    continue  # the other thread was just looking whether this one is inside
                except ConnectionClosed as error:
                    errors.put(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        while True:  # until it is inside, where a second receive() is refused
            try:
                peer.connection.receive(0)
            except RuntimeError as error:
                assert "another thread" in str(error)
                break
            except ConnectionClosed:
                pytest.fail("nobody has called shutdown() yet")
        peer.connection.shutdown()
        waiter.join(60)
        assert "shutdown" in str(errors.get(timeout=60))


def test_shutdown_wakes_a_blocked_respond() -> None:
    with Peer(send_timeout_seconds=60.0) as peer:
        peer.send(peer.command(1, expected=16 << 20, read=True))
        errors: SimpleQueue[ConnectionClosed] = SimpleQueue()

        def answer() -> None:
            try:
                peer.connection.respond(peer.next_command(), 0, b"", bytes(16 << 20))
            except ConnectionClosed as error:
                errors.put(error)

        worker = threading.Thread(target=answer)
        worker.start()
        peer.socket.recv(1)  # it has begun to send
        peer.connection.shutdown()
        worker.join(60)
        assert "shutdown" in str(errors.get(timeout=60))


def test_abort_from_another_thread_lets_a_waiting_receive_go_on() -> None:
    # A LOGICAL UNIT RESET through another session drops the command whose data the ones behind it wait for.
    with Peer() as peer:
        peer.send(peer.command(1, expected=1000, write=True), peer.command(2))
        peer.read()
        handed_out: SimpleQueue[object] = SimpleQueue()
        waiter = threading.Thread(target=lambda: handed_out.put(peer.connection.receive(20)))
        waiter.start()
        assert peer.connection.abort(initiator_task_tag=1) == [1]
        command = handed_out.get(timeout=60)
        waiter.join()
        assert isinstance(command, ScsiCommand) and command.initiator_task_tag == 2


def test_a_signal_is_seen_while_receive_waits() -> None:
    class Rang(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Rang

    with Peer() as peer:
        before = signal.signal(signal.SIGALRM, ring)
        try:
            with pytest.raises(Rang):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                peer.connection.receive(20)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        peer.send(peer.command(1))
        assert peer.next_command().initiator_task_tag == 1, "and receive() goes on afterwards"


class Workers:
    """Answers each command from a random one of some threads, with its tag in every byte of data."""

    def __init__(self, connection: Connection, count: int) -> None:
        self.queue: SimpleQueue[ScsiCommand | None] = SimpleQueue()
        self.connection = connection
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def work(self, number: int) -> None:
        rng = random.Random(SEED + number)
        while (command := self.queue.get()) is not None:
            length = command.expected_data_transfer_length
            if command.read:
                self.connection.respond(command, 0, b"", bytes([command.initiator_task_tag & 0xFF]) * length)
            elif rng.random() < 0.1:
                self.connection.respond(command, 2, rng.randbytes(18))
            else:
                self.connection.respond(command, 0)

    def stop(self) -> None:
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            thread.join()


def serve(connection: Connection, workers: Workers, results: list[str]) -> None:
    rng = random.Random(SEED)
    try:
        while True:
            command = connection.receive()
            assert isinstance(command, ScsiCommand)
            if command.write and command.data_error:
                results.append(f"command {command.initiator_task_tag}: data error {command.data_error}")
            if rng.random() < 0.3 and not command.read:
                connection.respond(command, 0)
            else:
                workers.queue.put(command)
            del command
    except ConnectionClosed:
        pass


@pytest.mark.parametrize("digests", [False, True])
def test_workers_answer_while_receive_goes_on(digests: bool) -> None:
    total, depth = 1500, 32
    rng = random.Random(SEED)
    with Peer(command_window=depth, header_digest=digests, data_digest=digests) as peer:
        results: list[str] = []
        workers = Workers(peer.connection, 4)
        server = threading.Thread(target=serve, args=(peer.connection, workers, results))
        server.start()
        sent = finished = 0
        stat_sns, lengths, received = [], {}, {}
        peer.exactly = lambda count: read_exactly(peer, count)  # type: ignore[method-assign]
        while finished < total:
            while sent < total and sent - finished < depth:
                lengths[sent] = rng.choice([0, 1, 100, 5000, 40_000])
                kind = rng.choice(["read", "write", "none"]) if lengths[sent] else "none"
                if kind == "write":
                    peer.send(peer.command(sent, expected=lengths[sent], data=bytes(lengths[sent]), write=True))
                else:
                    peer.send(peer.command(sent, expected=lengths[sent], read=kind == "read"))
                received[sent] = 0 if kind == "read" else None
                sent += 1
            answer = peer.read()
            if answer.opcode == DATA_IN:
                assert answer.data == bytes([answer.tag & 0xFF]) * len(answer.data)
                received[answer.tag] += len(answer.data)
            if answer.opcode == SCSI_RESPONSE or answer.flags & 1:
                stat_sns.append(answer.stat_sn)
                assert received[answer.tag] in (None, lengths[answer.tag])
                finished += 1
        workers.stop()
        peer.connection.shutdown()
        server.join()
        assert stat_sns == list(range(100, 100 + total)), "StatSN goes up in the order on the wire"
        assert results == []
        assert peer.connection.commands == total


def read_exactly(peer: Peer, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.socket.recv(count - len(data))
        assert piece
        data += piece
    return data


def test_aborts_race_with_data_that_arrive() -> None:
    """Whatever abort() catches in flight, memory and the window come out even."""
    rng = random.Random(SEED)
    with Peer(initial_r2t=False, command_window=16) as peer:
        stop = threading.Event()

        def abort() -> None:
            while not stop.is_set():
                peer.connection.abort(initiator_task_tag=rng.randrange(16))

        aborter = threading.Thread(target=abort)
        aborter.start()
        handed_out = 0
        for number in range(2000):
            tag = number % 16
            peer.send(
                peer.command(tag, expected=6000, write=True, final=False), peer.data_out(tag, bytes([tag]) * 6000)
            )
            for item in peer.taken_in():
                assert isinstance(item, ScsiCommand)
                handed_out += 1
                assert item.data_out is not None
                assert set(bytes(item.data_out)) == {item.initiator_task_tag}
                peer.connection.respond(item, 0)
                peer.read()
                del item
        stop.set()
        aborter.join()
        assert peer.connection.receive(0) is None
        assert 0 < handed_out <= 2000
        assert peer.pool.in_use_bytes == 0
        peer.cmd_sn = 10 + 2000
        peer.send(*(peer.command(100 + place) for place in range(16)))
        assert [peer.next_command().initiator_task_tag for _ in range(16)] == [100 + place for place in range(16)]
