"""A TCP proxy that keeps what went through it and writes it down as a packet capture.

Needs no right to capture anything.
"""

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

CLIENT_ADDRESS = bytes([192, 0, 2, 1])
SERVER_ADDRESS = bytes([192, 0, 2, 2])
CLIENT_PORT_BASE = 40000
SERVER_PORT = 3260  # so that dissectors know the protocol by its port
_CHUNK_BYTES = 1 << 18
_LIMIT_SEGMENT_BYTES = 60000
_LINK_RAW_IP = 101  # LINKTYPE_RAW: packets begin with the IP header
_SYN, _ACK, _PUSH, _FIN = 0x02, 0x10, 0x08, 0x01


@dataclass(frozen=True, slots=True)
class _Piece:
    when: float
    connection: int
    from_client: bool
    data: bytes


class RecordingProxy:
    """Listens on a port of its own and relays every connection to `server`; `write_capture()` tells what was said."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._pieces: list[_Piece] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.portal = f"127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, name="recorder")
        self._accepting.start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # close() shut the listener down
                return
            server = socket.create_connection(self._server)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            for source, sink, from_client in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._relay, args=(source, sink, number, from_client))
                self._threads.append(thread)
                thread.start()
            number += 1

    def _relay(self, source: socket.socket, sink: socket.socket, number: int, from_client: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := source.recv(_CHUNK_BYTES):
                self._pieces.append(_Piece(time.time(), number, from_client, data))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Stop listening and wait until both sides of every connection have hung up."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self.close()

    def write_capture(self, path: Path) -> None:
        """Write a pcap file in which every connection is a whole TCP stream, from its handshake on."""
        streams: dict[int, _Stream] = {}
        with path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, _LINK_RAW_IP))
            for piece in self._pieces:
                if piece.connection not in streams:
                    streams[piece.connection] = _Stream(CLIENT_PORT_BASE + piece.connection)
                    file.write(b"".join(_record(piece.when, p) for p in streams[piece.connection].handshake()))
                for packet in streams[piece.connection].send(piece.from_client, piece.data):
                    file.write(_record(piece.when, packet))


def _record(when: float, packet: bytes) -> bytes:
    seconds, fraction = divmod(when, 1)
    return struct.pack("<IIII", int(seconds), int(fraction * 1e6), len(packet), len(packet)) + packet


class _Stream:
    """The packets of one TCP connection, with the sequence numbers that a dissector needs to put it together again."""

    def __init__(self, client_port: int) -> None:
        self._ports = {True: client_port, False: SERVER_PORT}
        self._sequence = {True: 1000, False: 2000}

    def handshake(self) -> list[bytes]:
        packets = [self._packet(True, _SYN), self._packet(False, _SYN | _ACK)]
        for side in (True, False):
            self._sequence[side] += 1
        return [*packets, self._packet(True, _ACK)]

    def send(self, from_client: bool, data: bytes) -> list[bytes]:
        packets = []
        for start in range(0, len(data), _LIMIT_SEGMENT_BYTES):
            piece = data[start : start + _LIMIT_SEGMENT_BYTES]
            packets.append(self._packet(from_client, _ACK | _PUSH, piece))
            self._sequence[from_client] = (self._sequence[from_client] + len(piece)) & 0xFFFFFFFF
        return packets

    def _packet(self, from_client: bool, flags: int, data: bytes = b"") -> bytes:
        acknowledged = self._sequence[not from_client] if flags & _ACK else 0
        ports = (self._ports[from_client], self._ports[not from_client])
        tcp = struct.pack(">HHIIBBHHH", *ports, self._sequence[from_client], acknowledged, 5 << 4, flags, 65535, 0, 0)
        addresses = CLIENT_ADDRESS + SERVER_ADDRESS if from_client else SERVER_ADDRESS + CLIENT_ADDRESS
        length = 20 + len(tcp) + len(data)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, length, 0, 0x4000, 64, socket.IPPROTO_TCP, 0) + addresses
        return ip + tcp + data
