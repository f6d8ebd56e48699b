"""The API on TCP: who is let in, to do what, and bounds for those who are not."""

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from appliance.access.caller import Scope
from appliance.control import seats, tcp
from appliance.control.client import Client
from appliance.failures import Failure, OperatorError
from appliance.library.files import LibraryFiles
from appliance.operations.verb import Nothing, OnFiles, Parameters, row_of
from appliance.settings import config_file
from appliance.web import access
from appliance.web.channel import Channel
from appliance.web.in_process import InProcess
from appliance.web.remote import RemoteBackend
from tests.support import certificates
from tests.support.appliance import Appliance
from tests.support.ports import free_port
from tests.support.waiting import becomes, eventually
from tests.unit.appliance.api_server import CONFIG, Api, gone, serving
from vlib_images.library.actor import actor
from vlib_images.library.database import events
from vlib_images.library.database.events import Event


class Echo(Parameters):
    value: Any = None


def look(context: OnFiles, parameters: Echo) -> Any:
    """Say it again."""
    return parameters.value


def whoami(context: OnFiles, parameters: Nothing) -> str:
    """Who acts."""
    return actor()


def decide(context: OnFiles, parameters: Nothing) -> None:
    """Decide."""


ROWS = {
    "look": row_of("look", Scope.READ, look),
    "part.look": row_of("part.look", Scope.READ, look, confinable=True),
    "whoami": row_of("whoami", Scope.OPERATE, whoami),
    "decide": row_of("decide", Scope.ADMINISTER, decide),
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path, ROWS) as serves:
        yield serves


# ---- who is let in --------------------------------------------------------------------------------------------------


def test_nobody_is_let_in_without_a_token(api: Api) -> None:
    token = api.token()
    for given in ({}, {"Authorization": ""}, {"Authorization": f"Basic {token}"}, {"Authorization": "Bearer"}):
        with api.http() as http:
            answer = http.post("/v1/look", headers=given)
            assert (answer.status_code, answer.json()["code"]) == (401, "not-permitted")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "tapebay token create" in answer.json()["detail"]
            assert http.get("/v1/openapi.json", headers=given).status_code == 401
            assert http.get("/", headers=given).status_code == 401
    for wrong in (token[:-1], token + "A", "tapebay_" + "A" * 43, "x" * 5000):
        with api.http(wrong) as http:
            assert http.post("/v1/look").status_code == 401
    with api.http(token) as http:
        assert http.post("/v1/look", json={"value": 5}).json() == 5
        twice = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}x")]
        assert http.build_request("POST", "/v1/look").headers
        assert httpx.post(f"{api.url}/v1/look", headers=twice, timeout=60).status_code == 401


def test_each_verb_takes_its_scope(api: Api) -> None:
    for scope, allowed in [
        (Scope.READ, ["look"]),
        (Scope.OPERATE, ["look", "whoami"]),
        (Scope.ADMINISTER, ["look", "whoami", "decide"]),
    ]:
        with api.http(api.token(scope)) as http:
            answers = {name: http.post(f"/v1/{name}") for name in ("look", "whoami", "decide")}
        assert [name for name, answer in answers.items() if answer.status_code == 200] == allowed
        for name in answers.keys() - set(allowed):
            assert answers[name].status_code == 403
            assert answers[name].json()["code"] == "not-permitted"
            assert "takes the scope" in answers[name].json()["detail"]


def test_a_token_for_a_part_does_only_what_keeps_to_it(api: Api) -> None:
    for reach in ({"partitions": frozenset(["left"])}, {"pools": frozenset(["scratch"])}):
        with api.http(api.token(Scope.ADMINISTER, **reach)) as http:
            assert http.post("/v1/part/look", json={"value": 1}).json() == 1
            for name in ("look", "whoami", "decide"):
                answer = http.post(f"/v1/{name}")
                assert (answer.status_code, answer.json()["code"]) == (403, "not-permitted")
                assert "is for a part of it" in answer.json()["detail"]


