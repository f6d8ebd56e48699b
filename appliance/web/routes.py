"""The routes of a verb: POST with its parameters as the body, and GET with a query for those that only show."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin

from fastapi import Body, Depends, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.datastructures import Headers

from appliance.access.caller import CALLER_KEY, Caller
from appliance.failures import Failure, OperatorError
from appliance.operations.perform import refuse_unpermitted
from appliance.operations.verb import Verb
from appliance.operations.versions import matches_weakly
from appliance.web.access import TOKEN_KEY
from appliance.web.backend import Backend
from appliance.web.idempotency import Once
from appliance.web.job import VerbEnd, VerbJob, VerbProgress
from appliance.web.pages import answer_of, query_of, window_of
from appliance.web.problems import PROBLEM, Problem, described, problem
from appliance.web.refusals import Refusals
from appliance.web.work import Work

PREFIX: Final = "/v1"
EVENT_STREAM: Final = "text/event-stream"

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {"model": Problem, "description": "A problem.", "content": {PROBLEM: {}}}
}
_ETAG = {"ETag": {"description": "The version of what is shown, for If-Match.", "schema": {"type": "string"}}}


def path_of(verb: str) -> str:
    """Where a verb is found."""
    return f"{PREFIX}/{verb.replace('.', '/')}"


@dataclass(frozen=True)
class Routes:
    """Adds the routes of verbs to an application."""

    app: FastAPI
    backend: Backend
    refusals: Refusals

    def add(self, verb: Verb) -> None:
        """POST, and GET for what only shows."""
        self._add_post(verb)
        if verb.shows:
            self._add_get(verb)

    def _add_post(self, verb: Verb) -> None:
        async def endpoint(request: Request, parameters: Any) -> Response:
            headers = request.headers
            once = self._once(verb, request, parameters) if headers.get("idempotency-key") is not None else None
            if_match = field_of(headers, "if-match")
            work = self._started(VerbJob(verb, parameters, *_asks(request), if_match=if_match, once=once))
            if EVENT_STREAM in headers.get("accept", ""):
                return StreamingResponse(_stream(work), media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})
            return await self._answer(request, await work.ended())

        optional = not any(field.is_required() for field in verb.parameters.model_fields.values())
        default = verb.parameters() if optional else inspect.Parameter.empty
        _declare(endpoint, Annotated[verb.parameters, Body()], default)
        self._route(
            verb,
            endpoint,
            "POST",
            verb.result,
            {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
            [*([] if verb.shows else [_IDEMPOTENCY_KEY]), *([_IF_MATCH] if verb.changes else [])],
        )

    def _add_get(self, verb: Verb) -> None:
        query, answer = query_of(verb), answer_of(verb)

        async def endpoint(request: Request, parameters: Any) -> Response:
            try:
                refuse_twice(request, query)
                window = window_of(verb, parameters) if verb.key else None
            except OperatorError as error:
                return await self._answer(request, VerbEnd(error=error, status=409))
            given = parameters.model_dump(exclude={"cursor", "limit"} if window else set(), exclude_unset=True)
            job = VerbJob(verb, verb.parameters.model_validate(given), *_asks(request), window)
            ended = await self._started(job).ended()
            return await self._answer(request, ended, request.headers.get("if-none-match"))

        default = inspect.Parameter.empty if any(f.is_required() for f in query.model_fields.values()) else query()
        _declare(endpoint, Annotated[query, Query()], default)
        self._route(verb, endpoint, "GET", answer, {"headers": _ETAG}, [_IF_NONE_MATCH], {304: _NOT_MODIFIED})

    def _route(
        self,
        verb: Verb,
        endpoint: Any,
        method: str,
        answer: Any,
        described_200: dict[str, Any],
        headers: list[dict[str, Any]],
        more: dict[int | str, dict[str, Any]] | None = None,
    ) -> None:
        self.app.add_api_route(
            path_of(verb.name),
            endpoint,
            methods=[method],
            response_model=answer,
            summary=verb.summary,
            description=_description(verb),
            operation_id=verb.name if method == "POST" else f"{verb.name}.{method.lower()}",
            tags=[verb.noun],
            responses={200: described_200, **(more or {}), **PROBLEMS},
            openapi_extra={"security": [{"token": []}], **({"parameters": headers} if headers else {})},
            dependencies=[Depends(_permitted(verb))],
        )

    def _started(self, job: VerbJob) -> Work:
        work = Work(self.backend, job)
        work.start()
        return work

    def _once(self, verb: Verb, request: Request, parameters: BaseModel) -> Once | None:
        if verb.shows:
            return None
        headers = request.headers
        what = json.dumps([verb.name, parameters.model_dump(mode="json"), field_of(headers, "if-match")], default=str)
        caller = request.scope[CALLER_KEY].name
        return Once.of(caller, headers.get("authorization", ""), headers["idempotency-key"], what)

    async def _answer(self, request: Request, ended: VerbEnd, if_none_match: str | None = None) -> Response:
        if ended.error is None:
            return _result(ended, if_none_match)
        answer = problem(ended.error, ended.status)
        if ended.error.failure in (Failure.USAGE, Failure.NOT_PERMITTED):
            await self.refusals.tell(request.scope, ended.error, answer.status_code)
        return answer


def _permitted(verb: Verb) -> Callable[[Request], Awaitable[None]]:
    """Who may not ask for it is told so, and not what else is wrong with what he says."""

    async def check(request: Request) -> None:
        refuse_unpermitted(verb, request.scope[CALLER_KEY])

    return check


def refuse_twice(request: Request, query: type[BaseModel]) -> None:
    """Raises OperatorError USAGE: of two values of what is one value nobody knows which was meant."""
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        kind = query.model_fields[name].annotation
        if count > 1 and not any(get_origin(each) is list for each in (kind, *get_args(kind))):
            raise OperatorError(Failure.USAGE, f"{name}: is given {count} times")


def field_of(headers: Headers, name: str) -> str:
    """All fields of that name as one (RFC 9110 5.3), also where it is empty; "": there is none."""
    return ", ".join(headers.getlist(name)) or ("," if name in headers else "")


def _asks(request: Request) -> tuple[Caller, str]:
    """Who, and by which token."""
    token = request.scope.get(TOKEN_KEY)
    return request.scope[CALLER_KEY], "" if token is None else token.digest


def _result(ended: VerbEnd, if_none_match: str | None) -> Response:
    headers = {"Cache-Control": "no-store", **({"ETag": ended.tag} if ended.tag else {})}
    if ended.tag is not None and if_none_match is not None and matches_weakly(ended.tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(ended.content, 200, headers, media_type="application/json")


def _description(verb: Verb) -> str:
    lines = [inspect.getdoc(verb.run), f"Scope: {verb.scope.value}."]
    if verb.changes:
        lines.append(f"If-Match: the ETag of {verb.changes}; 412 when it is another one by now.")
    return "\n\n".join(filter(None, lines))


def _declare(endpoint: Any, annotation: Any, default: Any) -> None:
    """What FastAPI reads: the request, and the parameters."""
    kind = inspect.Parameter.KEYWORD_ONLY
    endpoint.__signature__ = inspect.Signature(
        [
            inspect.Parameter("request", kind, annotation=Request),
            inspect.Parameter("parameters", kind, annotation=annotation, default=default),
        ]
    )


async def _stream(work: Work) -> AsyncIterator[str]:
    try:
        async for event in work.events():
            match event:
                case None:
                    yield ": still at work\n\n"
                case VerbProgress(done, total):
                    yield event_text("progress", {"done": done, "total": total})
                case VerbEnd(content, None):
                    yield f"event: result\ndata: {content.decode()}\n\n"
                case VerbEnd(_, OperatorError() as error):
                    yield event_text("problem", described(error))
    finally:
        work.cancel()


def event_text(name: str, data: Any) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


_IDEMPOTENCY_KEY = _header(
    "Idempotency-Key",
    "Any text: the same request with the same one is done once, and answered alike for a day.",
    type="string",
    pattern="^[!-~]([ -~]*[!-~])?$",
    minLength=1,
    maxLength=255,
)
_IF_MATCH = _header("If-Match", "Only if one of these is still its ETag: 412 else.", type="string")
_IF_NONE_MATCH = _header("If-None-Match", "304 if its ETag is still this one.", type="string")
_NOT_MODIFIED = {"description": "It is what its ETag says that it was."}
