"""The daemon's end of the control socket; appliance/control.py describes the protocol."""

import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from appliance.control.client import LIMIT_LINE_BYTES, VERSION, encode_line, reachable
from appliance.failures import Failure, OperatorError

log = structlog.get_logger(__name__)

LIMIT_CONNECTIONS = 32
IDLE_SECONDS = 60.0
STOP_SECONDS = 5.0

Handler = Callable[..., Any]
Guard = Callable[[], AbstractContextManager[None]]


class ControlServer:
    """Answers requests on a Unix socket with `handlers`, a method name to a callable that takes the params.

    A handler returns what JSON can hold, or raises OperatorError; a generator function yields (done, total) on the way.
    `guard` surrounds every handler: it turns the errors of what handlers use into OperatorError. Each connection has a
    thread; handlers lock what they share. The caller holds the library's lock, so a socket left behind by a killed
    daemon is replaced.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler], guard: Guard = nullcontext) -> None:
        self._path = path
        self._guard = guard
        self._handlers = handlers
        self._places = threading.BoundedSemaphore(LIMIT_CONNECTIONS)
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Raises OSError when the socket cannot be made."""
        self._path.unlink(missing_ok=True)
        with reachable(self._path) as name:
            self._listener.bind(name)
        self._path.chmod(0o660)  # before listen(): nobody has connected under the default mode
        self._listener.listen(LIMIT_CONNECTIONS)
        self._thread.start()

    def stop(self) -> None:
        """No more requests. What is being answered gets STOP_SECONDS to end, then it is cut off."""
        self._path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._lock:
            threads = list(self._connections.values())
        self._shut(socket.SHUT_RD)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # the peer was quicker
                    connection.shutdown(how)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # stop() shut the listener down
                return
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="control connection", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            try:
                thread.start()
            except RuntimeError as error:  # no thread to be had: this client goes without, the next may be luckier
                log.warning("control connection refused", reason=str(error))
                self._forget(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(IDLE_SECONDS)
            with connection.makefile("rb") as lines:
                while line := lines.readline(LIMIT_LINE_BYTES + 1):
                    for answer in self._answers(line):
                        connection.sendall(encode_line({"version": VERSION, **answer}))
                    if not line.endswith(b"\n"):
                        break  # too long: what follows is not the beginning of a request
        except OSError as error:
            log.debug("control connection ended", reason=str(error))
        finally:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            del self._connections[connection]
        connection.close()
        self._places.release()

    def _answers(self, line: bytes) -> Iterator[dict[str, Any]]:
        """Progress as it comes, then the result or an error."""
        try:
            method, params = _request(line)
            handler = self._bound(method, params)
            with self._guard():
                result = handler()
                if isinstance(result, Generator):
                    result = yield from _progress(result)
            yield {"result": result}
        except OperatorError as error:
            yield {"error": {"code": error.failure.code, "message": str(error)}}
        except Exception as error:
            log.exception("control request failed", request=line[:200].decode(errors="replace"))
            message = f"internal error ({type(error).__name__}); the daemon's log has the details"
            yield {"error": {"code": Failure.INTERNAL.code, "message": message}}

    def _bound(self, method: str, params: dict[str, Any]) -> Callable[[], Any]:
        if method not in self._handlers:
            raise OperatorError(Failure.USAGE, f"the daemon knows no method {method!r}")
        handler = self._handlers[method]
        try:
            inspect.signature(handler).bind(**params)
        except TypeError as error:
            raise OperatorError(Failure.USAGE, f"{method}: {error}") from error
        return partial(handler, **params)


def _progress(steps: Generator[tuple[int, int], None, Any]) -> Generator[dict[str, Any], None, Any]:
    """A handler's steps as lines; its result."""
    while True:
        try:
            yield {"progress": next(steps)}
        except StopIteration as end:
            return end.value


def _request(line: bytes) -> tuple[str, dict[str, Any]]:
    if len(line) > LIMIT_LINE_BYTES:
        raise OperatorError(Failure.USAGE, f"a request is at most {LIMIT_LINE_BYTES} bytes")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OperatorError(Failure.USAGE, "a request is one JSON object on one line") from error
    match document:
        case {"version": 1, "method": str() as method, "params": dict() as params}:
            return method, params
        case {"version": int() as version} if version != VERSION:
            raise OperatorError(
                Failure.USAGE, f"protocol version {version} is not spoken here, {VERSION} is; restart the daemon"
            )
    raise OperatorError(Failure.USAGE, "a request has a version, a method and params")
