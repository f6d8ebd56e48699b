"""GET /metrics: the figures of the library and of the API itself, for Prometheus."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request, Response

from appliance.access.caller import CALLER_KEY
from appliance.operations import VERBS
from appliance.operations.perform import refuse_unpermitted
from appliance.web.backend import Backend
from appliance.web.figures import ApiFigures
from appliance.web.routes import PROBLEMS

PATH: Final = "/metrics"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def add_metrics(app: FastAPI, backend: Backend, figures: ApiFigures) -> None:
    """Adds GET /metrics."""

    async def endpoint(request: Request) -> Response:
        refuse_unpermitted(VERBS["status"], request.scope[CALLER_KEY])
        content = await backend.figures() + figures.content()
        return Response(content, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    app.add_api_route(
        PATH,
        endpoint,
        methods=["GET"],
        response_class=Response,
        summary="The library in figures, for Prometheus.",
        description="Scope: read.",
        operation_id="metrics",
        tags=["metrics"],
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **PROBLEMS},
        openapi_extra={"security": [{"token": []}]},
    )
