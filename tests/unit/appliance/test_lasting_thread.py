"""A thread that is started anew when it ends unasked, and what it may end of."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from appliance.lasting_thread import LastingThread, Stopping
from tests.support.waiting import becomes, eventually

LONG = 3600.0


class Work:
    """What a thread does: it counts, and meets its fate where there is one."""

    def __init__(self) -> None:
        self.begun = self.turns = 0
        self.at_begin: Callable[[], None] = lambda: None
        self.in_turn: Callable[[], None] = lambda: None

    def begin(self) -> None:
        self.at_begin()
        self.begun += 1

    def turn(self, _stopping: Stopping) -> float:
        self.in_turn()
        self.turns += 1
        return LONG


def dies() -> None:
    raise SystemExit


def full() -> None:
    raise OSError("no space")


@contextmanager
def lasting(pause_seconds: float) -> Iterator[tuple[LastingThread, Work]]:
    work = Work()
    thread = LastingThread("work", work.begin, work.turn)
    thread.pause_seconds = pause_seconds
    try:
        yield thread, work
    finally:
        thread.stop()
        assert not thread.up


def test_it_takes_a_turn_when_it_is_woken_and_ends_when_it_is_stopped() -> None:
    with lasting(LONG) as (thread, work):
        assert (thread.up, thread.failure) == (False, "")
        thread.start()
        thread.start()  # it is
        eventually(lambda: work.turns >= 1)
        thread.wake()
        eventually(lambda: work.turns >= 2)
        thread.stop()
        assert (thread.up, thread.failure, thread.failures) == (False, "", 0)
        thread.start()
        eventually(lambda: work.turns >= 3)
        assert work.begun == 2


def test_it_is_started_anew_until_it_lasts() -> None:
    with lasting(0.001) as (thread, work):
        work.in_turn = dies
        thread.start()
        eventually(lambda: thread.failures > 2)
        work.in_turn = lambda: None
        eventually(lambda: work.turns and thread.up)
        assert not thread.failure
        assert work.begun > thread.failures > 2


def test_it_is_down_until_somebody_starts_or_stops_it() -> None:
    with lasting(LONG) as (thread, work):
        work.in_turn = dies
        thread.start()
        becomes("its thread was ended by SystemExit", lambda: thread.failure)
        work.in_turn = lambda: None
        thread.start()
        eventually(lambda: work.turns >= 1)
        assert thread.up
        work.in_turn = dies
        thread.wake()
        eventually(lambda: not thread.up)
        thread.stop()
        assert (thread.up, thread.failure) == (False, "")


def test_what_keeps_it_from_beginning_is_told_and_tried_again() -> None:
    with lasting(LONG) as (thread, work):
        work.at_begin = full
        with pytest.raises(OSError, match="no space"):
            thread.start()
        assert (thread.up, thread.failure) == (False, "OSError: no space")
        thread.pause_seconds = 0.001
        with pytest.raises(OSError, match="no space"):
            thread.start()
        work.at_begin = lambda: None
        eventually(lambda: work.turns >= 1)


def test_starts_and_stops_at_once() -> None:
    with lasting(0.001) as (thread, work):
        deaths = threading.Semaphore(20)

        def often() -> None:
            if deaths.acquire(blocking=False):
                dies()

        work.in_turn = often

        def restless() -> None:
            for _ in range(20):
                thread.start()
                thread.wake()
                thread.stop()

        several = [threading.Thread(target=restless) for _ in range(3)]
        for each in several:
            each.start()
        for each in several:
            each.join(60)
            assert not each.is_alive()
        assert not thread.up
        thread.start()
        eventually(lambda: work.turns and thread.up)