def test_who_acts_is_the_token_s_name(api: Api) -> None:
    api.files.tokens.create("payroll", Scope.READ)
    with api.http(api.files.tokens.create("nightly", Scope.OPERATE)[1]) as http:
        assert http.post("/v1/whoami").json() == "token nightly"


def test_a_revoked_and_an_expired_token_open_nothing(api: Api) -> None:
    secret = api.files.tokens.create("gone", Scope.READ)[1]
    with api.http(secret) as http:
        assert http.post("/v1/look").status_code == 200
        api.files.tokens.revoke("gone")
        assert http.post("/v1/look").status_code == 401
    with api.http(api.token(valid_ms=1)) as http:
        becomes(401, lambda: http.post("/v1/look").status_code)


def test_guessing_is_slowed_down_and_audited_and_keeps_no_one_out(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "FAILURES_AT_ONCE", 20)
    monkeypatch.setattr(access, "FAILURE_SECONDS", 600.0)
    with serving(tmp_path, ROWS) as api:
        guess_too_often(api, capsys)


def guess_too_often(api: Api, capsys: Any) -> None:
    token = api.token()
    guesses = [f"tapebay_{number:043}" for number in range(access.FAILURES_AT_ONCE + 5)]
    answers = [
        httpx.post(f"{api.url}/v1/look", headers={"Authorization": f"Bearer {guess}"}, timeout=60) for guess in guesses
    ]
    assert [answer.status_code for answer in answers] == [401] * access.FAILURES_AT_ONCE + [429] * 5
    assert answers[-1].headers["retry-after"] == "600"
    assert answers[-1].json()["code"] == "busy"
    with api.http(token) as http:
        assert http.post("/v1/look").status_code == 200
    told = [event for event in api.told() if event.action == "request refused"]
    assert 1 < len(told) <= 20
    assert {event.actor for event in told} == {"stranger"}
    assert told[0].subject == "POST /v1/look"
    assert told[0].details["peer"] == "127.0.0.1"
    output = capsys.readouterr()
    assert not any(secret in repr(told) + output.out + output.err for secret in (token, *guesses))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(OperatorError(Failure.NOT_RUNNING, "the daemon is gone"), 503, "not-running"), (KeyError("x"), 500, "internal")],
)
def test_what_goes_wrong_before_anybody_is_let_in_is_a_problem(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    """The daemon was killed, or a fault of ours: whoever asks is told in the form that the document promises."""
    token = api.token()

    async def fails(*_given: object) -> None:
        raise error

    monkeypatch.setattr(InProcess, "token", fails)
    with api.http(token) as http:
        for path in ("/v1/look", "/v1/events", "/metrics"):
            answer = http.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
            assert answer.json()["code"] == code


def test_a_refusal_that_nobody_can_write_down_is_one_all_the_same() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with closing(Channel(ours)) as channel, capture_logs() as told:
        asyncio.run(RemoteBackend(channel).tell("stranger", Event("request refused", "GET /")))
    assert [line["event"] for line in told] == ["a refused request is not in the audit record"]


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input_leaves_a_line_in_the_audit_record(api: Api) -> None:
    with api.http(api.token()) as http:
        for path, sent, status, code in [
            ("look", {"json": {"valu": 1}}, 422, "usage"),
            ("look", {"content": b"{"}, 422, "usage"),
            ("nothing", {}, 404, "usage"),
            ("decide", {}, 403, "not-permitted"),
            ("look", {"content": b"x" * (2 << 20)}, 413, "usage"),
        ]:
            answer = http.post(f"/v1/{path}", **sent)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"
            newest = api.told()[0]
            assert (newest.action, newest.actor) == ("request refused", "token t0")
            assert newest.details["status"] == status
        answer = http.put("/v1/look")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
        assert api.told()[0].subject == "PUT /v1/look"


def test_head_answers_as_get_without_a_body(api: Api) -> None:
    with api.http(api.token()) as http:
        for path in ("/v1/look?value=3", "/v1/openapi.json", "/v1/nothing"):
            got, head = http.get(path), http.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
        assert http.get("/v1/look?value=3").content != b""  # the connection is in step
        assert (http.head("/v1/decide").status_code, http.head("/v1/decide").headers["allow"]) == (405, "POST")
        events = http.head("/v1/events", headers={"Accept": "text/event-stream"})
        assert (events.status_code, events.content) == (200, b"")
        assert events.headers["content-type"].startswith("text/event-stream")
        assert http.get("/v1/look?value=4").json() == "4"
    with api.http() as http:
        assert http.head("/v1/look").status_code == 401


def test_lines_about_bad_input_are_bounded(api: Api) -> None:
    with api.http(api.token()) as http:
        for _ in range(60):
            assert http.post("/v1/nothing").status_code == 404
    assert len([event for event in api.told() if event.action == "request refused"]) == 20


def test_too_many_header_fields(api: Api) -> None:
    with api.http(api.token()) as http:
        answer = http.post("/v1/look", headers={f"X-{number}": "1" for number in range(200)})
        assert (answer.status_code, answer.json()["code"]) == (431, "usage")
        answer = http.post(f"/v1/{'x' * 40_000}")
        assert (answer.status_code, answer.json()["code"]) == (431, "usage")


@pytest.mark.parametrize(
    "raw",
    [
        b"x" * 100_000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 100,
        b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000,
        b"POST /v1/look HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/look HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/look HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_problem(api: Api, raw: bytes) -> None:
    with api.connect() as connection:
        received = b""
        with contextlib.suppress(ConnectionError):  # it hangs up as soon as it has seen enough, also while it is sent
            connection.sendall(raw)
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(65536):
                received += more
    head, _, body = received.partition(b"\r\n\r\n")
    if head:  # reset before it was read, where more came than was looked at
        assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401"))
        assert b"application/problem+json" in head
        assert json.loads(body)["code"] in ("usage", "not-permitted")
        assert eventually(lambda: api.told()[0].action == "request refused")
    with api.http(api.token()) as http:
        assert http.post("/v1/look", json={"value": 5}).json() == 5


def test_nothing_is_smuggled_behind_a_request_of_two_lengths(api: Api) -> None:
    """RFC 9112 6.1: a proxy before us may take for one request what is two to us."""
    asks = f"Host: a\r\nAuthorization: Bearer {api.token()}\r\n"
    two = f"POST /v1/look HTTP/1.1\r\n{asks}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with api.connect() as connection:
        connection.sendall(f"{two}GET /v1/look?value=7 HTTP/1.1\r\n{asks}\r\n".encode())
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                received += more
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 2" not in received


@pytest.mark.parametrize("target", ["http://a:1/v1/look?value=3", "HTTPS://a/v1/look?value=3"])
def test_an_absolute_target_is_what_its_path_is(api: Api, target: str) -> None:
    """RFC 9112 3.2.2: every server takes it."""
    with api.connect() as connection:
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            f"Authorization: Bearer {api.token()}\r\n\r\n".encode()
        )
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b'"3"')


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_strangers_leave_places_for_those_with_a_token(api: Api) -> None:
    token = api.token()
    with contextlib.ExitStack() as opened:
        known = opened.enter_context(api.http(token))
        assert known.post("/v1/look").status_code == 200
        strangers = [opened.enter_context(api.connect()) for _ in range(seats.LIMIT_STRANGERS_OF_A_PEER + 10)]
        for one in strangers[:10]:  # the oldest
            assert gone(one)
        assert known.post("/v1/look").status_code == 200
        with api.http(token) as another:  # from the same address
            assert another.post("/v1/look").status_code == 200
        eventually(lambda: api.server.connections <= seats.LIMIT_STRANGERS_OF_A_PEER + 2)
    assert eventually(lambda: api.server.connections == 0)


def test_those_that_come_in_a_burst_are_let_go_as_well(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are there before the first is looked at, so those that go have not been begun yet."""
    monkeypatch.setattr(seats, "LIMIT_STRANGERS_OF_A_PEER", 10)
    all_there, take = threading.Event(), api.server._seats.take

    def take_when_all_are_there(address: str) -> seats.Seat | None:
        assert all_there.wait(60)
        return take(address)

    monkeypatch.setattr(api.server._seats, "take", take_when_all_are_there)
    with contextlib.ExitStack() as opened:
        strangers = [opened.enter_context(api.connect()) for _ in range(30)]
        gc.disable()  # which would close them too, some time
        opened.callback(gc.enable)
        all_there.set()
        assert all(gone(one) for one in strangers[:20])
    assert eventually(lambda: api.server.connections == 0)


def test_a_stranger_may_not_stay(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "STRANGER_SECONDS", 2.0)
    with api.http(api.token()) as http:
        assert http.post("/v1/look").status_code == 200
        with api.connect() as idle, api.connect() as slow:  # who come later
            slow.sendall(b"POST /v1/look HTTP/1.1\r\nHost: a\r\n")
            assert gone(idle)
            assert gone(slow)
        becomes(1, lambda: api.server.connections)
        assert http.post("/v1/look").status_code == 200
    assert eventually(lambda: api.server.connections == 0)


def test_places() -> None:
    taken, ended = seats.Seats(), list[seats.Seat]()

    def take(address: str) -> seats.Seat:
        seat = taken.take(address)
        assert seat is not None
        seat.end = lambda: ended.append(seat)
        return seat

    most = seats.LIMIT_STRANGERS_OF_A_PEER
    held = [take("192.0.2.1") for _ in range(most)]
    take("192.0.2.1")
    assert ended == held[:1]
    held[1].show_token()
    held[1].show_token()
    take("192.0.2.1")
    assert ended == held[:1]
    for _ in range(2):
        held[1].leave()
        held[1].show_token()
    assert taken.taken == most
    # A host has any number of addresses in its network.
    v6 = [take(f"2001:db8::{number:x}") for number in range(most + 1)]
    assert ended == [held[0], v6[0]]
    take("192.0.2.3")  # too many strangers in all: the oldest of them goes
    assert ended == [held[0], v6[0], held[2]]
    assert taken.taken == seats.LIMIT_STRANGERS


def test_clients_with_a_token_may_have_all_places() -> None:
    taken = seats.Seats()
    for number in range(seats.LIMIT_CONNECTIONS):
        seat = taken.take(f"192.0.{number // 250}.{number % 250}")
        assert seat is not None
        seat.show_token()
    assert taken.take("198.51.100.1") is None


# ---- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> certificates.Certificates:
    return certificates.make(tmp_path)


def test_tls(tmp_path: Path, pair: certificates.Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "RENEWAL_SECONDS", 0.0)
    with serving(tmp_path, ROWS, certificate=pair.certificate, key=pair.key) as api:
        assert api.url.startswith("https://127.0.0.1:")
        token = api.token()
        client = Client.at(api.url, token, pair.authority)
        assert client.call("look", value=["ä", 1]) == ["ä", 1]
        once = client.traffic.bytes
        assert 1000 < once < 20_000  # TLS and headers too
        client.call("look", value="x" * 100_000)
        assert once + 200_000 < client.traffic.bytes < once + 300_000
        with pytest.raises(OperatorError) as untrusted:
            Client.at(api.url, token).call("look")
        assert untrusted.value.failure is Failure.NOT_RUNNING
        assert "CERTIFICATE_VERIFY_FAILED" in str(untrusted.value)
        assert "TAPEBAY_CERTIFICATE_AUTHORITY" in str(untrusted.value)
        with monkeypatch.context() as patched:
            patched.setattr(tcp, "HANDSHAKE_SECONDS", 0.3)
            with api.connect() as silent, api.connect() as plain:  # no handshake at all, and no TLS
                plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert gone(silent)
                assert gone(plain)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with api.connect() as connection, pytest.raises((ssl.SSLError, OSError)):
            old.wrap_socket(connection)
        # A renewed certificate is served without a restart.
        renewed = certificates.make(tmp_path, "renewed")
        renewed.certificate.replace(pair.certificate)
        renewed.key.replace(pair.key)
        assert Client.at(api.url, token, renewed.authority).call("look", value=1) == 1
        assert eventually(lambda: api.server.connections == 0)


def test_the_client_says_what_is_wrong(api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failure(make: Any) -> OperatorError:
        with pytest.raises(OperatorError) as caught:
            make()
        return caught.value

    assert "write https://" in str(failure(lambda: Client.at("http://192.0.2.1:1", "t")))
    assert failure(lambda: Client.at("ftp://x", "t")).failure is Failure.USAGE
    assert failure(lambda: Client.at(api.url, "two words")).failure is Failure.USAGE
    error = failure(lambda: Client.at(api.url, "tapebay_x").call("look"))
    assert error.failure is Failure.NOT_PERMITTED
    assert failure(lambda: Client.at(api.url, api.token()).call("decide")).failure is Failure.NOT_PERMITTED
    port = free_port()
    assert failure(lambda: Client.at(f"http://127.0.0.1:{port}", "t").call("look")).failure is Failure.NOT_RUNNING
    assert Client.from_environment() is None
    monkeypatch.setenv("TAPEBAY_API", api.url)
    assert "TAPEBAY_TOKEN" in str(failure(Client.from_environment))
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(api.token() + "\n")
    monkeypatch.setenv("TAPEBAY_TOKEN_FILE", str(file))
    client = Client.from_environment()
    assert client is not None
    assert client.call("look", value=7) == 7
    assert client.token not in repr(client)


# ---- the daemon -----------------------------------------------------------------------------------------------------


def test_the_daemon_serves_it(tmp_path: Path) -> None:
    port = free_port()
    pair = certificates.make(tmp_path)
    more = f'[api]\nlisten = "127.0.0.1:{port}"\ncertificate = "{pair.certificate.name}"\nkey = "{pair.key.name}"\n'
    with Appliance(tmp_path, cartridges=2, more=more) as appliance:
        token = appliance.call("token.create", name="nightly", scope="operate")["token"]
        client = Client.at(f"https://127.0.0.1:{port}", token, pair.authority)
        assert client.call("load", cartridge="TST001L6")["to"] == "drive:0"
        with pytest.raises(OperatorError, match="takes the scope administer"):
            client.call("shutdown")
        ready = next(entry for entry in appliance.log if entry["event"] == "ready")
        assert ready["api"] == f"https://127.0.0.1:{port}"
        appliance.call("token.revoke", name="nightly")
        with pytest.raises(OperatorError, match="revoked or expired"):  # of either process, whichever knew first
            client.call("status")
        assert token not in appliance.log_text()
    files = LibraryFiles.open(config_file.load(appliance.config))
    with files, files.database.read() as connection:
        moved = next(event for event in events.latest(connection, 50) if event.action == "cartridge moved")
    assert moved.actor == "token nightly"


def settings_error(text: str, folder: Path) -> str:
    with pytest.raises(config_file.ConfigError) as caught:
        config_file.parse(folder / "tapebay.toml", CONFIG + text)
    return str(caught.value)


def test_without_tls_only_this_host_is_served(tmp_path: Path) -> None:
    for listen in ("0.0.0.0:8443", "192.0.2.1:8443", "[::]:8443"):
        assert "give certificate and key" in settings_error(f'[api]\nlisten = "{listen}"\n', tmp_path)
    for listen in ("127.0.0.1:8443", "127.9.9.9:1", "[::1]:8443"):
        config_file.parse(tmp_path / "tapebay.toml", f'{CONFIG}[api]\nlisten = "{listen}"\n')
    assert "both" in settings_error('[api]\nlisten = "0.0.0.0:1"\nkey = "k"\n', tmp_path)
    assert "not an IP address" in settings_error('[api]\nlisten = "localhost:1"\n', tmp_path)
    assert "is given 2 times" in settings_error(
        '[api]\nlisten = "127.0.0.1:3260"\n[[portals]]\nlisten = "127.0.0.1:3260"\n', tmp_path
    )
