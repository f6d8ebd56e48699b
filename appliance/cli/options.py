"""What several commands share: options, questions, and turning errors into exit statuses."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.failures import Failure, OperatorError, explained
from appliance.settings.config_file import ConfigError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="TAPEBAY_CONFIG",
        metavar="FILE",
        readable=False,  # what cannot be read is said by config_file, with what to do
        help="tapebay.toml or its directory \\[default: ./]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextmanager
def reporting(as_json: bool = False) -> Iterator[None]:
    """Errors that an operator can do something about end the command with one clear message and their exit status."""
    try:
        yield
    except OperatorError as error:
        _fail(error.failure, str(error), as_json)
    except ConfigError as error:
        _fail(Failure.CONFIGURATION, str(error), as_json)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        raise typer.Exit(Failure.REFUSED.exit_status) from None
    except OSError as error:
        _fail(Failure.REFUSED, explained(error), as_json)


def complain(failure: Failure, message: str, as_json: bool) -> None:
    """One error on standard error: for people, or for programs."""
    if as_json:
        typer.echo(json.dumps({"error": {"code": failure.code, "message": message}}), err=True)
    else:
        typer.echo("\n".join(f"tapebay: {line}" for line in message.splitlines()), err=True)


def _fail(failure: Failure, message: str, as_json: bool) -> None:
    complain(failure, message, as_json)
    raise typer.Exit(failure.exit_status)


def show(result: Any, as_json: bool, render: Callable[[Any], None]) -> None:
    """Print a result as JSON, or as `render` does for people."""
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        render(result)


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone. Raises OperatorError USAGE when there is nobody to ask."""
    if yes or not question:
        return
    if not sys.stdin.isatty():
        raise OperatorError(Failure.USAGE, f"{question} Say --yes, as there is no terminal to ask on.")
    if not typer.confirm(question):
        raise typer.Exit(Failure.REFUSED.exit_status)
