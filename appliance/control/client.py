"""The Python client of the HTTP API, over the control socket: a Unix socket in the library.

call(path, "cartridge.list") asks the daemon behind `path` for a verb; appliance/web/app.py describes the API.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

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
        with (
            reachable(path) as name,
            _client(name, timeout_seconds) as client,
            _asked(client, verb, parameters) as answer,
        ):
            return _result(path, answer, progress)
    except (FileNotFoundError, httpx.ConnectError) as error:
        message = (
            f"no daemon listens on {path}; start it: tapebay serve (if it was started, its log says why it ended, for "
            "example a port that is taken)"
        )
        raise OperatorError(Failure.NOT_RUNNING, message) from error
    except httpx.TimeoutException as error:
        message = f"the daemon behind {path} did not answer {verb} in {timeout_seconds:.0f} seconds"
        raise OperatorError(Failure.REFUSED, message) from error
    except (httpx.TransportError, OSError) as error:
        message = f"the daemon behind {path} went away while answering: {error}"
        raise OperatorError(Failure.NOT_RUNNING, message) from error


def _client(name: str, timeout_seconds: float) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=name), base_url="http://tapebay/v1/", timeout=timeout_seconds, trust_env=False
    )


def _asked(client: httpx.Client, verb: str, parameters: dict[str, Any]) -> Any:
    headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
    # json.dumps escapes what is not ASCII, also the bytes of a path that are not UTF-8.
    return client.stream("POST", verb.replace(".", "/"), content=json.dumps(parameters, default=str), headers=headers)


def _result(path: Path, answer: httpx.Response, progress: Progress) -> Any:
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        raise _error(json.loads(answer.read()))
    if answer.status_code == 503:
        raise OperatorError(Failure.REFUSED, "the daemon answers too many requests just now; try again")
    for name, data in _events(answer.iter_lines()):
        match name:
            case "progress":
                progress(data["done"], data["total"])
            case "problem":
                raise _error(data)
            case "result":
                return data
    raise OperatorError(Failure.NOT_RUNNING, f"the daemon behind {path} went away while answering")


def _events(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The events of a stream, as the server writes them: a name, then one line of data."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def _error(problem: dict[str, Any]) -> OperatorError:
    return OperatorError(Failure.of_code(problem.get("code")), str(problem.get("detail")))
