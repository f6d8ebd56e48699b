"""Messages between the daemon and the process of the API, over a socket that only these two have: a head in JSON and a
body of bytes."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import suppress
from typing import Any, Final

_LENGTHS: Final = struct.Struct(">II")
LIMIT_BYTES: Final = 1 << 30
TOGETHER_BYTES: Final = 64 << 10  # so that the other side wakes once for most messages


class Channel:
    """Thread-safe for senders; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._reader = sock.makefile("rb", buffering=1 << 16)

    def send(self, head: dict[str, Any], body: bytes = b"") -> bool:
        """Whether it could be sent: the other side is there."""
        told = json.dumps(head, separators=(",", ":")).encode()
        try:
            with self._sending:
                begun = _LENGTHS.pack(len(told), len(body)) + told
                if len(body) <= TOGETHER_BYTES:
                    self._socket.sendall(begun + body)
                else:
                    self._socket.sendall(begun)
                    self._socket.sendall(body)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next message; None: the other side is gone."""
        try:
            lengths = self._reader.read(_LENGTHS.size)
            if len(lengths) < _LENGTHS.size:
                return None
            head_bytes, body_bytes = _LENGTHS.unpack(lengths)
            if head_bytes + body_bytes > LIMIT_BYTES:
                return None
            told, body = self._reader.read(head_bytes), self._reader.read(body_bytes)
            return (json.loads(told), body) if len(told) + len(body) == head_bytes + body_bytes else None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """The other side's receive() ends, and this one's."""
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
