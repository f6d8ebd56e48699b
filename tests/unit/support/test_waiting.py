"""What the tests wait with: it goes on at once, and says what it waited for."""

import threading

import pytest

from tests.support.waiting import becomes, eventually, in_time


def test_it_answers_what_it_waited_for() -> None:
    found: list[str] = []
    threading.Timer(0.05, found.append, ["there"]).start()
    assert eventually(lambda: found and found[0]) == "there"
    becomes(["there"], lambda: found)


def test_what_never_comes_is_said_with_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"(?s)not within 0.01 s: .*lambda: never.*last seen: \[\]"):
        never: list[int] = []
        eventually(lambda: never, 0.01)
    with pytest.raises(AssertionError, match=r"(?s)not 4 within 0.01 s: .*last seen: 3"):
        becomes(4, lambda: 3, 0.01)


def test_only_named_exceptions_mean_not_yet() -> None:
    answers = iter([OSError("not yet"), OSError("nor now"), "now"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return str(answer)

    with pytest.raises(OSError, match="not yet"):
        eventually(ask)
    assert eventually(ask, despite=(OSError,)) == "now"
    with pytest.raises(AssertionError, match=r"last seen: StopIteration"):
        eventually(ask, 0.01, despite=(StopIteration,))


def test_a_limit_that_is_too_short_is_made_longer_and_the_last_is_the_test_s() -> None:
    tried: list[float] = []

    def takes(least: float, seconds: float) -> str:
        tried.append(seconds)
        if seconds < least:
            raise TimeoutError(f"{seconds} s")
        return "in time"

    assert in_time(lambda seconds: takes(1, seconds), TimeoutError, (0.1, 1, 10)) == "in time"
    assert tried == [0.1, 1]
    with pytest.raises(TimeoutError, match=r"^10 s"):
        in_time(lambda seconds: takes(60, seconds), TimeoutError, (0.1, 1, 10))
    with pytest.raises(TimeoutError, match=r"^0.1 s"):
        in_time(lambda seconds: takes(60, seconds), KeyError, (0.1, 1, 10))
