"""Event streams: none is lost, whoever is slow or away; nobody is held up by who does not read."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.access.caller import Scope
from appliance.control import protocol, tcp
from appliance.control.client import Client
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.web import events as feeds
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.appliance.api_server import Api, gone, serving
from vlib_images.library.database import events
from vlib_images.library.database.events import Event

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path, {"audit.list": VERBS["audit.list"]}) as serves:
        yield serves


@pytest.fixture
def http(api: Api) -> Iterator[httpx.Client]:
    with api.http(api.token()) as client:
        yield client


def happen(api: Api, *subjects: str, action: str = "tested") -> None:
    with api.files.database.change(*[Event(action, subject) for subject in subjects]):
        pass


def newest(api: Api) -> int:
    return api.told()[0].number


def read(lines: Iterator[str], count: int) -> list[dict[str, Any]]:
    """So many events of a stream; each has its number as id."""
    found: list[dict[str, Any]] = []
    number = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            number = value
        elif name == "data":
            found.append(json.loads(value))
            assert found[-1]["number"] == int(number)
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {len(found)} events")


def begun(answer: httpx.Response) -> Iterator[str]:
    """The lines of a stream that has begun."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.iter_lines()
    assert next(lines) == "retry: 2000"
    return lines


def test_what_happens_is_streamed_and_a_stream_resumed_loses_nothing(api: Api, http: httpx.Client) -> None:
    with http.stream("GET", "/v1/events", headers=STREAM) as answer:
        lines = begun(answer)
        happen(api, "a", "b")
        seen = read(lines, 2)
    assert [(event["action"], event["subject"]) for event in seen] == [("tested", "a"), ("tested", "b")]
    happen(api, "c")
    happen(api, *map(str, range(500)))
    headers = {**STREAM, "Last-Event-ID": str(seen[-1]["number"])}
    with http.stream("GET", "/v1/events", headers=headers) as answer:
        lines = begun(answer)
        more = read(lines, 501)
        happen(api, "d")
        more += read(lines, 1)
    assert [event["number"] for event in more] == list(range(seen[-1]["number"] + 1, newest(api) + 1))
    assert more[-1]["subject"] == "d"


def test_all_from_the_beginning_and_only_some(api: Api, http: httpx.Client) -> None:
    happen(api, "a", "b")
    happen(api, "b", action="other")
    with http.stream("GET", "/v1/events?after=0", headers=STREAM) as answer:
        assert [event["number"] for event in read(begun(answer), newest(api))] == list(range(1, newest(api) + 1))
    with http.stream("GET", "/v1/events?after=0&subject=b", headers=STREAM) as answer:
        assert [event["action"] for event in read(begun(answer), 2)] == ["tested", "other"]
    page = http.get("/v1/events", params={"after": 0, "action": "other"}).json()
    assert [event["subject"] for event in page["items"]] == ["b"]
    assert http.get("/v1/events", params={"after": page["last"]}).json() == {"items": [], "last": page["last"]}
    assert http.get("/v1/events").json()["items"] == []


def test_every_stream_gets_every_event_while_many_write(api: Api) -> None:
    token = api.token()
    streams, writers, each = 12, 4, 40
    found: list[list[int]] = [[] for _ in range(streams)]
    ready = threading.Barrier(streams + 1)

    def follow(index: int) -> None:
        with api.http(token) as http, http.stream("GET", "/v1/events", headers=STREAM) as answer:
            lines = begun(answer)
            ready.wait(60)
            found[index] = [event["number"] for event in read(lines, writers * each)]

    followers = [threading.Thread(target=follow, args=(index,)) for index in range(streams)]
    for thread in followers:
        thread.start()
    ready.wait(60)
    first = newest(api) + 1
    writing = [
        threading.Thread(target=lambda: [happen(api, str(number)) for number in range(each)]) for _ in range(writers)
    ]
    for thread in [*writing, *followers]:
        if thread in writing:
            thread.start()
    for thread in [*writing, *followers]:
        thread.join(60)
    assert found == [list(range(first, first + writers * each))] * streams


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Last-Event-ID": "x"}, {}, 409),
        ({"Last-Event-ID": "-1"}, {}, 409),
        ({"Last-Event-ID": "9" * 30}, {}, 409),
        ({"Last-Event-ID": "100000"}, {}, 409),
        ({}, {"after": 100000}, 409),
        ({}, {"after": -1}, 422),
        ({}, {"after": "x"}, 422),
        ({}, {"other": 1}, 422),
    ],
)
def test_a_place_that_is_none(http: httpx.Client, headers: dict[str, str], query: dict[str, Any], status: int) -> None:
    answer = http.get("/v1/events", headers={**STREAM, **headers}, params=query)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_pruned_is_said_not_skipped(api: Api, http: httpx.Client) -> None:
    happen(api, *map(str, range(20)))
    with api.files.database.change() as connection:
        events.forget_oldest(connection, kept=5)
    answer = http.get("/v1/events", headers={**STREAM, "Last-Event-ID": "1"})
    assert (answer.status_code, answer.json()["code"]) == (410, "not-found")
    kept = newest(api) - 5
    assert f"go on from {kept}" in answer.json()["detail"]
    with http.stream("GET", "/v1/events", headers={**STREAM, "Last-Event-ID": str(kept)}) as resumed:
        assert len(read(begun(resumed), 5)) == 5


