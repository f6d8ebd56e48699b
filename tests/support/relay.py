"""A TCP relay that stands for the network on the way to a portal: it can be cut, and mended again."""

import contextlib
import math
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.ports import free_port

_CHUNK_BYTES = 1 << 18
_SCSI_RESPONSE = 0x21


class Relay:
    """Listens on a port of its own and relays every connection to `server`."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._carried_bytes = 0  # to the server
        self._lose_from: float = math.inf  # so many of these
        self._lost = threading.Event()
        self.port = free_port()  # so that it is there still when the network is mended
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def _listen(self) -> None:
        self._accepting = threading.Thread(target=self._accept, name="relay")
        self._accepting.start()

    def mend(self) -> None:
        """Accepts connections again, at the same port."""
        self._lose_from = math.inf
        self._lost.clear()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def lose_an_answer(self, after_bytes: int) -> None:
        """Once so much more has come from the clients, nothing that the server says arrives. Returns when a SCSI
        Response was lost so: its command is done, and nobody knows. To be cut next."""
        self._lose_from = self._carried_bytes + after_bytes
        assert self._lost.wait(60), "the server has answered no command"

    def cut(self) -> None:
        """Resets all connections, on both sides, and refuses new ones."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):  # the peer was quicker
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # cut() shut the listener down
                return
            server = socket.create_connection(self._server)
            pair = (client, server)
            for each in pair:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets.update(pair)
            thread = threading.Thread(target=self._relay_both, args=pair, name="relayed connection")
            self._threads.append(thread)
            thread.start()

    def _relay_both(self, client: socket.socket, server: socket.socket) -> None:
        answers = threading.Thread(target=self._relay, args=(server, client, self._arrives))
        answers.start()
        self._relay(client, server, self._carries)
        answers.join()
        with self._lock:
            self._sockets -= {client, server}
        client.close()
        server.close()

    def _carries(self, request: bytes) -> bool:
        self._carried_bytes += len(request)
        return True

    def _arrives(self, answer: bytes) -> bool:
        if self._carried_bytes >= self._lose_from:
            if answer[0] & 0x3F == _SCSI_RESPONSE:
                self._lost.set()
            return False
        return True

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket, arrives: Callable[[bytes], bool]) -> None:
        with contextlib.suppress(OSError):  # the connection was reset, by its peer or by cut()
            while data := source.recv(_CHUNK_BYTES):
                if arrives(data):
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._accepting.is_alive():
            self.cut()
