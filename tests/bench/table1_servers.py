"""The servers of table 1, each a process of its own: `python -m tests.bench.table1_servers ROLE ...`.

Each says "ready" with its port, if it has one, waits for a line, works, and prints as JSON what it took: seconds, its
processor's seconds and the bytes of the backup that came into it.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from datamover.initiator import InitiatorSession, PendingCommand
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.t10 import sbc, ssc
from tests.bench.disk_copy import BLOCK_BYTES
from tests.bench.table1_agent import hot_backup

QUEUE_DEPTH = 4  # of writes to a tape
COMMAND_SECONDS = 600.0
WRITTEN = b"written"


def blocks_of(disk: Disk) -> Iterator[memoryview]:
    """A disk's data, in blocks of the tape."""
    length, (count, block_length) = BLOCK_BYTES, disk.capacity
    step = length // block_length
    cdbs = (sbc.Read16.encode(logical_block_address=at, transfer_length=step) for at in range(0, count, step))
    for data in disk.stream(cdbs, length):
        yield memoryview(data)


def write_tape(tape: Tape, blocks: Iterable[memoryview]) -> int:
    """Blocks and a filemark; durable when it returns. How many bytes."""
    written, waiting = 0, deque[PendingCommand]()

    def settle(most: int) -> None:
        while len(waiting) > most:
            result = tape.session.wait(waiting.popleft(), COMMAND_SECONDS)
            if result.status:
                raise SystemExit(f"WRITE ended with status {result.status:02x}h, sense {result.sense.hex()}")

    for block in blocks:
        cdb = ssc.Write6.encode(transfer_length=len(block))
        waiting.append(tape.session.submit(tape.lun, cdb, block))
        written += len(block)
        settle(QUEUE_DEPTH)
    settle(0)
    tape.write_filemarks()
    return written


def received(connection: socket.socket) -> Iterator[memoryview]:
    """Blocks from the network. A block is a buffer of its own, since it is written while the next one comes."""
    while True:
        block, filled = memoryview(bytearray(BLOCK_BYTES)), 0
        while filled < len(block) and (count := connection.recv_into(block[filled:])):
            filled += count
        if filled:
            yield block[:filled]
        if filled < len(block):
            return


def backup_server(given: argparse.Namespace, session: InitiatorSession) -> Callable[[], int]:
    """Takes a backup from the network and writes it to its drive."""
    tape = ready_tape(session, given.tape)
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)

    def work() -> int:
        connection, _ = listener.accept()
        with connection:
            taken = write_tape(tape, received(connection))
            connection.sendall(WRITTEN)
            return taken

    return work


def application(given: argparse.Namespace, session: InitiatorSession) -> Callable[[], int]:
    """The server whose disk is backed up: to a backup server, or to a drive of its own."""
    disk = Disk(session, given.disk, timeout_seconds=COMMAND_SECONDS)
    size = disk.capacity.size_bytes
    if given.role == "through-a-server":
        host, _, port = given.to.rpartition(":")
        connection = socket.create_connection((host, int(port)))

        def work() -> int:
            for block in blocks_of(disk):
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)
            if connection.recv(len(WRITTEN), socket.MSG_WAITALL) != WRITTEN:
                raise SystemExit("the backup server has not written it")
            return size

    else:
        tape = ready_tape(session, given.tape)

        def work() -> int:
            return write_tape(tape, blocks_of(disk))

    print("ready", flush=True)
    return work


def ready_tape(session: InitiatorSession, lun: int) -> Tape:
    """At its beginning, with variable blocks."""
    tape = Tape(session, lun, timeout_seconds=COMMAND_SECONDS)
    tape.rewind()
    tape.use_variable_blocks()
    return tape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("backup-server", "through-a-server", "lan-free", "server-less"))
    parser.add_argument("--portal", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--initiator", required=True)
    parser.add_argument("--disk", type=int, help="its LUN")
    parser.add_argument("--tape", type=int, help="its LUN")
    parser.add_argument("--to", help="HOST:PORT of the backup server")
    parser.add_argument("--api", help="HOST:PORT of the library's API")
    parser.add_argument("--token", help="for it")
    parser.add_argument("--name", help="the library's of the disk")
    parser.add_argument("--drive", help="the library's of the drive")
    parser.add_argument("--cartridge", help="its barcode")
    given = parser.parse_args()
    with InitiatorSession(
        given.portal, given.target, initiator_name=given.initiator, timeout_seconds=COMMAND_SECONDS
    ) as session:
        roles = {"backup-server": backup_server, "server-less": hot_backup}
        work = roles.get(given.role, application)(given, session)
        sys.stdin.readline()
        began, processor = time.monotonic(), time.process_time()
        taken = work()
        seconds, processor = time.monotonic() - began, time.process_time() - processor
        print(json.dumps({"seconds": seconds, "processor_seconds": processor, "bytes_in": taken}), flush=True)


if __name__ == "__main__":
    main()