def test_the_client_follows_and_comes_back(tmp_path: Path) -> None:
    verbs = {"audit.list": VERBS["audit.list"]}
    port = free_port()
    with serving(tmp_path, verbs, port=port) as api:
        token = api.token()
        happen(api, "a", "b")
        happen(api, "other", action="else")
        first = newest(api) - 3
        following = Client.at(api.url, token).follow(first, action="tested", patience_seconds=300)
        assert [next(following)["subject"] for _ in range(2)] == ["a", "b"]
    with serving(tmp_path, verbs, port=port) as api:  # the daemon was started anew
        happen(api, "c")
        assert next(following)["subject"] == "c"
        with pytest.raises(OperatorError) as lost:
            next(Client.at(api.url, token).follow(10**6))
        assert lost.value.failure is Failure.REFUSED
        following.close()


def test_streams_go_on_after_the_record_could_not_be_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread, no descriptor, or the disk: for a moment, just when something happens."""
    for error in (OperatorError(Failure.BUSY, "no thread to spare"), OSError("disk I/O error")):
        with api.http(api.token()) as http, http.stream("GET", "/v1/events", headers=STREAM) as answer:
            lines = begun(answer)
            happen(api, "a")
            read(lines, 1)
            failed, after = list[int](), events.after

            def fails(*given: Any, failed: Any = failed, after: Any = after, error: Any = error, **more: Any) -> Any:
                failed.append(1)
                if len(failed) == 1:
                    raise error
                return after(*given, **more)

            monkeypatch.setattr(events, "after", fails)
            happen(api, "b")
            eventually(lambda failed=failed: failed)
            happen(api, "c")
            assert [event["subject"] for event in read(lines, 2)] == ["b", "c"]
            monkeypatch.undo()


def test_a_stream_ends_with_its_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "QUIET_SECONDS", 0.1)
    secret = api.files.tokens.create("gone", Scope.READ)[1]
    with api.http(secret) as http, http.stream("GET", "/v1/events", headers=STREAM) as answer:
        lines = begun(answer)
        api.files.tokens.revoke("gone")
        rest = list(lines)
    assert not [line for line in rest if line.startswith("data") and "revoked" in line and "later" in line]
    with api.http(secret) as http:
        assert http.get("/v1/events", headers=STREAM).status_code == 401


def test_a_token_for_a_part_sees_no_events_of_the_whole(api: Api) -> None:
    with api.http(api.token(partitions=frozenset(["left"]))) as http:
        assert http.get("/v1/events", headers=STREAM).status_code == 403


def test_streams_are_counted(api: Api, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LIMIT_STREAMS_OF_A_CALLER", 1)
    with http.stream("GET", "/v1/events", headers=STREAM) as answer:
        lines = begun(answer)
        refused = http.get("/v1/events", headers=STREAM)
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        happen(api, "a")
        assert read(lines, 1)[0]["subject"] == "a"
    monkeypatch.setattr(feeds, "QUIET_SECONDS", 0.1)

    def free() -> bool:
        with http.stream("GET", "/v1/events", headers=STREAM) as answer:
            return answer.status_code == 200

    assert eventually(free)


def asking(api: Api, token: str) -> socket.socket:
    """A stream of everything, of which nothing is read."""
    connection = api.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = (
        f"GET /v1/events?after=0 HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}"
    )
    connection.sendall(request.encode() + b"\r\n\r\n")
    return connection


def test_a_client_that_never_reads_is_dropped_and_holds_nobody_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TRANSFER_SECONDS", 3.0)
    monkeypatch.setattr(tcp, "TRANSFER_SECONDS", 3)
    token = api.token()
    for _ in range(20):
        happen(api, *["x" * 200 for _ in range(500)])
    idle = [asking(api, token) for _ in range(10)]
    try:
        with api.http(token) as http, http.stream("GET", "/v1/events", headers=STREAM) as answer:
            lines = begun(answer)
            began = time.monotonic()
            happen(api, "quick")
            assert read(lines, 1)[0]["subject"] == "quick"
            assert time.monotonic() - began < 40
        assert eventually(lambda: api.server.connections == 0)
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_goes_away_leaves_its_stream(api: Api) -> None:
    token = api.token()
    for _ in range(3):
        with api.http(token) as http, http.stream("GET", "/v1/events", headers=STREAM) as answer:
            begun(answer)
    assert eventually(lambda: api.server.connections == 0)


def test_stopping_ends_streams(tmp_path: Path) -> None:
    with serving(tmp_path, {"audit.list": VERBS["audit.list"]}) as api:
        token = api.token()
        connection = asking(api, token)
        assert connection.recv(100)
        began = time.monotonic()
        api.server.stop()
        assert time.monotonic() - began < 40
        assert gone(connection)
        connection.close()
