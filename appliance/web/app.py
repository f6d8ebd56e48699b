"""The HTTP API, made of the list of verbs: POST /v1/cartridge/create is the verb cartridge.create.

A request's body is the verb's parameters as JSON, its answer the result, or a problem (RFC 9457) whose `code` is that
of the command line. What only shows can be had by GET too, with a query, and lists then come page by page. Who accepts
text/event-stream gets server-sent events instead: `progress` {"done", "total"} as it goes, then `result` or `problem`;
closing the connection stops the verb at its next step. /v1/openapi.json describes it.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance import __version__
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.verb import Verb
from appliance.settings.problems import lines_of
from appliance.web.access import TokenAdmission
from appliance.web.backend import Backend
from appliance.web.event_routes import PATH as EVENTS_PATH
from appliance.web.event_routes import EventsQuery, add_events
from appliance.web.events import Feeds
from appliance.web.figures import ApiFigures, Counted
from appliance.web.head import Head
from appliance.web.in_process import InProcess
from appliance.web.metric_routes import add_metrics
from appliance.web.problems import problem
from appliance.web.refusals import Refusals
from appliance.web.routes import PREFIX, Routes, path_of
from appliance.web.service import MakeContext, Service

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles

LIMIT_BODY_BYTES = 1 << 20


def make_app(
    make_context: MakeContext,
    stopping: threading.Event,
    verbs: Mapping[str, Verb] = VERBS,
    files: LibraryFiles | None = None,
) -> FastAPI:
    """The application of one library, in its own process. stopping: set when the daemon stops, so that long verbs end
    early. files: whose tokens let in, and whose audit record is told and read; without them there is only the owner."""
    return app_of(InProcess(Service(make_context, stopping, files)), stopping, verbs)


def app_of(backend: Backend, stopping: threading.Event, verbs: Mapping[str, Verb] = VERBS) -> FastAPI:
    """The application of the library behind `backend`. stopping: set when its streams are to end."""
    app = FastAPI(
        title="Tapebay", version=__version__, openapi_url=f"{PREFIX}/openapi.json", docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    refusals, feeds = Refusals(backend), Feeds(backend, stopping)
    app.state.malformed = refusals.malformed
    figures = ApiFigures(lambda: feeds.streams)
    routes = Routes(app, backend, refusals)
    for verb in verbs.values():
        routes.add(verb)
    add_events(app, feeds, backend, stopping)
    add_metrics(app, backend, figures)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    app.add_middleware(_Bounded)
    app.add_middleware(TokenAdmission, backend=backend, refusals=refusals)
    app.add_middleware(Counted, figures=figures)
    app.add_middleware(Head)
    answers = _Problems(verbs, refusals)
    app.add_exception_handler(OperatorError, answers.on_operator_error)
    app.add_exception_handler(RequestValidationError, answers.on_wrong_request)
    app.add_exception_handler(HTTPException, answers.on_http_error)
    app.add_exception_handler(Exception, answers.on_fault)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=__doc__, routes=app.routes)
        scheme = {"type": "http", "scheme": "bearer", "description": "What `tapebay token create` prints."}
        made["components"]["securitySchemes"] = {"token": scheme}
        app.openapi_schema = made
    return app.openapi_schema


class _Problems:
    """What is answered to requests that are not understood, or not allowed; each leaves a line in the audit record."""

    def __init__(self, verbs: Mapping[str, Verb], refusals: Refusals) -> None:
        self._models: dict[str, type[BaseModel]] = {path_of(verb.name): verb.parameters for verb in verbs.values()}
        self._models[EVENTS_PATH] = EventsQuery
        self._methods = {path_of(verb.name): "GET, POST" if verb.shows else "POST" for verb in verbs.values()}
        self._refusals = refusals

    async def on_operator_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, OperatorError)
        return await self._answer(request, error)

    async def on_fault(self, request: Request, error: Exception) -> Response:
        """A fault of ours, which is logged as such."""
        message = f"internal error ({type(error).__name__}); the daemon's log has the details"
        return problem(OperatorError(Failure.INTERNAL, message), headers={"Connection": "close"})  # as the server does

    async def on_wrong_request(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        details = [cast(ErrorDetails, {**detail, "loc": tuple(detail["loc"])[1:]}) for detail in error.errors()]
        if any(detail["type"] == "json_invalid" for detail in details):
            return await self._answer(request, OperatorError(Failure.USAGE, "the body is not JSON"))
        if any(not detail["loc"] for detail in details):
            message = "the body must be a JSON object, with Content-Type: application/json"
            return await self._answer(request, OperatorError(Failure.USAGE, message))
        lines = lines_of(details, self._models[request.url.path])
        # What is as the document says and cannot be all the same (a size that is too small) is a conflict.
        status = 409 if all(detail["type"] == "value_error" for detail in details) else 422
        return await self._answer(request, OperatorError(Failure.USAGE, "\n".join(lines)), status)

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {
            404: f"there is no verb at {request.url.path}",
            400: "the body is not JSON",
            405: f"{request.method} is not what {request.url.path} takes",
        }
        status = 422 if error.status_code == 400 else error.status_code
        told = OperatorError(Failure.USAGE, words.get(error.status_code, str(error.detail)))
        headers = {"Allow": self._methods.get(request.url.path, "GET")} if status == 405 else None
        return await self._answer(request, told, status, headers)

    async def _answer(
        self, request: Request, error: OperatorError, status: int | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        answer = problem(error, status, headers)
        if error.failure not in (Failure.BUSY, Failure.NOT_RUNNING):  # nobody asked for anything that is wrong
            await self._refusals.tell(request.scope, error, answer.status_code)
        return answer


class _Bounded:
    """Refuses a body of more than LIMIT_BODY_BYTES before it is in memory, or comes if its length is told; and one that
    is in a content coding (RFC 9110 8.4)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, _counting(receive, Headers(scope=scope)), send)


def _counting(receive: Receive, headers: Headers) -> Callable[[], Awaitable[Message]]:
    told, received = int(headers.get("content-length", 0)), 0

    async def counted() -> Message:
        nonlocal received
        if (coding := headers.get("content-encoding", "identity")).lower() != "identity":
            raise HTTPException(415, f"the body has the coding {coding}; send it without Content-Encoding")
        message = await receive() if told <= LIMIT_BODY_BYTES else {}
        received += len(message.get("body", b""))
        if max(told, received) > LIMIT_BODY_BYTES:
            raise HTTPException(413, f"a request is at most {LIMIT_BODY_BYTES} bytes")
        return message

    return counted
