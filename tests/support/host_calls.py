"""What a guest asks of its host while its steps run: one line in, one line back, over the guest's network.

A step says `host NAME ARGUMENT...`; the test's handler of that name runs on the host, and the step goes on when it is
done.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tests.interop.guest import HOST_ADDRESS, Step

Handler = Callable[..., object]


class HostCalls:
    """Handlers by name: they take the words of the line, and what they return is what `host` prints. One that raises
    makes `host` fail, and leaving the `with` block raises its error too."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self.failures: list[Exception] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="host calls")]
        self._threads[0].start()

    def step(self) -> Step:
        """Gives the following steps `host`."""
        return Step(
            "host calls",
            f'host() {{ exec 9<>/dev/tcp/{HOST_ADDRESS}/{self.port}; echo "$@" >&9; local said; read -r said <&9; '
            'exec 9>&-; echo "${said#* }"; [ "${said%% *}" = ok ]; }',
        )

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # close() shut the listener down
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name="host call")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # A guest that was ended breaks its connections.
        with contextlib.suppress(ConnectionError), connection, connection.makefile("r") as lines:
            for line in lines:
                connection.sendall(f"{self._answer(line.split())}\n".encode())

    def _answer(self, words: list[str]) -> str:
        try:
            said = self._handlers[words[0]](*words[1:])
        except Exception as error:  # noqa: BLE001 - raised again where the test sees it
            self.failures.append(error)
            return f"error {error!r}".replace("\n", " ")
        return f"ok {'' if said is None else said}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.failures and error is None:
            raise self.failures[0]
