"""The Python client of the HTTP API, over the control socket: a Unix socket in the library.

call(path, "cartridge.list") asks the daemon behind `path` for a verb; appliance/web/app.py describes the API. The
standard library's client is enough for one request over a Unix socket, and every command of `tapebay` waits for it
to be imported.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.failures import Failure, OperatorError
from appliance.library.control_socket import reachable

ANSWER_SECONDS = 300.0  # a move waits for a drive that is busy

Progress = Callable[[int, int], None]


def call(
    path: Path,
    verb: str,
    *,
    timeout_seconds: float = ANSWER_SECONDS,
    progress: Progress = lambda done, total: None,
    **parameters: Any,
) -> Any:
    """Ask the daemon behind `path`. Raises OperatorError: NOT_RUNNING when nobody listens, else what it answered.

    timeout_seconds: for the answer to begin and to go on.
    """
    try:
        with reachable(path) as name, closing(_Connection(name, timeout_seconds)) as connection:
            try:
                connection.connect()
            except OSError as error:
                raise _nobody(path) from error
            return _result(path, _asked(connection, verb, parameters), progress)
    except FileNotFoundError as error:
        raise _nobody(path) from error
    except TimeoutError as error:
        message = f"the daemon behind {path} did not answer {verb} in {timeout_seconds:.0f} seconds"
        raise OperatorError(Failure.REFUSED, message) from error
    except (http.client.HTTPException, OSError) as error:
        message = f"the daemon behind {path} went away while answering: {error}"
        raise OperatorError(Failure.NOT_RUNNING, message) from error


class _Connection(http.client.HTTPConnection):
    """To a Unix socket."""

    def __init__(self, name: str, timeout_seconds: float) -> None:
        super().__init__("tapebay", timeout=timeout_seconds)
        self._name = name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._name)


def _nobody(path: Path) -> OperatorError:
    return OperatorError(
        Failure.NOT_RUNNING,
        f"no daemon listens on {path}; start it: tapebay serve (if it was started, its log says why it ended, for "
        "example a port that is taken)",
    )


def _asked(connection: _Connection, verb: str, parameters: dict[str, Any]) -> http.client.HTTPResponse:
    headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
    # json.dumps escapes what is not ASCII, also the bytes of a path that are not UTF-8.
    connection.request("POST", f"/v1/{verb.replace('.', '/')}", json.dumps(parameters, default=str), headers)
    return connection.getresponse()


def _result(path: Path, answer: http.client.HTTPResponse, progress: Progress) -> Any:
    if answer.headers.get_content_type() == "application/problem+json":
        raise _error(json.loads(answer.read()))
    if answer.status == 503:
        raise OperatorError(Failure.REFUSED, "the daemon answers too many requests just now; try again")
    for name, data in _events(answer):
        match name:
            case "progress":
                progress(data["done"], data["total"])
            case "problem":
                raise _error(data)
            case "result":
                return data
    raise OperatorError(Failure.NOT_RUNNING, f"the daemon behind {path} went away while answering")


def _events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """The events of a stream, as the server writes them: a name, then one line of data."""
    name = ""
    for line in lines:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def _error(problem: dict[str, Any]) -> OperatorError:
    return OperatorError(Failure.of_code(problem.get("code")), str(problem.get("detail")))
