"""How far something is, for whoever waits for it."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # done, total


def no_progress(_done: int, _total: int) -> None:
    """For who does not watch."""
