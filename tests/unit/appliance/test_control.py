"""The control socket: requests, errors, bounds, and a server that goes on whatever one client does."""

import json
import socket
import stat
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.control.client import LIMIT_LINE_BYTES, call
from appliance.control.server import LIMIT_CONNECTIONS, ControlServer
from appliance.failures import Failure, OperatorError


def echo(value: Any) -> Any:
    return value


def refuse() -> None:
    raise OperatorError(Failure.NOT_FOUND, "there is no cartridge X")


def fail() -> None:
    raise ZeroDivisionError


def count(to: int) -> Generator[tuple[int, int], None, str]:
    for number in range(1, to + 1):
        yield number, to
    if to > 3:
        raise KeyError(to)
    return "counted"


@contextmanager
def guard() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise OperatorError(Failure.REFUSED, f"guarded {error}") from error


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    server = ControlServer(tmp_path / "c.sock", {"echo": echo, "refuse": refuse, "fail": fail, "count": count}, guard)
    server.start()
    yield tmp_path / "c.sock"
    server.stop()
    assert not (tmp_path / "c.sock").exists()


def exchange(path: Path, *lines: bytes) -> list[Any]:
    """The answers to raw lines, up to the end of the connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(b"".join(lines))
        connection.shutdown(socket.SHUT_WR)
        return [json.loads(line) for line in connection.makefile("rb")]


def failure(path: Path, method: str, **params: Any) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        call(path, method, **params)
    return caught.value


def test_a_request_is_answered(path: Path) -> None:
    assert call(path, "echo", value=["ä", {"n": 1}]) == ["ä", {"n": 1}]


def test_only_owner_and_group_may_ask(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_errors_keep_their_code_and_words(path: Path) -> None:
    error = failure(path, "refuse")
    assert (error.failure, str(error)) == (Failure.NOT_FOUND, "there is no cartridge X")
    assert failure(path, "nothing").failure is Failure.USAGE
    assert "unexpected keyword argument 'other'" in str(failure(path, "echo", value=1, other=2))
    assert failure(path, "fail").failure is Failure.INTERNAL
    assert call(path, "echo", value=1) == 1


def test_progress_comes_before_the_answer(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert call(path, "count", progress=lambda done, total: seen.append((done, total)), to=3) == "counted"
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_guard_turns_errors_into_answers(path: Path) -> None:
    error = failure(path, "count", to=4)
    assert (error.failure, str(error)) == (Failure.REFUSED, "guarded 4")


def test_several_requests_on_one_connection(path: Path) -> None:
    lines = [json.dumps({"version": 1, "method": "echo", "params": {"value": n}}).encode() + b"\n" for n in range(3)]
    assert [answer["result"] for answer in exchange(path, *lines)] == [0, 1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[]\n",
        b"\xff\xff\n",
        b'{"version": 1}\n',
        b'{"version": 2, "method": "echo", "params": {}}\n',
        b'{"version": 1, "method": "echo", "params": []}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (LIMIT_LINE_BYTES + 10),
    ],
)
def test_what_is_not_a_request_is_a_usage_error(path: Path, line: bytes) -> None:
    (answer,) = exchange(path, line)
    assert answer["version"] == 1
    assert answer["error"]["code"] == "usage"
    assert call(path, "echo", value=1) == 1


def test_too_many_connections_are_closed_and_the_others_go_on(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as first:
        first.settimeout(20)
        first.connect(str(path))
        idle = [socket.socket(socket.AF_UNIX) for _ in range(LIMIT_CONNECTIONS)]
        for connection in idle:
            connection.settimeout(20)
            connection.connect(str(path))
        assert idle[-1].recv(1) == b""
        first.sendall(b'{"version": 1, "method": "echo", "params": {"value": 5}}\n')
        assert json.loads(first.makefile("rb").readline())["result"] == 5
        for connection in idle:
            connection.close()


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


def test_a_deep_library_and_a_socket_left_behind(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    for value in (1, 2):  # the second start finds what a killed daemon would leave
        server = ControlServer(directory / "tapebay.sock", {"echo": echo})
        server.start()
        assert call(directory / "tapebay.sock", "echo", value=value) == value
        server.stop()
        (directory / "tapebay.sock").touch()


def test_stopping_ends_idle_connections(tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "c.sock", {"echo": echo})
    server.start()
    with socket.socket(socket.AF_UNIX) as idle:
        idle.settimeout(20)
        idle.connect(str(tmp_path / "c.sock"))
        idle.sendall(b'{"version": 1, "method": "echo", "params": {"value": 5}}\n')
        assert idle.recv(4096)
        server.stop()
        assert idle.recv(1) == b""


def test_stopping_lets_an_answer_out(tmp_path: Path) -> None:
    stopping, answered = threading.Event(), threading.Event()

    def slow() -> str:
        stopping.set()
        answered.wait(20)
        return "late but whole"

    server = ControlServer(tmp_path / "c.sock", {"slow": slow})
    server.start()
    results: list[str] = []
    client = threading.Thread(target=lambda: results.append(call(tmp_path / "c.sock", "slow")))
    client.start()
    assert stopping.wait(20)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    answered.set()
    client.join()
    stopper.join()
    assert results == ["late but whole"]
