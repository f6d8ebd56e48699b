"""A TCP relay that stands for the network on the way to a portal: it can be cut, and mended again."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1 << 18


class Relay:
    """Listens on a port of its own and relays every connection to `server`."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._listen()

    def _listen(self) -> None:
        self._accepting = threading.Thread(target=self._accept, name="relay")
        self._accepting.start()

    def mend(self) -> None:
        """Accepts connections again, at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

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
        answers = threading.Thread(target=self._relay, args=(server, client))
        answers.start()
        self._relay(client, server)
        answers.join()
        with self._lock:
            self._sockets -= {client, server}
        client.close()
        server.close()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the connection was reset, by its peer or by cut()
            while data := source.recv(_CHUNK_BYTES):
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
