"""Networks between programs on one machine: limited to a rate in each direction, and their bytes counted.

No privileges, no traffic control of the kernel: every connection goes through a relay of this process, which moves
bytes from socket to socket within the kernel (splice) and makes them wait as a link of that rate would.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 20  # of an unlimited network; what a pipe holds
CHUNK_SECONDS = 0.002  # of a limited one
LEAST_CHUNK_BYTES = 4096
BURST_SECONDS = 0.01  # what a link that stood still may catch up with: a sleep that lasts too long costs no rate


class Link:
    """One direction of a network, shared by whoever sends that way: so many bytes a second, None: as they come."""

    def __init__(
        self,
        bytes_per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes = 0
        self.chunk_bytes = (
            CHUNK_BYTES if bytes_per_second is None else max(LEAST_CHUNK_BYTES, int(bytes_per_second * CHUNK_SECONDS))
        )
        self._rate = bytes_per_second
        self._clock, self._sleep = clock, sleep
        self._free_at = clock()
        self._lock = threading.Lock()

    def pass_on(self, count: int) -> None:
        """Return when that many bytes have gone through."""
        with self._lock:
            self.bytes += count
            if self._rate is None:
                return
            now = self._clock()
            self._free_at = max(self._free_at, now - BURST_SECONDS) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)


class ShapedNetwork:
    """A full-duplex network. reach() gives an address behind which a server is; leaving its `with` block cuts it."""

    def __init__(self, bytes_per_second: float | None = None) -> None:
        self.to_server = Link(bytes_per_second)
        self.from_server = Link(bytes_per_second)
        self._lock = threading.Lock()
        self._listeners: list[socket.socket] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def bytes(self) -> int:
        """That have gone through it, both ways, without the headers of TCP and IP."""
        return self.to_server.bytes + self.from_server.bytes

    def reach(self, server: tuple[str, int]) -> tuple[str, int]:
        """The address by which this network reaches a server."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        self._start(self._accept, listener, server)
        host, port = listener.getsockname()[:2]
        return host, port

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="network", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, server: tuple[str, int]) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # it was cut
                return
            there = socket.create_connection(server)
            for each in (client, there):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets += [client, there]
            self._start(_carry, client, there, self.to_server)
            self._start(_carry, there, client, self.from_server)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (*self._listeners, *self._sockets):
            with contextlib.suppress(OSError):  # its peer has closed it
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (*self._listeners, *self._sockets):
            each.close()


def _carry(source: socket.socket, sink: socket.socket, link: Link) -> None:
    """Until the source ends; then the sink is told."""
    out, into = os.pipe()
    try:
        with contextlib.suppress(OSError):  # either end was closed
            while count := os.splice(source.fileno(), into, link.chunk_bytes):
                link.pass_on(count)
                while count:
                    count -= os.splice(out, sink.fileno(), count)
    finally:
        os.close(out)
        os.close(into)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
