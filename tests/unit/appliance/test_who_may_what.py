"""Every verb there is, asked for by a token of each scope, for the whole library or a part of it, over HTTP."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.access.caller import Scope
from appliance.operations import VERBS
from appliance.operations.verb import OnFiles, Parameters, Verb
from appliance.web import refusals
from appliance.web.routes import path_of
from tests.unit.appliance.api_server import Api, serving
from vlib_images.library.actor import actor
from vlib_images.library.database import events

PARTITION, POOL = {"partitions": frozenset(["left"])}, {"pools": frozenset(["scratch"])}
REACHES: dict[str, dict[Scope, dict[str, Any]]] = {
    "whole": {scope: {} for scope in Scope},
    "part": {Scope.READ: POOL, Scope.OPERATE: PARTITION, Scope.ADMINISTER: {**PARTITION, **POOL}},
}
SAID = {"rate": "1 GiB", "size": "1 GiB", "source": "disk:a", "destination": "disk:b"}
DONE: Counter[tuple[str, str]] = Counter()


def only_noted(verb: Verb) -> Verb:
    """The same row, for whom nothing is done but to write down who asked for it."""

    def run(_context: OnFiles, _parameters: Parameters) -> Any:
        DONE[verb.name, actor()] += 1

    return dataclasses.replace(verb, run=run, result=Any, key=(), changes="")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One for all: an application of so many verbs is not made in a moment."""
    rows = {name: only_noted(verb) for name, verb in VERBS.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(refusals, "LINES_AT_ONCE", 100_000)
        with serving(tmp_path_factory.mktemp("api"), rows) as serves:
            yield serves


@pytest.fixture(scope="module")
def document(api: Api) -> Any:
    with api.http(api.token()) as http:
        return http.get("/v1/openapi.json").json()


def least(schema: dict[str, Any], parts: dict[str, Any], name: str = "") -> Any:
    """Something that a schema allows; what is refused is refused whatever it is about."""
    while "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return least(schema["anyOf"][0], parts, name)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema["type"]:
        case "object":
            wanted = schema.get("required", [])
            return {name: least(schema["properties"][name], parts, name) for name in wanted}
        case "array":
            return [least(schema["items"], parts)] * schema.get("minItems", 0)
        case "string":
            return SAID.get(name, "x")
        case "boolean":
            return False
        case _:
            return schema.get("minimum", 1)


def parameters(document: dict[str, Any], verb: str) -> Any:
    content = document["paths"][path_of(verb)]["post"]["requestBody"]["content"]["application/json"]
    return least(content["schema"], document["components"]["schemas"])


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("scope", Scope, ids=lambda scope: scope.value)
def test_every_verb_by_every_token(api: Api, document: Any, scope: Scope, reach: str) -> None:
    """Allowed: done once, in its name. Refused: said, written down, and nothing done."""
    secret = api.token(scope, **REACHES[reach][scope])
    name_of_it = f"token {api.files.tokens.shown(secret).name}"
    refused, before = list[str](), api.told()[0].number
    with api.http(secret) as http:
        for name, verb in VERBS.items():
            given = parameters(document, name)
            may = scope.includes(verb.scope) and (reach == "whole" or verb.confinable)
            answers = {"POST": http.post(path_of(name), json=given)}
            if verb.shows:
                answers["GET"] = http.get(path_of(name), params=given)
            for method, answer in answers.items():
                if may:
                    assert answer.status_code == 200, (method, name, answer.text)
                else:
                    assert (answer.status_code, answer.json()["code"]) == (403, "not-permitted"), (method, name)
                    why = "is for a part of it" if scope.includes(verb.scope) else f"takes the scope {verb.scope.value}"
                    assert why in answer.json()["detail"]
                    refused.append(f"{method} {path_of(name)}")
            assert dict(DONE) == ({(name, name_of_it): len(answers)} if may else {})
            DONE.clear()
    with api.files.database.read() as connection:
        told = events.after(connection, before, 1000, action="request refused")
    assert [(line.subject, line.actor) for line in told] == [(subject, name_of_it) for subject in refused]


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("scope", Scope, ids=lambda scope: scope.value)
def test_what_is_no_verb_is_about_the_whole_library_too(api: Api, scope: Scope, reach: str) -> None:
    with api.http(api.token(scope, **REACHES[reach][scope])) as http:
        assert http.get("/v1/openapi.json").status_code == 200  # that is no secret
        for path in ("/v1/events", "/v1/events?after=0", "/v1/events?subject=x"):
            assert http.get(path).status_code == (200 if reach == "whole" else 403)
        if reach != "whole":
            assert http.get("/metrics").status_code == 403
