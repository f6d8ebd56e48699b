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
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance import __version__
from appliance.access.caller import CALLER_KEY
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.perform import refuse_unpermitted
from appliance.operations.verb import Verb
from appliance.settings.problems import lines_of
from appliance.web.access import Admission
from appliance.web.problems import PROBLEM, Problem, as_json, described, problem
from appliance.web.refusals import Refusals
from appliance.web.work import Ended, MakeContext, Report, Work

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles

LIMIT_BODY_BYTES = 1 << 20
PREFIX = "/v1"
EVENT_STREAM = "text/event-stream"


def path_of(verb: str) -> str:
    """Where a verb is found."""
    return f"{PREFIX}/{verb.replace('.', '/')}"


def make_app(
    make_context: MakeContext,
    stopping: threading.Event,
    verbs: Mapping[str, Verb] = VERBS,
    files: LibraryFiles | None = None,
) -> FastAPI:
    """The application of one library. stopping: set when the daemon stops, so that long verbs end early. files: whose
    tokens let in, and whose audit record tells of refused requests; without them only the control socket's owner is."""
    app = FastAPI(
        title="Tapebay", version=__version__, openapi_url=f"{PREFIX}/openapi.json", docs_url=None, redoc_url=None
    )
    refusals = Refusals(None if files is None else files.database)
    for verb in verbs.values():
        _add(app, verb, make_context, stopping)
    app.add_middleware(_Bounded)
    app.add_middleware(Admission, tokens=None if files is None else files.tokens, refusals=refusals)
    answers = _Problems(verbs, refusals)
    app.add_exception_handler(OperatorError, answers.on_operator_error)
    app.add_exception_handler(RequestValidationError, answers.on_wrong_request)
    app.add_exception_handler(HTTPException, answers.on_http_error)
    return app


def _add(app: FastAPI, verb: Verb, make_context: MakeContext, stopping: threading.Event) -> None:
    async def endpoint(request: Request, parameters: Any) -> Response:
        caller = request.scope[CALLER_KEY]
        refuse_unpermitted(verb, caller)
        work = Work(verb, parameters, make_context, stopping, caller)
        work.start()
        if EVENT_STREAM in request.headers.get("accept", ""):
            return StreamingResponse(_stream(work), media_type=EVENT_STREAM)
        ended = [event async for event in work.events()][-1]
        assert isinstance(ended, Ended)
        return problem(ended.error) if ended.error else as_json(ended.result)

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
                    yield _event("problem", described(error))
    finally:
        work.cancel()


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


class _Problems:
    """What is answered to requests that are not understood, or not allowed; each leaves a line in the audit record."""

    def __init__(self, verbs: Mapping[str, Verb], refusals: Refusals) -> None:
        self._models = {path_of(verb.name): verb.parameters for verb in verbs.values()}
        self._refusals = refusals

    async def on_operator_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, OperatorError)
        return await self._answer(request, error)

    async def on_wrong_request(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        details = [cast(ErrorDetails, {**detail, "loc": tuple(detail["loc"])[1:]}) for detail in error.errors()]
        if any(detail["type"] == "json_invalid" for detail in details):
            return await self._answer(request, OperatorError(Failure.USAGE, "the body is not JSON"))
        if any(not detail["loc"] for detail in details):
            message = "the body must be a JSON object, with Content-Type: application/json"
            return await self._answer(request, OperatorError(Failure.USAGE, message))
        lines = lines_of(details, self._models[request.url.path])
        return await self._answer(request, OperatorError(Failure.USAGE, "\n".join(lines)))

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {
            404: f"there is no verb at {request.url.path}",
            400: "the body is not JSON",
            405: f"{request.method} is not what {request.url.path} takes",
        }
        status = 422 if error.status_code == 400 else error.status_code
        told = OperatorError(Failure.USAGE, words.get(error.status_code, str(error.detail)))
        return await self._answer(request, told, status, dict(error.headers or {}))

    async def _answer(
        self, request: Request, error: OperatorError, status: int | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        answer = problem(error, status, headers)
        await self._refusals.tell(request.scope, error, answer.status_code)
        return answer


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
