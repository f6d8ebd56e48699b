"""Versions of what verbs show: who changes something can say which version of it he has seen, and is refused when it is
another one by now (RFC 9110 8.8.3 and 13.1.1: entity tags and If-Match)."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import Any, Final

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
    if isinstance(result, dict):
        if result.get("foreseen") is not None:
            return None  # nothing is so yet
        result = {name: value for name, value in result.items() if name not in _volatile(shown)}
    return tag(result)


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
    there. The caller holds files.changing, so that nothing changes it between this and the change."""
    shown = _shown_by(verb)
    if shown is None:
        raise OperatorError(Failure.USAGE, f"{verb.name} takes no If-Match: it changes nothing that has a version")
    assert isinstance(context, OnFiles)
    key = {name: getattr(parameters, name) for name in shown.parameters.model_fields}
    result = shown.run(context, shown.parameters.model_validate(key))
    now = tag_of(shown, shown.adapter.dump_python(result, mode="json", by_alias=True))
    if not matches(now, if_match):
        raise OperatorError(Failure.CHANGED, f"it has changed since it was looked at; its ETag is {now}: {shown.name}")


def _shown_by(verb: Verb) -> Verb | None:
    from appliance.operations import VERBS

    return VERBS[verb.changes] if verb.changes else None


def _volatile(verb: Verb) -> set[str]:
    fields = getattr(verb.result, "model_fields", {})
    return {name for name, field in fields.items() if any(isinstance(mark, Volatile) for mark in field.metadata)}
