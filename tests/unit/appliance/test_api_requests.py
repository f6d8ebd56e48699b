"""Pages of lists, versions, and requests that are sent twice."""

import base64
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import httpx
import pytest
from pydantic import Strict

from appliance.access.caller import Scope
from appliance.failures import OperatorError
from appliance.operations import VERBS
from appliance.operations.verb import Cancelled, Nothing, OnFiles, Parameters, Result, row_of
from appliance.web import idempotency
from appliance.web.idempotency import IdempotencyKeys, Once
from tests.support.database import new_database
from tests.unit.appliance.api_server import Api, serving
from vlib_images.library.inventory import NoSuchCartridge


class Thing(Result):
    """One of many."""

    name: str
    number: int


class Make(Parameters):
    name: str
    secret: str = ""


class Shop:
    """Verbs of a test, and what they have done."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def list(self, context: OnFiles, parameters: Nothing) -> list[Thing]:
        """List."""
        return [Thing(name=name, number=number) for number, name in enumerate(self.made)]

    def make(self, context: OnFiles, parameters: Make) -> Thing:
        """Make one."""
        self.made.append(parameters.name)
        return Thing(name=f"{parameters.name} {parameters.secret}".strip(), number=len(self.made))

    def slow(self, context: OnFiles, parameters: Nothing) -> str:
        """Make one, and wait."""
        self.made.append("slow")
        self.begun.set()
        assert self.go_on.wait(60)
        return "done"

    def refuse(self, context: OnFiles, parameters: Nothing) -> None:
        """Refuse."""
        self.made.append("refused")
        raise NoSuchCartridge("X")

    def half(self, context: OnFiles, parameters: Nothing) -> None:
        """Stop half-way."""
        self.made.append("half")
        raise Cancelled

    def long(self, context: OnFiles, parameters: Nothing) -> str:
        """Answer at length."""
        self.made.append("long")
        return "!" + random.Random(1).randbytes(100_000).hex()

    def rows(self) -> dict[str, Any]:
        operate = {name: getattr(self, name) for name in ("make", "slow", "refuse", "half", "long")}
        return {
            "thing.list": row_of("thing.list", Scope.READ, self.list, key=("name",)),
            **{f"thing.{name}": row_of(f"thing.{name}", Scope.OPERATE, run) for name, run in operate.items()},
            **{name: VERBS[name] for name in ("zone.create", "zone.show", "zone.change", "zone.delete", "zone.list")},
            **{name: VERBS[name] for name in ("cartridge.create", "cartridge.list", "cartridge.show", "audit.list")},
            **{name: VERBS[name] for name in ("token.create", "token.show", "cartridge.protect")},
        }


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def api(tmp_path: Path, shop: Shop) -> Iterator[Api]:
    with serving(tmp_path, shop.rows()) as serves:
        yield serves


@pytest.fixture
def http(api: Api) -> Iterator[httpx.Client]:
    with api.http(api.token(Scope.ADMINISTER)) as client:
        yield client


# ---- pages ----------------------------------------------------------------------------------------------------------


def pages(http: httpx.Client, path: str, limit: int, **query: Any) -> list[list[dict[str, Any]]]:
    found, cursor = [], None
    while True:
        asked = {"limit": limit, **({"cursor": cursor} if cursor else {}), **query}
        answer = http.get(path, params=asked).raise_for_status().json()
        found.append(answer["items"])
        if (cursor := answer["next_cursor"]) is None:
            return found


def test_a_list_comes_page_by_page_in_the_order_of_its_key(http: httpx.Client, shop: Shop) -> None:
    shop.made = ["d", "a", "e", "c", "b"]
    assert [[row["name"] for row in page] for page in pages(http, "/v1/thing/list", 2)] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]
    assert [len(page) for page in pages(http, "/v1/thing/list", 5)] == [5]
    assert http.get("/v1/thing/list").json()["next_cursor"] is None
    shop.made = []
    assert http.get("/v1/thing/list").json() == {"items": [], "next_cursor": None}


def test_what_comes_and_goes_between_pages_shifts_nothing(http: httpx.Client, shop: Shop) -> None:
    shop.made = ["a", "c", "e", "g"]
    first = http.get("/v1/thing/list", params={"limit": 2}).json()
    shop.made = ["0", "b", "c", "d", "g"]
    second = http.get("/v1/thing/list", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["name"] for row in first["items"] + second["items"]] == ["a", "c", "d", "g"]


def test_cartridges_and_events_page_by_page(http: httpx.Client) -> None:
    made = http.post("/v1/cartridge/create", json={"barcode": "A00001L6", "count": 7, "place": "shelf"}, timeout=60)
    assert len(made.json()) == 7
    cartridges = [row["barcode"] for page in pages(http, "/v1/cartridge/list", 3) for row in page]
    assert cartridges == [f"A0000{n}L6" for n in range(1, 8)]
    assert len(http.post("/v1/cartridge/list").json()) == 7
    events = [row for page in pages(http, "/v1/audit/list", 4) for row in page]
    numbers = [row["number"] for row in events]
    assert numbers == list(range(1, len(numbers) + 1))
    added = [row["subject"] for page in pages(http, "/v1/audit/list", 2, action="cartridge added") for row in page]
    assert added == cartridges


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1001}, {"limit": "many"}, {"cursor": "!"}, {"cursor": "e30"}, {"other": 1},
              {"cursor": "x" * 3000}, {"cursor": "WzFd"}, {"cursor": "W1tdXQ"}, {"cursor": "W1tb" * 600}]
)  # fmt: skip
def test_a_bad_query_is_said(http: httpx.Client, shop: Shop, query: dict[str, Any]) -> None:
    shop.made = ["a", "b"]
    answer = http.get("/v1/thing/list", params=query)
    assert (answer.status_code in (409, 422), answer.json()["code"]) == (True, "usage")


def test_a_cursor_is_of_its_list(http: httpx.Client, shop: Shop) -> None:
    """That of another list would skip what it does not fit, and nobody would know."""
    shop.made = ["a", "b", "c"]
    cursor = http.get("/v1/thing/list", params={"limit": 1}).json()["next_cursor"]
    assert [row["name"] for row in http.get("/v1/thing/list", params={"cursor": cursor}).json()["items"]] == ["b", "c"]
    answer = http.get("/v1/cartridge/list", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (409, "usage")
    assert "of another list, thing.list" in answer.json()["detail"]


def test_a_cursor_that_nobody_was_given_is_refused(http: httpx.Client) -> None:
    for key in ([2**63], [-(10**30)], [True], [1.5], [None], [[1]]):
        cursor = base64.urlsafe_b64encode(json.dumps(["audit.list", *key]).encode()).decode()
        answer = http.get("/v1/audit/list", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (409, "usage"), key
        assert "next_cursor" in answer.json()["detail"]


def test_of_two_values_none_is_taken(http: httpx.Client) -> None:
    answer = http.get("/v1/cartridge/list?limit=1&limit=2")
    assert (answer.status_code, answer.json()["detail"]) == (409, "limit: is given 2 times")
    for given in ("after=0&after=1", "subject=a&subject=b"):
        answer = http.get(f"/v1/events?{given}")
        assert (answer.status_code, answer.json()["code"]) == (409, "usage")
    answer = http.get("/v1/events", headers=[("Last-Event-ID", "0"), ("Last-Event-ID", "1")])
    assert (answer.status_code, answer.json()["code"]) == (409, "usage")


def test_a_body_that_cannot_be_is_refused_before_it_comes(api: Api) -> None:
    """By its length, and by its coding; an address that ends with a slash is another one."""
    token = api.token(Scope.ADMINISTER)
    for field, status in (("Content-Length: 99999999999", 413), ("Content-Length: 2\r\nContent-Encoding: gzip", 415)):
        with api.connect() as connection:
            head = f"POST /v1/thing/make HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n{field}\r\n\r\n{{}}".encode())
            assert connection.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())
    with api.http(token) as http:
        assert (http.get("/v1/thing/list/").status_code, http.get("/v1/thing/list").status_code) == (404, 200)


# ---- versions -------------------------------------------------------------------------------------------------------


def test_if_match_refuses_a_change_of_what_has_changed(http: httpx.Client) -> None:
    http.post("/v1/zone/create", json={"name": "z", "devices": "changer"}).raise_for_status()
    shown = http.get("/v1/zone/show", params={"name": "z"})
    tag = shown.headers["etag"]
    assert http.post("/v1/zone/show", json={"name": "z"}).headers["etag"] == tag
    changed = http.post("/v1/zone/change", json={"name": "z", "initiators": "iqn.a.b"}, headers={"If-Match": tag})
    assert changed.status_code == 409, changed.text  # no iSCSI name: refused, and the version stays
    changed = http.post("/v1/zone/change", json={"name": "z", "networks": "192.0.2.0/24"}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    late = http.post("/v1/zone/change", json={"name": "z", "networks": ""}, headers={"If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (412, "changed")
    assert changed.headers["etag"] in late.json()["detail"]
    assert http.get("/v1/zone/show", params={"name": "z"}).json()["networks"] == ["192.0.2.0/24"]
    assert http.post("/v1/zone/delete", json={"name": "z", "open": True}, headers={"If-Match": tag}).status_code == 412
    several = f'"other", {changed.headers["etag"]}'
    gone = http.post("/v1/zone/delete", json={"name": "z", "open": True}, headers={"If-Match": several})
    assert gone.status_code == 200
    assert http.post("/v1/zone/change", json={"name": "z"}, headers={"If-Match": "*"}).status_code == 404


def test_if_none_match_saves_an_answer(http: httpx.Client, shop: Shop) -> None:
    shop.made = ["a"]
    http.post("/v1/zone/create", json={"name": "z", "devices": "changer"}).raise_for_status()
    tag = http.get("/v1/zone/show", params={"name": "z"}).headers["etag"]
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = http.get("/v1/zone/show", params={"name": "z"}, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert http.get("/v1/zone/show", params={"name": "z"}, headers={"If-None-Match": '"x"'}).status_code == 200


def test_what_changes_by_itself_makes_no_new_version(http: httpx.Client, api: Api) -> None:
    api.files.tokens.create("other", Scope.READ)
    tag = http.get("/v1/token/show", params={"name": "t0"}).headers["etag"]
    assert http.get("/v1/token/show", params={"name": "t0"}).headers["etag"] == tag  # used meanwhile
    assert http.get("/v1/token/show", params={"name": "other"}).headers["etag"] != tag


def test_if_match_where_nothing_has_a_version(http: httpx.Client, shop: Shop) -> None:
    answer = http.post("/v1/thing/make", json={"name": "a"}, headers={"If-Match": '"x"'})
    assert (answer.status_code, answer.json()["code"]) == (409, "usage")
    assert shop.made == []
    http.post("/v1/zone/create", json={"name": "z", "devices": "changer"}).raise_for_status()
    answer = http.post("/v1/zone/change", json={"name": "z"}, headers={"If-Match": "unquoted"})
    assert answer.status_code == 412


def test_an_if_match_without_a_tag_is_not_overlooked(http: httpx.Client) -> None:
    """What a script sends whose variable is empty; and several fields are one (RFC 9110 5.3)."""
    http.post("/v1/zone/create", json={"name": "z", "devices": "changer"}).raise_for_status()
    tag = http.get("/v1/zone/show", params={"name": "z"}).headers["etag"]
    for empty in ("", ","):
        answer = http.post("/v1/zone/delete", json={"name": "z", "open": True}, headers={"If-Match": empty})
        assert (answer.status_code, answer.json()["code"]) == (412, "changed"), empty
    assert http.get("/v1/zone/show", params={"name": "z"}).headers["etag"] == tag
    several = [("If-Match", '"other"'), ("If-Match", tag)]
    assert http.post("/v1/zone/delete", json={"name": "z", "open": True}, headers=several).status_code == 200


# ---- requests that are sent twice -----------------------------------------------------------------------------------


def make(http: httpx.Client, key: str, name: str = "a", **more: Any) -> httpx.Response:
    return http.post("/v1/thing/make", json={"name": name, **more}, headers={"Idempotency-Key": key})


def test_the_same_key_does_it_once(http: httpx.Client, shop: Shop, api: Api) -> None:
    first, second = make(http, "k1"), make(http, "k1")
    assert (first.status_code, first.json()) == (200, {"name": "a", "number": 1})
    assert (second.status_code, second.json()) == (200, first.json())
    stream = http.post(
        "/v1/thing/make", json={"name": "a"}, headers={"Idempotency-Key": "k1", "Accept": "text/event-stream"}
    )
    assert stream.text == 'event: result\ndata: {"name":"a","number":1}\n\n'
    assert shop.made == ["a"]
    other = make(http, "k1", "b")
    assert (other.status_code, other.json()["code"]) == (409, "usage")
    assert "another request" in other.json()["detail"]
    assert make(http, "k2", "b").json()["number"] == 2
    with api.http(api.token(Scope.OPERATE)) as another:  # its keys are its own
        assert make(another, "k1", "b").json()["number"] == 3
    assert shop.made == ["a", "b", "b"]


def test_it_holds_when_the_daemon_was_started_anew(tmp_path: Path, shop: Shop) -> None:
    with serving(tmp_path, shop.rows()) as api:
        token = api.token(Scope.ADMINISTER)
        with api.http(token) as http:
            first = make(http, "k1", secret="geheim")
            assert first.json()["name"] == "a geheim"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    assert b"geheim" not in kept
    with serving(tmp_path, shop.rows()) as api, api.http(token) as http:
        assert make(http, "k1", secret="geheim").json() == first.json()
        assert make(http, "k1", secret="other").status_code == 409
    assert shop.made == ["a"]


def test_while_it_is_at_work(http: httpx.Client, shop: Shop, api: Api) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(http.post("/v1/thing/slow", headers={"Idempotency-Key": "k"}))

    first = threading.Thread(target=ask)
    first.start()
    assert shop.begun.wait(60)
    try:
        again = http.post("/v1/thing/slow", headers={"Idempotency-Key": "k"})
        assert (again.status_code, "still at work" in again.json()["detail"]) == (409, True)
    finally:
        shop.go_on.set()
        first.join()
    assert answers[0].json() == "done"
    assert http.post("/v1/thing/slow", headers={"Idempotency-Key": "k"}).json() == "done"
    assert shop.made == ["slow"]


def test_a_daemon_that_was_killed_meanwhile_does_it_not_twice(tmp_path: Path) -> None:
    database = new_database(tmp_path)
    once = Once.of("token a", "Bearer x", "k", "request")
    assert IdempotencyKeys(database).begin(once) is None
    with pytest.raises(Exception, match="look whether it was done"):  # as a new process would find it
        IdempotencyKeys(database).begin(once)


def test_what_was_refused_may_be_tried_again_and_what_stopped_half_way_may_not(http: httpx.Client, shop: Shop) -> None:
    for _ in range(2):
        answer = http.post("/v1/thing/refuse", headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    for _ in range(2):
        answer = http.post("/v1/thing/half", headers={"Idempotency-Key": "h"})
        assert (answer.status_code, "half-way" in answer.json()["detail"]) == (409, True)
    for said in ("!", "was done"):
        answer = http.post("/v1/thing/long", headers={"Idempotency-Key": "l"})
        assert said in answer.text
    assert shop.made == ["refused", "refused", "half", "long"]


@pytest.mark.parametrize("key", ["", "x" * 256, "\u00e4".encode().decode("latin-1"), "a\tb"])
def test_what_is_no_key(http: httpx.Client, shop: Shop, key: str) -> None:
    answer = http.post("/v1/thing/make", json={"name": "a"}, headers={b"Idempotency-Key": key.encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (422, "usage")
    assert shop.made == []


def test_a_key_whose_request_is_at_work_makes_no_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MOST_KEYS_OF_A_CALLER", 3)
    keys = IdempotencyKeys(new_database(tmp_path))
    long_one = Once.of("a", "Bearer x", "long", "request")
    assert keys.begin(long_one) is None
    for number in range(6):
        other = Once.of("a", "Bearer x", str(number), "request")
        assert keys.begin(other) is None
        keys.finish(other, {"result": number})
    for kept_ms in (idempotency.KEPT_MS, -1):  # nor when it takes more than a day
        monkeypatch.setattr(idempotency, "KEPT_MS", kept_ms)
        with pytest.raises(OperatorError, match="still at work"):
            keys.begin(long_one)
        assert keys.begin(Once.of("b", "Bearer y", str(kept_ms), "request")) is None
    monkeypatch.undo()
    keys.finish(long_one, {"result": "long"})
    assert keys.begin(long_one) == {"result": "long"}


def test_keys_are_bounded_and_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MOST_KEYS_OF_A_CALLER", 3)
    monkeypatch.setattr(idempotency, "MOST_KEYS", 5)
    keys = IdempotencyKeys(new_database(tmp_path))

    def once(caller: str, key: int) -> Once:
        return Once.of(caller, "Bearer x", str(key), "request")

    for number in range(6):
        assert keys.begin(once("a", number)) is None
        keys.finish(once("a", number), {"result": number})
    assert keys.begin(once("a", 5)) == {"result": 5}
    assert keys.begin(once("a", 0)) is None  # long forgotten
    for number in range(2):
        assert keys.begin(once("b", number)) is None
    with pytest.raises(Exception, match="idempotency keys are kept"):
        keys.begin(once("c", 0))
    monkeypatch.setattr(idempotency, "KEPT_MS", -1)
    assert keys.begin(once("c", 0)) is None
    assert keys.begin(once("a", 5)) is None


def test_bad_input_that_only_the_verb_finds_is_audited_too(http: httpx.Client, api: Api) -> None:
    answer = http.post("/v1/cartridge/create", json={"barcode": "bad!"})
    assert (answer.status_code, answer.json()["code"]) == (409, "usage")
    told = api.told()[0]
    assert (told.action, told.details["code"]) == ("request refused", "usage")


def test_secrets_of_bad_input_stand_nowhere(http: httpx.Client, api: Api, capsys: Any) -> None:
    http.post("/v1/thing/make", json={"name": 5, "secret": ["geheim"]})
    http.post("/v1/thing/make", content=b'{"secret": "geheim', headers={"Content-Type": "application/json"})
    output = capsys.readouterr()
    assert "geheim" not in repr(api.told()) + output.out + output.err


def test_a_null_character_is_in_no_name_and_no_path(http: httpx.Client, shop: Shop) -> None:
    answer = http.post("/v1/thing/make", json={"name": "a\0b"})
    assert (answer.status_code, answer.json()["code"]) == (409, "usage")
    assert "null character" in answer.json()["detail"]
    assert shop.made == []


LISTS = [name for name, verb in VERBS.items() if get_origin(verb.result) is list and name.endswith(".list")]


@pytest.mark.parametrize("name", LISTS)
def test_every_list_can_be_had_page_by_page(name: str) -> None:
    verb = VERBS[name]
    (row,) = get_args(verb.result)
    assert verb.key, f"say key= at {name}: what no two of its rows share"
    for part in verb.key:
        assert row.model_fields[part].annotation in (int, str)


@pytest.mark.parametrize("name", VERBS)
def test_a_path_may_be_text(name: str) -> None:
    """JSON has no paths."""
    for field in VERBS[name].parameters.model_fields.values():
        if Path in (field.annotation, *get_args(field.annotation)):
            assert any(isinstance(mark, Strict) and not mark.strict for mark in field.metadata)
