"""The HTTP API, made of the list of verbs: POST /v1/cartridge/create is the verb cartridge.create.

A request's body is the verb's parameters as JSON, its answer the result, or a problem (RFC 9457) whose `code` is that
of the command line. Who accepts text/event-stream gets server-sent events instead: `progress` {"done", "total"} as it
goes, then `result` or `problem`; closing the connection stops the verb at its next step. /v1/openapi.json describes it.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any, cast

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance import __version__
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.verb import Verb
from appliance.settings.problems import lines_of
from appliance.web.work import Ended, MakeContext, Report, Work

LIMIT_BODY_BYTES = 1 << 20
PREFIX = "/v1"
EVENT_STREAM = "text/event-stream"
PROBLEM = "application/problem+json"

STATUS = {
    Failure.REFUSED: 409,
    Failure.USAGE: 422,
    Failure.CONFIGURATION: 500,
    Failure.NOT_RUNNING: 503,
    Failure.IN_USE: 409,
    Failure.NOT_FOUND: 404,
    Failure.INTERNAL: 500,
}


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The code in words.")
    status: int
    detail: str = Field(description="What was wrong, where, and what to do.")
    code: str = Field(description="refused, usage, configuration, not-running, in-use, not-found or internal.")


def path_of(verb: str) -> str:
    """Where a verb is found."""
    return f"{PREFIX}/{verb.replace('.', '/')}"


def make_app(make_context: MakeContext, stopping: threading.Event, verbs: Mapping[str, Verb] = VERBS) -> FastAPI:
    """The application of one library. stopping: set when the daemon stops, so that long verbs end early."""
    app = FastAPI(
        title="Tapebay", version=__version__, openapi_url=f"{PREFIX}/openapi.json", docs_url=None, redoc_url=None
    )
    for verb in verbs.values():
        _add(app, verb, make_context, stopping)
    app.add_middleware(_Bounded)
    app.add_exception_handler(OperatorError, _on_operator_error)
    app.add_exception_handler(RequestValidationError, _wrong_requests(verbs))
    app.add_exception_handler(HTTPException, _on_http_error)
    return app


def _add(app: FastAPI, verb: Verb, make_context: MakeContext, stopping: threading.Event) -> None:
    async def endpoint(request: Request, parameters: Any) -> Response:
        work = Work(verb, parameters, make_context, stopping)
        work.start()
        if EVENT_STREAM in request.headers.get("accept", ""):
            return StreamingResponse(_stream(work), media_type=EVENT_STREAM)
        ended = [event async for event in work.events()][-1]
        assert isinstance(ended, Ended)
        return _problem(ended.error) if ended.error else _json(ended.result, 200, "application/json")

    optional = not any(field.is_required() for field in verb.parameters.model_fields.values())
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request),
            inspect.Parameter(
                "parameters",
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[verb.parameters, Body()],
                default=verb.parameters() if optional else inspect.Parameter.empty,
            ),
        ]
    )
    app.add_api_route(
        path_of(verb.name),
        endpoint,
        methods=["POST"],
        response_model=verb.result,
        summary=verb.summary,
        description=f"{inspect.getdoc(verb.run)}\n\nScope: {verb.scope.value}.",
        operation_id=verb.name,
        tags=[verb.noun],
        responses={
            200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
            "default": {"model": Problem, "description": "A problem.", "content": {PROBLEM: {}}},
        },
    )


async def _stream(work: Work) -> AsyncIterator[str]:
    try:
        async for event in work.events():
            match event:
                case None:
                    yield ": still at work\n\n"
                case Report(done, total):
                    yield _event("progress", {"done": done, "total": total})
                case Ended(result, None):
                    yield _event("result", result)
                case Ended(_, OperatorError() as error):
                    yield _event("problem", _described(error))
    finally:
        work.cancel()


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _described(error: OperatorError) -> dict[str, Any]:
    failure = error.failure
    title = failure.code.replace("-", " ")
    return Problem(title=title, status=STATUS[failure], detail=str(error), code=failure.code).model_dump()


def _problem(error: OperatorError, status: int | None = None) -> Response:
    described = _described(error)
    described["status"] = status or described["status"]
    return _json(described, described["status"], PROBLEM)


def _json(content: Any, status: int, media_type: str) -> Response:
    # ASCII: the bytes of a path that are not UTF-8 travel as escapes.
    return Response(json.dumps(content, separators=(",", ":")), status, media_type=media_type)


async def _on_operator_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, OperatorError)
    return _problem(error)


def _wrong_requests(verbs: Mapping[str, Verb]) -> Callable[[Request, Exception], Awaitable[Response]]:
    models = {path_of(verb.name): verb.parameters for verb in verbs.values()}

    async def on_wrong_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        details = [cast(ErrorDetails, {**detail, "loc": tuple(detail["loc"])[1:]}) for detail in error.errors()]
        if any(detail["type"] == "json_invalid" for detail in details):
            return _problem(OperatorError(Failure.USAGE, "the body is not JSON"))
        lines = lines_of(details, models[request.url.path])
        return _problem(OperatorError(Failure.USAGE, "\n".join(lines)))

    return on_wrong_request


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: f"there is no verb at {request.url.path}", 400: "the body is not JSON"}
    status = 422 if error.status_code == 400 else error.status_code
    return _problem(OperatorError(Failure.USAGE, words.get(error.status_code, str(error.detail))), status)


class _Bounded:
    """Refuses a body of more than LIMIT_BODY_BYTES before it is in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, _counting(receive), send)


def _counting(receive: Receive) -> Callable[[], Awaitable[Message]]:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > LIMIT_BODY_BYTES:
            raise HTTPException(413, f"a request is at most {LIMIT_BODY_BYTES} bytes")
        return message

    return counted
