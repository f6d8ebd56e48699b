"""The initiator's end of a connection, for tests: hand-built PDUs, digests by google-crc32c, one thread.

`Peer.next()` and `Peer.read()` drive the engine's receive() themselves, so a test reads as a dialogue and nothing waits
for a clock: `read()` keeps the engine going until its answer has come.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import google_crc32c

from datamover.engine import BufferPool, Connection, Pdu, ScsiCommand

RESERVED_TAG = 0xFFFFFFFF
PATIENCE_SECONDS = 60

NOP_OUT, SCSI_COMMAND, TASK_MANAGEMENT, LOGIN, TEXT, DATA_OUT, LOGOUT, SNACK = 0, 1, 2, 3, 4, 5, 6, 0x10
NOP_IN, SCSI_RESPONSE, TEXT_RESPONSE, DATA_IN, R2T, REJECT = 0x20, 0x21, 0x24, 0x25, 0x31, 0x3F

DEFAULTS: dict[str, Any] = {
    "stat_sn": 100,
    "exp_cmd_sn": 10,
    "header_digest": False,
    "data_digest": False,
    "max_recv_data_segment_length": 65536,
    "max_send_data_segment_length": 8192,
    "first_burst_length": 65536,
    "max_burst_length": 262144,
    "initial_r2t": True,
    "immediate_data": True,
    "max_outstanding_r2t": 1,
    "command_window": 8,
    "buffer_budget_bytes": 16 << 20,
    "send_timeout_seconds": 10.0,
    "data_timeout_seconds": 30.0,
    "discovery": False,
}


def digest(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


@dataclass(frozen=True)
class Answer:
    """A PDU of the target, taken apart."""

    bhs: bytes
    data: bytes

    def word(self, offset: int) -> int:
        return int.from_bytes(self.bhs[offset : offset + 4], "big")

    opcode = property(lambda self: self.bhs[0] & 0x3F)
    flags = property(lambda self: self.bhs[1])
    final = property(lambda self: bool(self.bhs[1] & 0x80))
    status = property(lambda self: self.bhs[3])
    tag = property(lambda self: self.word(16))
    target_transfer_tag = property(lambda self: self.word(20))
    stat_sn = property(lambda self: self.word(24))
    exp_cmd_sn = property(lambda self: self.word(28))
    max_cmd_sn = property(lambda self: self.word(32))
    data_sn = property(lambda self: self.word(36))  # R2TSN, ExpDataSN
    offset = property(lambda self: self.word(40))
    length = property(lambda self: self.word(44))  # of an R2T
    residual = property(lambda self: self.word(44))


class Peer:
    def __init__(self, pool_bytes: int = 64 << 20, pool: BufferPool | None = None, **options: Any) -> None:
        self.options = DEFAULTS | options
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.socket = socket.create_connection(listener.getsockname())
            target, _ = listener.accept()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.pool = pool or BufferPool(pool_bytes)
        self.connection = Connection(target.detach(), self.pool, **self.options)
        self.cmd_sn: int = self.options["exp_cmd_sn"]
        self.sent_bytes = 0
        self.waiting: deque[ScsiCommand | Pdu] = deque()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.clear()
        self.connection.shutdown()
        self.socket.close()

    # ---- building ------------------------------------------------------------------------------------------------

    def pdu(self, bhs: bytes | bytearray, data: bytes = b"", ahs: bytes = b"") -> bytes:
        header = bytearray(bhs)
        header[4] = len(ahs) // 4
        header[5:8] = len(data).to_bytes(3, "big")
        whole = bytes(header) + ahs
        if self.options["header_digest"]:
            whole += digest(whole)
        whole += padded(data)
        if data and self.options["data_digest"]:
            whole += digest(padded(data))
        return whole

    def take_cmd_sn(self, immediate: bool = False) -> int:
        taken = self.cmd_sn
        if not immediate:
            self.cmd_sn = (taken + 1) & 0xFFFFFFFF
        return taken

    def command(
        self,
        tag: int,
        *,
        expected: int = 0,
        data: bytes = b"",
        read: bool = False,
        write: bool = False,
        final: bool = True,
        immediate: bool = False,
        lun: int = 0,
        cdb: bytes = bytes(16),
        attribute: int = 1,
        cmd_sn: int | None = None,
        ahs: bytes = b"",
    ) -> bytes:
        flags = final << 7 | read << 6 | write << 5 | attribute
        if cmd_sn is None:
            cmd_sn = self.take_cmd_sn(immediate)
        opcode = SCSI_COMMAND | immediate << 6
        bhs = struct.pack(">BBxxxxxxQIIII16s", opcode, flags, lun, tag, expected, cmd_sn & 0xFFFFFFFF, 0, cdb)
        return self.pdu(bhs, data, ahs)

    def data_out(
        self,
        tag: int,
        data: bytes,
        *,
        offset: int = 0,
        data_sn: int = 0,
        ttt: int = RESERVED_TAG,
        final: bool = True,
        lun: int = 0,
    ) -> bytes:
        bhs = struct.pack(">BBxxxxxxQIIxxxxIxxxxIIxxxx", DATA_OUT, final << 7, lun, tag, ttt, 0, data_sn, offset)
        return self.pdu(bhs, data)

    def request(
        self, opcode: int, *, tag: int = 1, immediate: bool = True, data: bytes = b"", cmd_sn: int | None = None
    ) -> bytes:
        """NOP-Out, Task Management, Text, Logout: what their fields share."""
        if cmd_sn is None:
            cmd_sn = self.take_cmd_sn(immediate)
        bhs = struct.pack(">BB14xIIII16x", opcode | immediate << 6, 0x80, tag, RESERVED_TAG, cmd_sn & 0xFFFFFFFF, 0)
        return self.pdu(bhs, data)

    def send(self, *pdus: bytes) -> None:
        data = b"".join(pdus)
        self.socket.sendall(data)
        self.sent_bytes += len(data)

    # ---- the dialogue ---------------------------------------------------------------------------------------------

    def next(self) -> ScsiCommand | Pdu:
        """What the engine hands out next."""
        if self.waiting:
            return self.waiting.popleft()
        item = self.connection.receive(PATIENCE_SECONDS)
        assert item is not None, "the engine handed nothing out"
        return item

    def next_command(self) -> ScsiCommand:
        item = self.next()
        assert isinstance(item, ScsiCommand)
        return item

    def next_pdu(self) -> Pdu:
        item = self.next()
        assert isinstance(item, Pdu)
        return item

    def nothing(self) -> None:
        """The engine has digested all that was sent, and hands nothing out: proved by a ping behind it."""
        self.send(self.request(NOP_OUT, tag=0x50494E47))
        item = self.next()
        assert isinstance(item, Pdu) and item.initiator_task_tag == 0x50494E47, item
        assert not self.waiting

    def taken_in(self) -> list[ScsiCommand | Pdu]:
        """Keeps the engine going until it has read all that was sent; what it handed out meanwhile."""
        items = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.connection.bytes_in < self.sent_bytes:
            assert time.monotonic() < deadline, f"the engine read {self.connection.bytes_in} of {self.sent_bytes} bytes"
            item = self.connection.receive(0)
            if item is not None:
                items.append(item)
        return items

    def exactly(self, count: int) -> bytes:
        data = b""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(data) < count:
            while not select.select([self.socket], [], [], 0)[0]:
                assert time.monotonic() < deadline, f"the target sent {len(data)} of {count} bytes"
                item = self.connection.receive(0.01)
                if item is not None:
                    self.waiting.append(item)
            piece = self.socket.recv(count - len(data))
            assert piece, "the target closed the connection"
            data += piece
        return data

    def read(self) -> Answer:
        """The target's next PDU."""
        self.connection.flush()
        bhs = self.exactly(48)
        if self.options["header_digest"]:
            assert self.exactly(4) == digest(bhs)
        length = int.from_bytes(bhs[5:8], "big")
        data = self.exactly(length + -length % 4)
        assert not any(data[length:]), "padding must be zeros"
        if length and self.options["data_digest"]:
            assert self.exactly(4) == digest(data)
        return Answer(bhs, data[:length])

    def silent(self) -> bool:
        """Whether the target has sent nothing (after its output was flushed)."""
        self.connection.flush()
        return not select.select([self.socket], [], [], 0)[0]
