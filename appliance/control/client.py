"""The Python client of the HTTP API: over the control socket, or over TCP with a token.

call(path, "cartridge.list") asks the daemon behind `path` for a verb; Client.at(url, token).call(...) one on another
host. appliance/web/app.py describes the API. The standard library's client is enough for one request, and every command
of `tapebay` waits for it to be imported.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from appliance.control.traffic import HttpTraffic
from appliance.failures import Failure, NoAnswer, OperatorError
from appliance.library.control_socket import reachable
from appliance.progress import Progress, no_progress

ANSWER_SECONDS = 300.0  # a move waits for a drive that is busy
CONNECT_SECONDS = 30.0  # with the handshake, which a machine that is busy makes slow
STREAM_SECONDS = 40.0  # a stream says something every 15
RESUME_SECONDS = 0.5
URL_VARIABLE, TOKEN_VARIABLE = "TAPEBAY_API", "TAPEBAY_TOKEN"
TOKEN_FILE_VARIABLE, AUTHORITY_VARIABLE = "TAPEBAY_TOKEN_FILE", "TAPEBAY_CERTIFICATE_AUTHORITY"


def call(
    path: Path,
    verb: str,
    *,
    timeout_seconds: float = ANSWER_SECONDS,
    progress: Progress = no_progress,
    **parameters: Any,
) -> Any:
    """Ask the daemon behind the control socket `path`. Raises as Client.call() does."""
    return Client.at_socket(path).call(verb, timeout_seconds=timeout_seconds, progress=progress, **parameters)


@dataclass(frozen=True)
class Client:
    """A daemon to ask; made by at_socket(), at() or from_environment(). Each call has a connection of its own.
    traffic: what crossed the network on all of them."""

    where: str
    socket_path: Path | None = None
    host: str = "tapebay"
    port: int = 0
    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    traffic: HttpTraffic = field(default_factory=HttpTraffic, repr=False, compare=False)

    @classmethod
    def at_socket(cls, path: Path) -> Client:
        """The daemon behind a control socket."""
        return cls(str(path), path)

    @classmethod
    def at(cls, url: str, token: str, certificate_authority: Path | None = None) -> Client:
        """One at https://HOST:PORT, or http:// on this host. certificate_authority: PEM; by default the system's.
        Raises OperatorError USAGE."""
        scheme, host, port = _parts(url)
        if scheme == "http" and not _loopback(host):
            raise OperatorError(Failure.USAGE, f"the token would cross the network readable to {url}; write https://")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise OperatorError(Failure.USAGE, "this is no token; it has letters, digits, '_' and '-'")
        return cls(url, None, host, port, token, _trusting(certificate_authority) if scheme == "https" else None)

    @classmethod
    def from_environment(cls) -> Client | None:
        """The one that TAPEBAY_API names, with the token in the file TAPEBAY_TOKEN_FILE, or in TAPEBAY_TOKEN; None:
        none. Raises OperatorError USAGE."""
        url = os.environ.get(URL_VARIABLE)
        if not url:
            return None
        authority = os.environ.get(AUTHORITY_VARIABLE)
        return cls.at(url, _token_of_environment(), Path(authority) if authority else None)

    def call(
        self,
        verb: str,
        /,
        *,
        timeout_seconds: float = ANSWER_SECONDS,
        progress: Progress = no_progress,
        idempotency_key: str = "",
        **parameters: Any,
    ) -> Any:
        """The verb's result. Raises OperatorError: NOT_RUNNING when nobody listens, else what it answered.

        timeout_seconds: for the answer to begin and to go on. idempotency_key: who asks again with the same one gets
        the result of the first time.
        """
        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        # json.dumps escapes what is not ASCII, also the bytes of a path that are not UTF-8.
        body = json.dumps(parameters, default=str)
        with self._explained(f"answer {verb}", timeout_seconds), self._connected(timeout_seconds) as connection:
            # Who refuses a request by its head answers and hangs up before its body has come (RFC 9112 9.5).
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", f"/v1/{verb.replace('.', '/')}", body, {**headers, **self._authorization()})
            return self._result(connection.getresponse(), progress)

    def events(self, subject: str, *, timeout_seconds: float = ANSWER_SECONDS) -> Iterator[dict[str, Any] | None]:
        """What happens to a cartridge, device, request, ... from now on, as the audit record has it, without an end.

        The first is None: from there on nothing is missed. So are those that the server sends to show that it is still
        there. timeout_seconds: for the next one. Raises OperatorError.
        """
        headers = {"Accept": "text/event-stream", **self._authorization()}
        with self._explained("tell its events", timeout_seconds), self._connected(timeout_seconds) as connection:
            connection.request("GET", f"/v1/events?{urlencode({'subject': subject})}", headers=headers)
            answer = connection.getresponse()
            _refuse_problems(answer)
            yield None
            for line in answer:
                if line.startswith(b":"):
                    yield None
                elif line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))
        raise OperatorError(Failure.NOT_RUNNING, f"the daemon behind {self.where} tells no more events")

    def follow(
        self, after: int | None = None, *, action: str = "", subject: str = "", patience_seconds: float = 60.0
    ) -> Iterator[dict[str, Any]]:
        """The audit record as it grows, from behind event `after`, or from now on; none is lost when the connection is.

        Raises OperatorError: NOT_FOUND when what follows is no longer kept, NOT_RUNNING when there is no daemon for
        `patience_seconds`, else what it answered."""
        position, deadline = after, time.monotonic() + patience_seconds
        while True:
            try:
                for number, event in self._events_after(position, action, subject):
                    position, deadline = number, time.monotonic() + patience_seconds
                    if event is not None:
                        yield event
            except OperatorError as error:
                if error.failure is not Failure.NOT_RUNNING or time.monotonic() > deadline:
                    raise
            time.sleep(RESUME_SECONDS)

    def _events_after(
        self, position: int | None, action: str, subject: str
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Of one connection: numbers of events, with the event; none where only the place is said."""
        headers = {"Accept": "text/event-stream", **self._authorization()}
        if position is not None:
            headers["Last-Event-ID"] = str(position)
        query = urlencode({name: value for name, value in (("action", action), ("subject", subject)) if value})
        with self._explained("send an event", STREAM_SECONDS), self._connected(STREAM_SECONDS) as connection:
            connection.request("GET", f"/v1/events{'?' if query else ''}{query}", None, headers)
            answer = connection.getresponse()
            _refuse_problems(answer)
            number = 0
            for line in answer:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "data":
                    yield number, json.loads(value)
                elif not name and number:
                    yield number, None

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @contextmanager
    def _connected(self, timeout_seconds: float) -> Iterator[http.client.HTTPConnection]:
        if self.socket_path is not None:
            with reachable(self.socket_path) as name, closing(_Connection(name, timeout_seconds)) as connection:
                self._connect(connection)
                yield connection
            return
        with closing(self._over_tcp(min(timeout_seconds, CONNECT_SECONDS))) as connection:
            self._connect(connection)
            wire = connection.sock
            wire.settimeout(timeout_seconds)
            try:
                yield connection
            finally:
                self.traffic.add(wire)

    def _over_tcp(self, timeout_seconds: float) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_seconds)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_seconds, context=self.tls)

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            raise self._nobody(error) from error

    @contextmanager
    def _explained(self, doing: str, timeout_seconds: float) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise self._nobody(error) from error
        except TimeoutError as error:
            message = f"the daemon behind {self.where} did not {doing} in {timeout_seconds:.0f} seconds"
            raise NoAnswer(Failure.REFUSED, message) from error
        except (http.client.HTTPException, OSError) as error:
            message = f"the daemon behind {self.where} went away while answering: {error}"
            raise NoAnswer(Failure.NOT_RUNNING, message) from error

    def _nobody(self, error: OSError) -> OperatorError:
        if self.socket_path is None:
            hint = "see [api] in its tapebay.toml, and its log"
            if isinstance(error, ssl.SSLCertVerificationError):
                hint = "TAPEBAY_CERTIFICATE_AUTHORITY names the file of the authority that signed its certificate"
            message = f"{self.where} cannot be reached: {error}; {hint}"
            return OperatorError(Failure.NOT_RUNNING, message)
        return OperatorError(
            Failure.NOT_RUNNING,
            f"no daemon listens on {self.where}; start it: tapebay serve (if it was started, its log says why it "
            "ended, for example a port that is taken)",
        )

    def _result(self, answer: http.client.HTTPResponse, progress: Progress) -> Any:
        _refuse_problems(answer)
        for name, data in _events(answer):
            match name:
                case "progress":
                    progress(data["done"], data["total"])
                case "problem":
                    raise _error(data)
                case "result":
                    return data
        raise NoAnswer(Failure.NOT_RUNNING, f"the daemon behind {self.where} went away while answering")


