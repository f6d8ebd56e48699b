"""GET /v1/events: a stream for who accepts text/event-stream, else the next events as JSON."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from appliance.access.caller import CALLER_KEY
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.audit import EventDetails
from appliance.operations.perform import refuse_unpermitted
from appliance.web.access import TOKEN_KEY
from appliance.web.backend import Backend
from appliance.web.events import EventFilter, Feeds, stream
from appliance.web.job import VerbJob
from appliance.web.problems import as_json, problem
from appliance.web.routes import EVENT_STREAM, PREFIX, PROBLEMS, field_of, refuse_twice
from appliance.web.work import Work

PATH: Final = f"{PREFIX}/events"
LARGEST: Final = (1 << 53) - 1  # a number of JSON that every reader has exactly (RFC 8259 6)
_NAME: Final = "Last-Event-ID"
_STATUS: Final = {Failure.NOT_FOUND: 410, Failure.USAGE: 409}  # as verbs answer; else as always


class EventsQuery(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[
        int | None, Field(ge=0, le=LARGEST, description="The events that follow this one; none: those from now on.")
    ] = None
    action: Annotated[str, Field(description='Only these: "cartridge moved", ...')] = ""
    subject: Annotated[str, Field(description="Only those about this barcode, device, request, ...")] = ""


class Events(BaseModel):
    """The next events; `last`: to go on from, with ?after=."""

    items: list[EventDetails]
    last: int


def add_events(app: FastAPI, feeds: Feeds, backend: Backend, stopping: threading.Event) -> None:
    """Adds GET /v1/events."""

    async def endpoint(request: Request, query: Annotated[EventsQuery, Query()]) -> Response:
        caller = request.scope[CALLER_KEY]
        await _refuse_beyond(request, query, backend)
        feed = feeds.here()
        try:
            refuse_twice(request, EventsQuery)
            position = _position(request, query)
            if position is None:
                position = await feed.newest()
            await feed.check(position)
        except OperatorError as error:
            return problem(error, _STATUS.get(error.failure))
        wanted = EventFilter(query.action, query.subject)
        if EVENT_STREAM not in request.headers.get("accept", ""):
            last, events = await feed.page(position, wanted)
            return as_json({"items": events, "last": last}, headers={"Cache-Control": "no-store"})
        feed.enter(caller.name)
        token = request.scope.get(TOKEN_KEY)

        async def still_opens() -> bool:
            return token is None or await backend.token(token.digest) is not None

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        content = stream(feed, caller.name, position, wanted, still_opens, stopping)
        return StreamingResponse(content, media_type=EVENT_STREAM, headers=headers)

    app.add_api_route(
        PATH,
        endpoint,
        methods=["GET"],
        response_model=Events,
        summary="The audit record as it grows.",
        description="With Accept: text/event-stream a stream that goes on: each event has its number as `id`, and with "
        f"{_NAME} (or ?after=) a stream goes on behind it, so that none is lost. Else the next events as JSON. 410: "
        "what follows is no longer kept.\n\nScope: read.",
        operation_id="events",
        tags=["audit"],
        responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}, **PROBLEMS},
        openapi_extra={"security": [{"token": []}], "parameters": [_LAST_EVENT_ID]},
    )


async def _refuse_beyond(request: Request, query: EventsQuery, backend: Backend) -> None:
    """Whoever is for a part of the library follows its own requests, one at a time. Raises OperatorError."""
    caller, token = request.scope[CALLER_KEY], request.scope.get(TOKEN_KEY)
    show = VERBS["request.show"]
    if not (caller.confined and query.subject):
        refuse_unpermitted(VERBS["audit.list"], caller)
        return
    refuse_unpermitted(show, caller)
    parameters = show.parameters.model_validate({"request": query.subject})
    work = Work(backend, VerbJob(show, parameters, caller, "" if token is None else token.digest))
    work.start()
    if (error := (await work.ended()).error) is not None:
        raise OperatorError(Failure.NOT_PERMITTED, f"{caller.name} is told of its own requests only: {error}")


_LAST_EVENT_ID: Final[dict[str, Any]] = {
    "name": _NAME,
    "in": "header",
    "required": False,
    "description": "The `id` of the last event that was seen.",
    "schema": {"type": "integer", "minimum": 0, "maximum": LARGEST},
}


def _position(request: Request, query: EventsQuery) -> int | None:
    """Where to go on. Raises OperatorError USAGE."""
    if "last-event-id" not in request.headers:
        return query.after
    given = field_of(request.headers, "last-event-id")
    if not (given.isascii() and given.isdecimal()) or len(given) > 19 or int(given) > LARGEST:
        raise OperatorError(Failure.USAGE, f"{_NAME}: give the `id` of the last event that was seen, a number")
    return int(given)
