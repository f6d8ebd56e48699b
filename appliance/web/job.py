"""What is asked for by one request, and what came of it; as the process of the API hands it to the daemon and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from appliance.access.caller import Caller, Scope
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.verb import Parameters, Verb, Window
from appliance.web.idempotency import Once


@dataclass(frozen=True, slots=True)
class VerbProgress:
    """Progress of a verb."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class VerbEnd:
    """Its end: a result in JSON with its entity tag, or what went wrong, with the HTTP status where that is not the
    code's; unsure: something may have been done all the same."""

    content: bytes = b"null"
    error: OperatorError | None = None
    tag: str | None = None
    status: int | None = None
    unsure: bool = False

    def to_json(self) -> dict[str, Any]:
        """All of it but the content."""
        if self.error is None:
            return {"tag": self.tag}
        return {"error": str(self.error), "code": self.error.failure.code, "status": self.status}

    @classmethod
    def of_json(cls, told: dict[str, Any], content: bytes) -> VerbEnd:
        """What to_json() made."""
        if "error" in told:
            return cls(error=OperatorError(Failure.of_code(told["code"]), told["error"]), status=told["status"])
        return cls(content, tag=told["tag"])


@dataclass(frozen=True)
class VerbJob:
    """What is asked for, by whom; digest: of the token that was shown, "" for the owner."""

    verb: Verb
    parameters: Parameters
    caller: Caller
    digest: str = ""
    window: Window | None = None
    if_match: str = ""
    once: Once | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        once = self.once
        return {
            "verb": self.verb.name,
            "parameters": self.parameters.model_dump(mode="json", exclude_unset=True),
            "caller": caller_to_json(self.caller),
            "digest": self.digest,
            "window": None if self.window is None else [self.window.after, self.window.limit],
            "if_match": self.if_match,
            "once": None if once is None else [once.caller, once.key, once.request, once.secret.hex()],
        }

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> VerbJob:
        """What to_json() made."""
        verb = VERBS[told["verb"]]
        window, once = told["window"], told["once"]
        return cls(
            verb,
            verb.parameters.model_validate(told["parameters"]),
            caller_of_json(told["caller"]),
            told["digest"],
            window and Window(window[0] and tuple(window[0]), window[1]),
            told["if_match"],
            once and Once(once[0], once[1], once[2], bytes.fromhex(once[3])),
        )


def caller_to_json(caller: Caller) -> list[Any]:
    """For of_json() on the other side."""
    partitions, pools = caller.partitions, caller.pools
    reach = (partitions and sorted(partitions), pools and sorted(pools))
    return [caller.name, caller.scope.value, *reach, caller.key.decode()]


def caller_of_json(told: list[Any]) -> Caller:
    """What caller_to_json() made."""
    name, scope, partitions, pools, key = told
    return Caller(name, Scope(scope), partitions and frozenset(partitions), pools and frozenset(pools), key.encode())


def in_json(result: Any) -> bytes:
    """A result. ASCII: the bytes of a path that are not UTF-8 travel as escapes."""
    return json.dumps(result, separators=(",", ":")).encode()
