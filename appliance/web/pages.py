"""Lists page by page: GET .../list?cursor=&limit= answers {"items", "next_cursor"}.

A cursor is the key of the last row that was seen, with its list, so that rows which come and go between two pages
neither shift the others nor show them twice.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, create_model

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import Verb, Window

LIMIT_ROWS: Final = 1000
DEFAULT_ROWS: Final = 100
LONGEST_CURSOR: Final = 2048


def query_of(verb: Verb) -> type[BaseModel]:
    """The verb's parameters as a query has them: text that is read as what it has to be; with a page's, for a list."""
    more: dict[str, Any] = {}
    if verb.key:
        cursor = Field(max_length=LONGEST_CURSOR, description="`next_cursor` of the page before; none: the first page.")
        limit = Field(ge=1, le=LIMIT_ROWS, description="Rows of the page.")
        more = {"cursor": (Annotated[str, cursor], ""), "limit": (Annotated[int, limit], DEFAULT_ROWS)}
    config = ConfigDict(extra="forbid", frozen=True, strict=False)
    base = type(verb.parameters.__name__, (verb.parameters,), {"model_config": config, "__module__": __name__})
    return create_model(f"{verb.name}.query", __base__=base, **more)


def answer_of(verb: Verb) -> Any:
    """The type of what GET answers."""
    if not verb.key:
        return verb.result
    cursor: Any = (str | None, Field(description="For the next page; null: this is the last."))
    return create_model(f"{verb.name}.page", items=(verb.result, ...), next_cursor=cursor)


def window_of(verb: Verb, query: BaseModel) -> Window:
    """What a query asks for. Raises OperatorError USAGE."""
    asked = query.model_dump(include={"cursor", "limit"})
    return Window(_read(verb, asked["cursor"]) if asked["cursor"] else None, asked["limit"])


def page(verb: Verb, rows: list[dict[str, Any]], window: Window) -> dict[str, Any]:
    """The page of all rows, or of those that the verb has cut out itself. Raises OperatorError USAGE: the cursor is of
    another list."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in verb.key)

    try:
        left = sorted((row for row in rows if window.after is None or key(row) > window.after), key=key)
    except TypeError:
        raise OperatorError(Failure.USAGE, "cursor: of another list") from None
    items = left[: window.limit]
    return {"items": items, "next_cursor": _written(verb, key(items[-1])) if len(left) > len(items) else None}


def _written(verb: Verb, key: tuple[Any, ...]) -> str:
    text = json.dumps([verb.name, *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(verb: Verb, cursor: str) -> tuple[Any, ...]:
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(found, list) or not found or not all(map(_is_of_a_key, found)):
            raise ValueError
    except (ValueError, binascii.Error, RecursionError):
        raise OperatorError(Failure.USAGE, "cursor: give what `next_cursor` was, or none") from None
    of, *key = found
    if of != verb.name:
        raise OperatorError(Failure.USAGE, f"cursor: of another list, {of}, not {verb.name}")
    return tuple(key)


def _is_of_a_key(part: object) -> bool:
    """Text, or a number that the database has room for."""
    return isinstance(part, str) or (type(part) is int and -(1 << 63) <= part < 1 << 63)
