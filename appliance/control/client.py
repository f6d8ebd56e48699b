"""The control socket: a Unix socket in the library on which the command line reaches the daemon.

One JSON object a line, in both directions:

    {"version": 1, "method": "cartridge.list", "params": {}}
    {"version": 1, "result": [...]}
    {"version": 1, "error": {"code": "not-found", "message": "..."}}

Before the answer to a long request may come any number of lines {"version": 1, "progress": [done, total]}.
A connection may carry several requests, one after the other. Who may open the socket may operate the library: its
mode is 0660, so that is the daemon's user and group.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from appliance.failures import Failure, OperatorError

VERSION = 1
LIMIT_LINE_BYTES = 1 << 20
ANSWER_SECONDS = 300.0  # a move waits for a drive that is busy
_SUN_PATH_BYTES = 107  # unix(7): sun_path is 108 bytes with its terminating null

Progress = Callable[[int, int], None]


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


def call(
    path: Path,
    method: str,
    *,
    timeout_seconds: float = ANSWER_SECONDS,
    progress: Progress = lambda done, total: None,
    **params: Any,
) -> Any:
    """Ask the daemon behind `path`. Raises OperatorError: NOT_RUNNING when nobody listens, else what it answered.

    timeout_seconds: for each line of the answer.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection, reachable(path) as name:
            connection.settimeout(timeout_seconds)
            connection.connect(name)
            connection.sendall(encode_line({"version": VERSION, "method": method, "params": params}))
            with connection.makefile("rb") as lines:
                return _answer(path, lines, progress)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise OperatorError(Failure.NOT_RUNNING, f"no daemon listens on {path}; start it: tapebay serve") from error
    except OSError as error:
        raise OperatorError(Failure.NOT_RUNNING, f"the daemon behind {path} cannot be reached: {error}") from error


def _answer(path: Path, lines: BinaryIO, progress: Progress) -> Any:
    while True:
        match _decode(path, lines.readline(LIMIT_LINE_BYTES + 1)):
            case {"progress": [int() as done, int() as total]}:
                progress(done, total)
            case {"error": {"code": code, "message": message}}:
                raise OperatorError(Failure.of_code(code), str(message))
            case document:
                return document.get("result")


def _decode(path: Path, line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError as wrong:
        raise OperatorError(Failure.NOT_RUNNING, f"the daemon behind {path} went away while answering") from wrong
    if not isinstance(document, dict):
        raise OperatorError(Failure.NOT_RUNNING, f"what answers at {path} is not Tapebay")
    return document


def encode_line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
