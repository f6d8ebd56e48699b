"""The control socket: a Unix socket in the library on which the command line reaches the daemon.

One JSON object a line, in both directions:

    {"version": 1, "method": "cartridge.list", "params": {}}
    {"version": 1, "result": [...]}
    {"version": 1, "error": {"code": "not-found", "message": "..."}}

A connection may carry several requests, one after the other. Who may open the socket may operate the library: its
mode is 0660, so that is the daemon's user and group.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.failures import Failure, OperatorError

VERSION = 1
LIMIT_LINE_BYTES = 1 << 20
_SUN_PATH_BYTES = 107  # unix(7): sun_path is 108 bytes with its terminating null


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, however deep the library lies."""
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def call(path: Path, method: str, timeout_seconds: float = 60.0, **params: Any) -> Any:
    """Ask the daemon behind `path`. Raises OperatorError: NOT_RUNNING when nobody listens, else what it answered."""
    try:
        with socket.socket(socket.AF_UNIX) as connection, reachable(path) as name:
            connection.settimeout(timeout_seconds)
            connection.connect(name)
            connection.sendall(encode_line({"version": VERSION, "method": method, "params": params}))
            with connection.makefile("rb") as lines:
                answer = lines.readline(LIMIT_LINE_BYTES + 1)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise OperatorError(Failure.NOT_RUNNING, f"no daemon listens on {path}; start it: tapebay serve") from error
    except OSError as error:
        raise OperatorError(Failure.NOT_RUNNING, f"the daemon behind {path} cannot be reached: {error}") from error
    return _result(path, answer)


def _result(path: Path, answer: bytes) -> Any:
    try:
        document = json.loads(answer)
        error = document.get("error")
    except (ValueError, AttributeError) as wrong:
        raise OperatorError(Failure.NOT_RUNNING, f"the daemon behind {path} went away while answering") from wrong
    if error is not None:
        raise OperatorError(Failure.of_code(error.get("code")), str(error.get("message")))
    return document.get("result")


def encode_line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
