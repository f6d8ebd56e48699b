"""Ports for servers that must know theirs before they start, or keep it over a restart; all others listen at port 0."""

import socket
from collections import deque

HELD = 128  # more than the tests of one process use at once
_held: deque[socket.socket] = deque(maxlen=HELD)


def free_port() -> int:
    """A port of 127.0.0.1 that the kernel gives to nobody else: a socket that does not listen is bound to it here.

    Whoever listens there says SO_REUSEADDR, as servers do.
    """
    holding = socket.socket()
    holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holding.bind(("127.0.0.1", 0))
    _held.append(holding)  # the oldest is closed when it falls out
    return int(holding.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Several of them."""
    return [free_port() for _ in range(count)]
