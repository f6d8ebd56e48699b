"""Versions of what verbs show: who changes something can say which version of it he has seen, and is refused when it is
another one by now (RFC 9110 8.8.3 and 13.1.1: entity tags and If-Match)."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OnFiles, OnSettings, Parameters, Verb, Volatile

_KEY: Final = secrets.token_bytes(32)  # of this process


def version_of(document: Any) -> str:
    """Tells versions apart of what is not shown: another text for another document, out of which nobody can guess it.
    The next process has other ones."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hmac.digest(_KEY, text.encode(), "sha256").hex()[:16]


def tag_of(verb: Verb, result: Any) -> str | None:
    """The entity tag of a result, as JSON holds it: of what a list or `show` answers, or a change of the same thing;
    None: of anything else. What changes by itself (a lease's rest, when a token was used) does not count."""
    shown = verb if verb.shows else _shown_by(verb)
    if shown is None or (shown is not verb and shown.result is not verb.result):
        return None
    if isinstance(result, dict) and result.get("foreseen") is not None:
        return None  # nothing is so yet
    return tag(_lasting(shown.result, result))


def tag(content: Any) -> str:
    """The entity tag of JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def matches(tag: str | None, header: str) -> bool:
    """Whether If-Match has that tag, or is "*", which any version matches. Weak tags match nothing (RFC 9110
    8.8.3.2: strong comparison)."""
    return header.strip() == "*" or tag in [part.strip() for part in header.split(",")]


def matches_weakly(tag: str, header: str) -> bool:
    """Whether If-None-Match does, for which weak tags count too."""
    return matches(tag, header) or tag in [part.strip().removeprefix("W/") for part in header.split(",")]


def refuse_changed(verb: Verb, context: OnSettings, parameters: Parameters, if_match: str) -> None:
    """Raises OperatorError: CHANGED when what the verb changes has none of these tags now, NOT_FOUND when it is not
    there. The caller holds what the verb calls `still`, so that nothing changes it between this and the change."""
    shown = _shown_by(verb)
    if shown is None:
        raise OperatorError(Failure.USAGE, f"{verb.name} takes no If-Match: it changes nothing that has a version")
    assert isinstance(context, OnFiles)
    same = {name: getattr(parameters, name, None) for name in shown.parameters.model_fields}
    key = verb.seen(context, parameters) if verb.seen is not None else same
    result = shown.run(context, shown.parameters.model_validate(key))
    now = tag_of(shown, shown.adapter.dump_python(result, mode="json", by_alias=True))
    if not matches(now, if_match):
        raise OperatorError(Failure.CHANGED, f"it has changed since it was looked at; its ETag is {now}: {shown.name}")


def _shown_by(verb: Verb) -> Verb | None:
    from appliance.operations import VERBS

    return VERBS[verb.changes] if verb.changes else None


def _lasting(annotation: Any, found: Any) -> Any:
    """Of a result of that type, as JSON holds it, what makes its version."""
    if get_origin(annotation) is list:
        return [_lasting(get_args(annotation)[0], one) for one in found]
    if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
        return found
    fields = annotation.model_fields
    lasting = {name: fields[name] for name in found if name in fields and not _is_volatile(fields[name])}
    renamed = {name: value for name, value in found.items() if name not in fields}
    return {**renamed, **{name: _lasting(field.annotation, found[name]) for name, field in lasting.items()}}


def _is_volatile(field: FieldInfo) -> bool:
    return any(isinstance(mark, Volatile) for mark in field.metadata)
