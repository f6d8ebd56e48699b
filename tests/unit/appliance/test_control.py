"""The control socket: requests, errors, bounds, and a server that goes on whatever one client does."""

import contextlib
import json
import os
import re
import resource
import select
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import httpx
import pytest

from appliance.control import http_server, protocol
from appliance.control.client import call
from appliance.control.server import LIMIT_CONNECTIONS, ControlServer
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of
from appliance.operations.verb import Cancelled, Nothing, OnLibrary, OnSettings, Parameters, Scope, Verb, row_of
from appliance.web.app import LIMIT_BODY_BYTES, make_app
from tests.support.waiting import eventually
from vlib_images.library.inventory import NoSuchCartridge

FDS = Path("/proc/self/fd")


class Echo(Parameters):
    value: Any = None
    number: int = 0


class Count(Parameters):
    to: int


class Slow:
    """A verb that waits, and what it met."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.cancelled = False

    def run(self, context: OnSettings, parameters: Nothing) -> str:
        """Report now and then, until it may go on."""
        self.begun.set()
        try:
            while not self.go_on.wait(0.01):
                context.progress(1, 2)
        except Cancelled:
            self.cancelled = True
            raise
        finally:
            self.ended.set()
        return "late but whole"


def echo(context: OnSettings, parameters: Echo) -> Any:
    """Say it again."""
    return parameters.value


def refuse(context: OnSettings, parameters: Nothing) -> None:
    raise NoSuchCartridge("X")


def fail(context: OnSettings, parameters: Nothing) -> None:
    raise ZeroDivisionError


def count(context: OnSettings, parameters: Count) -> str:
    for number in range(1, parameters.to + 1):
        context.progress(number, parameters.to)
    return "counted"


def many_row(number: int) -> str:
    return f"A{number:05}L6 " * 20


def many(context: OnSettings, parameters: Count) -> list[str]:
    return [many_row(number) for number in range(1, parameters.to + 1)]


def verbs(slow: Slow) -> dict[str, Verb]:
    rows = {"echo": echo, "noun.refuse": refuse, "fail": fail, "count": count, "many": many, "slow": slow.run}
    return {name: row_of(name, Scope.READ, run) for name, run in rows.items()}


def make_server(path: Path, slow: Slow | None = None) -> ControlServer:
    def context(progress: Any) -> OnLibrary:
        return cast(OnLibrary, OnSettings(cast(Any, None), path, progress=progress))

    stopping = threading.Event()
    return ControlServer(path, lambda: make_app(context, stopping, verbs(slow or Slow())), stopping)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def path(tmp_path: Path, slow: Slow) -> Iterator[Path]:
    server = make_server(tmp_path / "c.sock", slow)
    server.start()
    yield tmp_path / "c.sock"
    slow.go_on.set()
    server.stop()
    assert not (tmp_path / "c.sock").exists()


def client(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://tapebay", timeout=60)


def failure(path: Path, name: str, **params: Any) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        call(path, name, **params)
    return caught.value


def test_a_request_is_answered(path: Path) -> None:
    assert call(path, "echo", value=["ä", {"n": 1}]) == ["ä", {"n": 1}]
    assert call(path, "echo", value="b\udcfccher") == "b\udcfccher"  # a path that is not UTF-8
    with client(path) as plain:  # programs that want no events get the result alone
        assert plain.post("/v1/echo", json={"value": 5}).json() == 5


def test_an_answer_may_be_large(path: Path) -> None:
    rows = call(path, "many", to=50_000)
    assert len(rows) == 50_000
    assert rows[-1] == many_row(50_000)


def test_only_owner_and_group_may_ask(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_errors_keep_their_code_and_words(path: Path) -> None:
    error = failure(path, "noun.refuse")
    assert (error.failure, str(error)) == (Failure.NOT_FOUND, str(NoSuchCartridge("X")))
    assert failure(path, "nothing").failure is Failure.USAGE
    error = failure(path, "echo", value=1, other=2, number="many")
    assert error.failure is Failure.USAGE
    assert str(error).splitlines() == [
        "number: must be a whole number, not 'many'",
        "other: there is no such setting; known here: value, number",
    ]
    assert failure(path, "fail").failure is Failure.INTERNAL
    assert call(path, "echo", value=1) == 1


def test_problems_are_those_of_rfc_9457(path: Path) -> None:
    with client(path) as plain:
        answer = plain.post("/v1/noun/refuse")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (404, 404, "not-found")
        assert plain.put("/v1/echo").json()["code"] == "usage"
        assert plain.put("/v1/echo").status_code == 405
        assert plain.post("/elsewhere").json()["detail"] == "there is no verb at /elsewhere"


def test_progress_comes_before_the_answer(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert call(path, "count", progress=lambda done, total: seen.append((done, total)), to=100_000) == "counted"
    assert seen[0] == (1, 100_000)
    assert seen == sorted(seen)
    assert len(seen) < 1000  # what nobody can follow is left out


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b"\xff\xff", b"", b"[" * 100_000, b'{"value": ' + b"9" * 10_000 + b"}"]
)
def test_what_is_not_a_request_is_a_usage_error(path: Path, body: bytes) -> None:
    with client(path) as plain:
        answer = plain.post("/v1/count", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "usage"), answer.text
    assert call(path, "echo", value=1) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_a_request(path: Path, chunked: bool) -> None:
    parts = [b"x" * 4096] * (LIMIT_BODY_BYTES // 4096 + 1)
    with client(path) as plain:
        content: Any = iter(parts) if chunked else b"".join(parts)
        answer = plain.post("/v1/echo", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "usage")
        assert "at most" in answer.json()["detail"]
    assert call(path, "echo", value=1) == 1


@pytest.mark.parametrize(
    "raw", [b"x" * 100_000, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/echo HTTP/1.1\r\n\r\n", b"\0" * 100]
)
def test_what_is_not_http(path: Path, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        with suppress(ConnectionError):  # it hangs up as soon as it has seen enough
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert call(path, "echo", value=1) == 1


def test_too_many_connections_are_refused_and_the_server_goes_on(path: Path) -> None:
    idle = []
    try:
        for _ in range(LIMIT_CONNECTIONS):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(60)
            connection.connect(str(path))
            idle.append(connection)
        assert failure(path, "echo", value=5).failure is Failure.BUSY
    finally:
        for connection in idle:
            connection.close()
    assert eventually(lambda: call(path, "echo", value=5) == 5, despite=(OperatorError,))


def test_no_file_descriptor_left_is_survived(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    monkeypatch.setattr(http_server, "log", Mock(warning=lambda event, **_details: said.append(event)))
    assert call(path, "echo", value=1) == 1  # all that it needs has been imported
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    peers: list[socket.socket] = []

    def is_refused() -> bool:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        os.close(held.pop())
        peers.append(peer := socket.socket(socket.AF_UNIX))
        with contextlib.suppress(BlockingIOError):
            peer.setblocking(False)
            peer.connect(str(path))  # the server cannot accept it
        return "the control server cannot accept a connection" in said

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64 + max(int(name.name) for name in FDS.iterdir()), hard))
        assert eventually(is_refused, despite=(OSError,))  # the server may take the one that was freed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
        for peer in peers:
            peer.close()
    assert eventually(lambda: call(path, "echo", value=5) == 5, despite=(OperatorError,))
    assert not [record for record in caplog.records if record.name == "asyncio"]  # its servers log 2,048 times a second


def test_a_client_that_goes_away_stops_its_verb(path: Path, slow: Slow) -> None:
    with pytest.raises(KeyboardInterrupt):
        call(path, "slow", progress=interrupt)
    assert slow.ended.wait(60)
    assert slow.cancelled
    assert call(path, "echo", value=1) == 1


def interrupt(_done: int, _total: int) -> None:
    raise KeyboardInterrupt


def test_nobody_listens(tmp_path: Path) -> None:
    assert failure(tmp_path / "none.sock", "echo").failure is Failure.NOT_RUNNING
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    error = failure(tmp_path / "dead.sock", "echo")
    assert error.failure is Failure.NOT_RUNNING
    assert "tapebay serve" in str(error)


def test_a_daemon_that_goes_away_while_answering(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert "went away" in str(failure(path, "echo"))
        thread.join()


def test_an_answer_that_comes_before_the_request_has_gone_is_heard(tmp_path: Path) -> None:
    """A daemon that is busy refuses by the head of a request, and hangs up while its body is being sent."""
    path = tmp_path / "c.sock"
    problem = json.dumps({"code": "busy", "detail": "too much is asked for just now"}).encode()
    head = b"HTTP/1.1 503 Busy\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n" % len(problem)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def refuse() -> None:
            connection, _ = listener.accept()
            while not connection.recv(1 << 16, socket.MSG_PEEK).count(b"\r\n\r\n"):
                pass
            connection.sendall(head + problem)
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        error = failure(path, "echo", value="x" * (8 << 20))  # more than a socket holds
        thread.join()
    assert (error.failure, str(error)) == (Failure.BUSY, "too much is asked for just now")


def test_a_deep_library_and_a_socket_left_behind(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    for value in (1, 2):  # the second start finds what a killed daemon would leave
        server = make_server(directory / "tapebay.sock")
        server.start()
        assert call(directory / "tapebay.sock", "echo", value=value) == value
        server.stop()
        (directory / "tapebay.sock").touch()


def test_stopping_ends_idle_connections_and_what_is_at_work(tmp_path: Path) -> None:
    slow = Slow()
    server = make_server(tmp_path / "c.sock", slow)
    server.start()
    said: list[str] = []
    waiting = threading.Thread(target=lambda: said.append(str(failure(tmp_path / "c.sock", "slow"))))
    waiting.start()
    assert slow.begun.wait(60)
    with client(tmp_path / "c.sock") as idle:
        assert idle.post("/v1/echo", json={"value": 5}).json() == 5
        server.stop()
    waiting.join(60)
    assert slow.cancelled
    assert "stopped half-way" in said[0]


def test_stopping_lets_an_answer_out(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    slow = Slow()

    def quiet(context: OnSettings, parameters: Nothing) -> str:
        begun.set()
        go_on.wait(60)
        return "late but whole"

    slow.run = quiet  # type: ignore[method-assign]
    server = make_server(tmp_path / "c.sock", slow)
    server.start()
    results: list[str] = []
    asking = threading.Thread(target=lambda: results.append(call(tmp_path / "c.sock", "slow")))
    asking.start()
    assert begun.wait(60)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    go_on.set()
    asking.join()
    stopper.join()
    assert results == ["late but whole"]


def test_the_document_describes_every_verb() -> None:
    app = make_app(cast(Any, None), threading.Event())
    document = app.openapi()
    assert json.loads(json.dumps(document)) == document
    for name, verb in VERBS.items():
        operation = document["paths"][f"/v1/{name.replace('.', '/')}"]["post"]
        assert operation["operationId"] == name
        assert operation["summary"]
        assert f"Scope: {verb.scope.value}." in operation["description"]
        assert "default" in operation["responses"]


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("disk.create", "size"),
        ("disk.grow", "size"),
        ("cartridge.create", "capacity"),
        ("cartridge.import", "capacity"),
    ],
)
def test_a_size_is_text_or_a_number_of_bytes(name: str, parameter: str) -> None:
    verb = VERBS[name]
    given = {"name": "d", "barcode": "A00001L6", "file": "tape.tap", "format": "simh"}
    others = {field: given[field] for field in verb.parameters.model_fields.keys() & given.keys()}
    for size in (268435456, "268435456", "256 MiB"):
        assert getattr(parameters_of(verb, {**others, parameter: size}), parameter) == str(size)
    for size, said in [(5, "the least is 1 MiB"), (True, "must be"), (1e9, "must be"), (1 << 63, "more than any file")]:
        with pytest.raises(OperatorError, match=f"^{parameter}: .*{said}"):
            parameters_of(verb, {**others, parameter: size})
    schema = verb.parameters.model_json_schema()["properties"][parameter]
    assert {"string", "integer"} <= {form["type"] for form in schema["anyOf"]}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name: str) -> None:
    verb = VERBS[name]
    assert re.fullmatch(r"[a-z]+(\.[a-z]+)?", name)
    assert verb.summary.endswith(".")
    for field_name, field in verb.parameters.model_fields.items():
        assert field.description, field_name


BIG = json.dumps({"value": "x" * 900_000}).encode()
HEAD = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD,
        HEAD + b"Content-Length: 10\r\n\r\n{",
        HEAD + b"Content-Length: 2\r\n\r\n{}" + HEAD + b"Content-Length: 10\r\n\r\n{",
        HEAD + b"Content-Length: %d\r\n\r\n" % len(BIG) + BIG,
        HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG,
    ],
    ids=["half a head", "half a body", "half a second request", "an answer unread", "a last answer unread"],
)
def test_who_does_not_finish_holds_no_place_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with monkeypatch.context() as patched, socket.socket(socket.AF_UNIX) as idle:
        patched.setattr(protocol, "TRANSFER_SECONDS", 0.2)
        idle.settimeout(60)
        idle.connect(str(path))
        with suppress(OSError):  # it may be hung up on already
            idle.sendall(sent)
        poll = select.poll()
        poll.register(idle, 0)  # nothing is read: only the hang-up is waited for
        assert poll.poll(60_000), "the connection stays for ever"
    assert call(path, "echo", value=1) == 1
