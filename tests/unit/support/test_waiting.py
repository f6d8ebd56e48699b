"""What the tests wait with: it goes on at once, and says what it waited for."""

import threading

import pytest

from tests.support.waiting import becomes, eventually


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
