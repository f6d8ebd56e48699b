"""Problems (RFC 9457): what went wrong, in the codes of the command line."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from fastapi import Response
from pydantic import BaseModel, Field

from appliance.failures import Failure, OperatorError

PROBLEM: Final = "application/problem+json"

STATUS: Final = {
    Failure.REFUSED: 409,
    Failure.USAGE: 422,
    Failure.CONFIGURATION: 500,
    Failure.NOT_RUNNING: 503,
    Failure.IN_USE: 409,
    Failure.NOT_FOUND: 404,
    Failure.NOT_PERMITTED: 403,
    Failure.CHANGED: 412,
    Failure.BUSY: 503,
    Failure.INTERNAL: 500,
}


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: Literal["about:blank"] = "about:blank"
    title: str = Field(description="The code in words.")
    status: int = Field(description="The status of the answer.")
    detail: str = Field(description="What was wrong, where, and what to do.")
    code: Literal[tuple(failure.code for failure in Failure)] = Field(  # type: ignore[valid-type]
        description="For programs; the command line's exit statuses have the same codes."
    )


def described(error: OperatorError, status: int | None = None) -> dict[str, Any]:
    """The document."""
    failure = error.failure
    return {
        "type": "about:blank",
        "title": failure.code.replace("-", " "),
        "status": status or STATUS[failure],
        "detail": str(error),
        "code": failure.code,
    }


def problem(error: OperatorError, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """The answer."""
    document = described(error, status)
    return as_json(document, document["status"], PROBLEM, headers)


def as_json(
    content: Any, status: int = 200, media_type: str = "application/json", headers: dict[str, str] | None = None
) -> Response:
    """An answer. ASCII: the bytes of a path that are not UTF-8 travel as escapes."""
    return Response(json.dumps(content, separators=(",", ":")), status, headers, media_type=media_type)
