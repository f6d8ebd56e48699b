"""Waiting for what another thread or process does: the one way in which tests wait.

A test never asserts straight away on what somebody else reaches later (a session that ends, a line of a log, a process
that goes), and never sleeps until it "should" be there. It waits here, for as long as a machine under load may take.
"""

import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

Found = TypeVar("Found")

SECONDS = 60.0  # a machine that does much else besides
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.0005, 0.02


def eventually(
    condition: Callable[[], Found], seconds: float = SECONDS, *, despite: tuple[type[Exception], ...] = ()
) -> Found:
    """What `condition` answers as soon as that counts as true. Exceptions of the types `despite` mean "not yet".

    Raises AssertionError after `seconds`, with what was waited for and what was seen last.
    """
    deadline, pause = time.monotonic() + seconds, PAUSE_SECONDS
    while True:
        late = time.monotonic() > deadline
        seen: Any
        try:
            if seen := condition():
                return seen
        except despite as error:
            seen = error
        if late:
            raise AssertionError(f"not within {seconds:g} s: {_words(condition)}\nlast seen: {seen!r}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def becomes(wanted: Found, found: Callable[[], Found], seconds: float = SECONDS) -> None:
    """Waits until what is `found` equals what is `wanted`; fails as `eventually` does."""
    last: list[Found] = []

    def equal() -> bool:
        last[:] = [found()]
        return last[0] == wanted

    try:
        eventually(equal, seconds)
    except AssertionError:
        raise AssertionError(f"not {wanted!r} within {seconds:g} s: {_words(found)}\nlast seen: {last[0]!r}") from None


def in_time(attempt: Callable[[float], Found], late: type[Exception], limits_seconds: tuple[float, ...]) -> Found:
    """What `attempt` answers with the first limit of time that the machine keeps. For tests in which somebody has to be
    quicker than a limit, which is short so that the test is. `attempt` raises `late` where the machine was too slow
    for it; what it raises with the last one, which is long, is the test's failure."""
    for seconds in limits_seconds[:-1]:
        try:
            return attempt(seconds)
        except late:
            continue
    return attempt(limits_seconds[-1])


def _words(condition: Callable[[], Any]) -> str:
    """The source of a condition, for whoever reads the failure."""
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
