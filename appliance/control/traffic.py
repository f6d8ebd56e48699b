"""How much crossed the network on the way to an API: what the kernel says of each connection, TLS and headers too."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Final

# struct tcp_info of linux/tcp.h: bytes_acked and bytes_received, of Linux 4.1 and later.
_ACKED_AND_RECEIVED: Final = struct.Struct("=120xQQ")


class HttpTraffic:
    """The bytes of all connections that were told of, both ways. Thread-safe."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, connection: socket.socket | None) -> None:
        """Before it is closed. One that is no TCP, or is closed already, adds nothing."""
        if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        try:
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AND_RECEIVED.size)
        except OSError:
            return
        if len(told) == _ACKED_AND_RECEIVED.size:
            with self._lock:
                self.bytes += sum(_ACKED_AND_RECEIVED.unpack(told))
