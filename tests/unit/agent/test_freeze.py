"""Holding file systems still: the watchdog wins, somebody else thaws, the agent dies. The kernel is a model of one."""

import errno
import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.agent.freeze import FreezeFailed, held_still
from tests.support.processes import children
from tests.support.waiting import eventually

GO_ON, HELD = 0, 1
MOST = 16


class Model:
    """File systems by the path of their directory: in memory that the watchdog's process shares."""

    def __init__(self, paths: list[Path]) -> None:
        self._states = mmap.mmap(-1, MOST)
        self._numbers = {path.stat().st_ino: number for number, path in enumerate(paths)}
        self.synced: list[int] = []

    def number(self, descriptor: int) -> int:
        return self._numbers[os.fstat(descriptor).st_ino]

    def state(self, number: int) -> int:
        return self._states[number]

    def put(self, number: int, state: int) -> None:
        self._states[number] = state

    def freeze(self, descriptor: int) -> None:
        number = self.number(descriptor)
        if self.state(number) == HELD:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.put(number, HELD)

    def thaw(self, descriptor: int) -> None:
        number = self.number(descriptor)
        if self.state(number) != HELD:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.put(number, GO_ON)

    def sync_file_system(self, descriptor: int) -> None:
        self.synced.append(self.number(descriptor))

    def lock_memory(self) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def unlock_memory(self) -> None:
        """Nothing was locked."""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("data", "log")]
    for path in made:
        path.mkdir()
    return made


@pytest.fixture
def others() -> set[int]:
    """Processes of other tests, which are none of ours."""
    return set(children())


@pytest.fixture
def model(paths: list[Path], others: set[int]) -> Iterator[Model]:
    yield Model(paths)
    assert set(children()) <= others  # no process of ours is left


def eventually_goes_on(model: Model, number: int) -> None:
    eventually(lambda: model.state(number) != HELD)


def test_both_are_held_while_the_block_runs(model: Model, paths: list[Path]) -> None:
    with held_still(paths, kernel=model):
        assert [model.state(0), model.state(1)] == [HELD, HELD]
    assert [model.state(0), model.state(1)] == [GO_ON, GO_ON]
    assert model.synced == [0, 1]


def test_the_watchdog_wins(model: Model, paths: list[Path]) -> None:
    with (
        pytest.raises(FreezeFailed, match=r"let go after 0\.05 s"),
        held_still(paths, limit_seconds=0.05, kernel=model),
    ):
        eventually_goes_on(model, 0)
        eventually_goes_on(model, 1)


def test_a_hold_that_comes_after_the_watchdog_is_let_go_too(model: Model, paths: list[Path]) -> None:
    with pytest.raises(FreezeFailed), held_still(paths[:1], limit_seconds=0.05, kernel=model):
        eventually_goes_on(model, 0)
        model.put(0, HELD)  # FIFREEZE was waiting for somebody's write
        eventually_goes_on(model, 0)


def test_somebody_else_thaws(model: Model, paths: list[Path]) -> None:
    with pytest.raises(FreezeFailed, match=f"somebody else let {paths[1]} go"), held_still(paths, kernel=model):
        model.put(1, GO_ON)
    assert model.state(0) == GO_ON


def test_what_somebody_holds_is_refused_and_stays_his(model: Model, paths: list[Path]) -> None:
    model.put(1, HELD)
    with pytest.raises(FreezeFailed, match=f"somebody holds {paths[1]} still already"), held_still(paths, kernel=model):
        raise AssertionError("nothing may be made now")
    assert [model.state(0), model.state(1)] == [GO_ON, HELD]


def test_a_failure_inside_lets_everything_go(model: Model, paths: list[Path]) -> None:
    with pytest.raises(ZeroDivisionError), held_still(paths, kernel=model):
        _ = 1 / 0
    assert [model.state(0), model.state(1)] == [GO_ON, GO_ON]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_agent_dies_while_it_holds(model: Model, paths: list[Path], number: int) -> None:
    hear, tell = os.pipe()
    agent = os.fork()
    if agent == 0:
        with suppress(BaseException), held_still(paths, limit_seconds=600, kernel=model):
            os.write(tell, b"h")
            signal.pause()
        os._exit(1)
    assert os.read(hear, 1) == b"h"
    assert model.state(0) == HELD
    os.kill(agent, number)
    os.waitpid(agent, 0)
    eventually_goes_on(model, 0)
    eventually_goes_on(model, 1)
    os.close(hear)
    os.close(tell)


def test_a_watchdog_that_was_killed_is_no_hang(model: Model, paths: list[Path], others: set[int]) -> None:
    with held_still(paths, kernel=model):
        watchdogs = set(children()) - others
        assert watchdogs
        for watchdog in watchdogs:
            os.kill(watchdog, signal.SIGKILL)
            os.waitid(os.P_PID, watchdog, os.WEXITED | os.WNOWAIT)
    assert [model.state(0), model.state(1)] == [GO_ON, GO_ON]
