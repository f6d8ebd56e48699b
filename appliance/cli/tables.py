"""Tables for people: plain lines where they fit; where cells must be folded to fit a terminal, rich draws them."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import typer

LARGE_TABLE = 200  # rows; folding each costs a third of a millisecond


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", empty: str = "") -> None:
    """Print a table, or `empty` when there are no rows; columns that begin with '>' are aligned to the right."""
    if not rows:
        typer.echo(empty)
        return
    if title:
        typer.echo(title)
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    heads = [column.removeprefix(">") for column in columns]
    right = [column.startswith(">") for column in columns]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    short = len(rows) <= LARGE_TABLE
    if short and sum(widths) + 2 * len(widths) > _terminal_columns():
        _folded(heads, right, cells)
    else:
        rule = [["─" * width for width in widths]] if short else []
        typer.echo("\n".join(_aligned([heads, *rule, *cells], widths, right)))


def joined(values: Iterable[object]) -> str:
    """Several values in one cell."""
    return ", ".join(map(str, values))


def seconds(count: float | None) -> str:
    """As people count them: 42 s, 12 min, 5.5 h."""
    if count is None:
        return ""
    if count < 120:
        return f"{count:.0f} s"
    return f"{count / 60:.0f} min" if count < 7200 else f"{count / 3600:.1f} h"


def luns(numbers: dict[str, str]) -> str:
    """LUNs with their devices' names, in one cell."""
    return joined(f"{lun} {name}" for lun, name in numbers.items())


def account(principal: str) -> str:
    """An account; nothing for who is no more than the initiator that stands beside it."""
    return principal if principal.startswith("account ") else ""


def session_state(row: dict[str, Any]) -> str:
    """Of a session, in a cell; how long it has waited and will, if it waits."""
    if row["waiting_since"] is None:
        return str(row["state"].replace("_", " ").lower())
    now, until = time.time(), row["waits_until"]
    left = "" if until is None else f", {seconds(max(0.0, until - now))} left"
    return f"waiting for {seconds(max(0.0, now - row['waiting_since']))}{left}"


def _terminal_columns() -> float:
    """Nothing is folded where there is no terminal to fold it for."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else float("inf")


def _aligned(rows: Iterable[Sequence[str]], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    sides = zip(widths, right, strict=True)
    line = "  ".join(f"{{:{'>' if is_right else '<'}{width}}}" for width, is_right in sides)
    return (line.format(*row).rstrip() for row in rows)


def _folded(heads: Sequence[str], right: Sequence[bool], cells: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, is_right in zip(heads, right, strict=True):
        justify: Literal["left", "right"] = "right" if is_right else "left"
        grid.add_column(head, justify=justify, overflow="fold")
    for row in cells:
        grid.add_row(*row)
    Console(highlight=False).print(grid)
