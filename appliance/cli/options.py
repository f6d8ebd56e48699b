"""What several commands share: options, asking the daemon, printing, and turning errors into exit statuses."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from appliance.failures import Failure, OperatorError, explained

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
Progress = Callable[[int, int], None]
LARGE_TABLE = 200  # rows; drawing each costs a third of a millisecond
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextmanager
def reporting(as_json: bool = False) -> Iterator[None]:
    """Errors that an operator can do something about end the command with one clear message and their exit status."""
    from appliance.settings.config_file import ConfigError

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


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", empty: str = "") -> None:
    """Print a table, or `empty` when there are no rows; columns that begin with '>' are aligned to the right."""
    if not rows:
        typer.echo(empty)
    elif len(rows) > LARGE_TABLE:
        typer.echo("\n".join([*([title] if title else []), *_aligned(columns, rows)]))
    else:
        _grid(columns, rows, title)


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """The lines of a table that is too long to be looked at: for grep, and in no time."""
    right = [column.startswith(">") for column in columns]
    cells = [[column.removeprefix(">") for column in columns], *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = zip(row, widths, right, strict=True)
        yield "  ".join(f"{c:>{width}}" if is_right else f"{c:<{width}}" for c, width, is_right in padded).rstrip()


def _cells(row: Sequence[object]) -> list[str]:
    return ["" if cell is None else str(cell) for cell in row]


def _grid(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        grid.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    for row in rows:
        grid.add_row(*_cells(row))
    if title:
        typer.echo(title)
    console = Console(highlight=False)
    # Nothing is cut off where there is no terminal to cut it for.
    console.print(grid, width=None if console.is_terminal else 200)


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone. Raises OperatorError USAGE when there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperatorError(Failure.USAGE, f"{question} Say --yes, as there is no terminal to ask on.")
    if not typer.confirm(question):
        raise typer.Exit(Failure.REFUSED.exit_status)
