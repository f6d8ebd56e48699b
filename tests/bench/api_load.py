"""The clients of an API under load, cheap enough to run beside what is measured: one thread, one poll(), requests made
beforehand, and answers looked at no closer than they have to be. bench_api starts it in a process of its own.

Requests come at a fixed rate whether answers come or not; one that finds all connections busy is counted as late and
asked as soon as one is free.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

CONNECTIONS = 20
CHANGES_EVERY = 40  # one request of so many moves a cartridge, which every stream is told of
SHOW, LIST = "/v1/cartridge/show?barcode=TST002L6", "/v1/cartridge/list?limit=20"
QUICK = ("/v1/drive/list", "/v1/health", "/v1/session/list")
LOOKS = (*(QUICK * 5), SHOW, SHOW, SHOW, SHOW, LIST)  # in turns: what programs that wait and watch ask for
RECEIVED_BYTES = 1 << 16


class Peer:
    """A connection: a stream, or one that asks."""

    def __init__(self, port: int, authority: str) -> None:
        self.socket: socket.socket | ssl.SSLSocket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if authority:
            self.socket = ssl.create_default_context(cafile=authority).wrap_socket(
                self.socket, server_hostname="127.0.0.1"
            )
        self.descriptor = self.socket.fileno()
        self.answer = b""
        self.asked_at = 0.0

    def received(self) -> bytes:
        """What has come. Raises ConnectionError when the other side is gone."""
        try:
            data = self.socket.recv(RECEIVED_BYTES)
            while isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
                data += self.socket.recv(RECEIVED_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        if not data:
            raise ConnectionError("the API hung up")
        return data


class Load:
    """run() until standard input ends; `told` is what the clients met. first: how many requests others made of the same
    library before: each move is one, from where the last one of that cartridge ended."""

    def __init__(self, port: int, token: str, authority: str, rate: float, streams: int, first: int = 0) -> None:
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        self._requests = [_look(head, number) if number % CHANGES_EVERY else _move(head, number)
                          for number in range(2 * CHANGES_EVERY * CONNECTIONS)]  # fmt: skip
        self._pause = 1 / rate if rate else 3600.0
        self._peers: dict[int, Peer] = {}
        self._idle: deque[Peer] = deque()
        self._poll = select.poll()
        for number in range(streams + CONNECTIONS):
            peer = Peer(port, authority)
            if number < streams:
                peer.socket.sendall(f"GET /v1/events HTTP/1.1\r\n{head}Accept: text/event-stream\r\n\r\n".encode())
            else:
                self._idle.append(peer)
            peer.socket.setblocking(False)
            self._peers[peer.descriptor] = peer
            self._poll.register(peer.descriptor, select.POLLIN)
        self._streams = set(list(self._peers)[:streams])
        self._milliseconds: list[float] = []
        self._failures = self._events = self._late = 0
        self._first = self._asked = first

    def run(self) -> dict[str, Any]:
        """What the clients met."""
        self._poll.register(0, select.POLLIN)
        began = due = time.monotonic()
        while True:
            now = time.monotonic()
            while due <= now and self._idle:
                self._ask(self._idle.popleft(), now)
                self._late += now - due > self._pause
                due += self._pause
            wait = max(0.0, due - now) if self._idle else 1.0
            for descriptor, _ in self._poll.poll(wait * 1000 + 1):
                if descriptor == 0:
                    return self._told(time.monotonic() - began)
                self._take(self._peers[descriptor])

    def _ask(self, peer: Peer, now: float) -> None:
        peer.asked_at = now
        peer.socket.sendall(self._requests[self._asked % len(self._requests)])
        self._asked += 1

    def _take(self, peer: Peer) -> None:
        data = peer.received()
        if peer.descriptor in self._streams:
            self._events += data.count(b"\ndata:")
            return
        peer.answer += data
        head, separator, body = peer.answer.partition(b"\r\n\r\n")
        if not separator or len(body) < _length(head):
            return
        self._milliseconds.append((time.monotonic() - peer.asked_at) * 1000)
        self._failures += not head.startswith(b"HTTP/1.1 200")
        peer.answer = b""
        self._idle.append(peer)

    def _told(self, seconds: float) -> dict[str, Any]:
        times = sorted(self._milliseconds) or [0.0]
        return {
            "requests": len(self._milliseconds), "seconds": seconds, "failures": self._failures, "late": self._late,
            "asked": self._asked, "moves": -(-self._asked // CHANGES_EVERY) - -(-self._first // CHANGES_EVERY),
            "events": self._events, "streams": len(self._streams), "median_ms": times[len(times) // 2],
            "worst_ms": times[-1], "processor_seconds": time.process_time(),
        }  # fmt: skip


def _look(head: str, number: int) -> bytes:
    return f"GET {LOOKS[number % len(LOOKS)]} HTTP/1.1\r\n{head}\r\n".encode()


def _move(head: str, number: int) -> bytes:
    """Each cartridge in turn, to and fro between two slots of its own."""
    change = number // CHANGES_EVERY
    one, there = change % CONNECTIONS, change // CONNECTIONS % 2
    body = json.dumps({"cartridge": f"TST{one + 3:03}L6", "to": f"slot:{50 + one + 30 * there}"})
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST /v1/move HTTP/1.1\r\n{head}{length}\r\n{body}".encode()


def _length(head: bytes) -> int:
    lower = head.lower()
    at = lower.index(b"content-length:") + len(b"content-length:")
    return int(lower[at : at + 12].split(b"\r\n")[0])


def main(arguments: Sequence[str]) -> None:
    """PORT TOKEN AUTHORITY RATE STREAMS FIRST: "ready" when all are connected, at the end of standard input what they
    met."""
    port, token, authority, rate, streams, first = arguments
    load = Load(int(port), token, authority, float(rate), int(streams), int(first))
    print("ready", flush=True)
    print(json.dumps(load.run()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
