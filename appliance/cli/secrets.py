"""Secrets on the command line: never in its arguments, which others can read. Only where they are is said there."""

import inspect
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.failures import Failure, OperatorError

_PLACES: dict[str, tuple[Any, str]] = {
    "file": (Path, "Take the {} from the first line of this file, which nobody but its owner can read."),
    "environment": (str, "Take the {} from this environment variable."),
    "command": (str, "Take the {} from the first line that this command prints."),
}


def places(name: str) -> Iterator[inspect.Parameter]:
    """The options that say where a secret is."""
    for place, (kind, text) in _PLACES.items():
        flag = f"--{name}-{place}".replace("_", "-")
        annotation: Any = Annotated[kind | None, typer.Option(flag, help=text.format(name.replace("_", " ")))]
        yield inspect.Parameter(f"{name}_{place}", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)


def taken(name: str, arguments: dict[str, Any]) -> str | None:
    """The secret from where the arguments say it is; they no longer do afterwards. Raises OperatorError."""
    given = {place: value for place in _PLACES if (value := arguments.pop(f"{name}_{place}", None)) is not None}
    if len(given) > 1:
        raise OperatorError(Failure.USAGE, f"the {name} can be in one place only, not in {' and '.join(given)}")
    return next((_fetched(place, value) for place, value in given.items()), None)


def _fetched(place: str, value: Any) -> str:
    from appliance.settings import secrets

    try:
        match place:
            case "file":
                return secrets.from_file(value)
            case "environment":
                return secrets.from_environment(value)
        return secrets.from_command(shlex.split(value))
    except (secrets.SecretError, ValueError) as error:
        raise OperatorError(Failure.REFUSED, str(error)) from None


def asked(name: str) -> str:
    """A secret, from a terminal without showing it, or the next line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt(name.replace("_", " ").capitalize(), hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")