class _Connection(http.client.HTTPConnection):
    """To a Unix socket."""

    def __init__(self, name: str, timeout_seconds: float) -> None:
        super().__init__("tapebay", timeout=timeout_seconds)
        self._name = name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._name)


def _parts(url: str) -> tuple[str, str, int]:
    """Scheme, host, port. Raises OperatorError USAGE."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        host, port = None, 0
    if not host or parts.path.strip("/") or parts.query:
        raise OperatorError(Failure.USAGE, f"{url!r} is no address of an API; write https://HOST:PORT")
    return parts.scheme, host, port


def _loopback(host: str) -> bool:
    import ipaddress

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _trusting(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:  # ssl.SSLError too
        raise OperatorError(Failure.USAGE, f"{authority} holds no certificate to be trusted: {error}") from None


def _token_of_environment() -> str:
    from appliance.settings import secrets

    file = os.environ.get(TOKEN_FILE_VARIABLE)
    try:
        return secrets.from_file(Path(file)) if file else secrets.from_environment(TOKEN_VARIABLE)
    except secrets.SecretError as error:
        raise OperatorError(Failure.USAGE, f"the token for {URL_VARIABLE}: {error}") from None


def _refuse_problems(answer: http.client.HTTPResponse) -> None:
    """Raises OperatorError when it is one."""
    if answer.headers.get_content_type() == "application/problem+json":
        raise _error(json.loads(answer.read()))
    if answer.status == 503:
        raise OperatorError(Failure.BUSY, "the daemon answers too many requests just now; try again")


def _events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """The events of a stream, as the server writes them: a name, then one line of data."""
    name = ""
    for line in lines:
        field_name, _, value = line.decode().rstrip("\n").partition(": ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            yield name, json.loads(value)


def _error(problem: dict[str, Any]) -> OperatorError:
    return OperatorError(Failure.of_code(problem.get("code")), str(problem.get("detail")))
