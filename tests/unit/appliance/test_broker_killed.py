"""The broker's thread is killed while its grants are used, at whatever line of ours it is: it is down then and says so,
the sessions go on, nobody is granted anything, and when it is started again everything goes on as if nothing had been.
Nothing is there twice, nothing is lost, and no drive is held for ever."""

import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from appliance.access.gate import Gate
from appliance.broker.broker import Broker, BrokerDown
from appliance.broker.requests import Request, Wanted
from appliance.broker.states import RequestState, RequestStep
from appliance.failures import OperatorError
from appliance.library.library import Library
from datamover.initiator import InitiatorError
from tests.support.killed_threads import VARIABLE, Threads
from tests.support.waiting import becomes, eventually
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.test_broker_crash import (
    BLOCK,
    FILEMARK,
    PLACES,
    everything_is_home,
    login,
    nothing_is_doubled,
)
from tests.unit.appliance.test_requests import (
    HOST,
    OTHER,
    READY,
    REWIND,
    WRITE_BLOCK,
    command,
    granted,
    library,
    over,
    serving,
    state,
)
from tests.unit.appliance.test_requests import login as daemon_login

ROOT = Path(__file__).resolve().parents[3]
OURS = tuple(f"{ROOT / room}/" for room in ("appliance", "scsi_targets", "vlib_images"))
WANTED = tuple(Wanted(volume=barcode) for barcode in PLACES)
NEVER = 3600.0
DOWN = r"the broker has failed \(.*\) and is started anew within a minute"
EVERY = int(os.environ.get("TAPEBAY_TEST_EVERY", "300"))
SEED = int(os.environ.get("TAPEBAY_TEST_SEED", random.randrange(1 << 32)))


class Killed(SystemExit):
    """What ends the thread. No program of ours expects it."""


class Killer:
    """Kills the thread before the line of that number, of those in `rooms` that it comes to; a line counts once in each
    state of the requests."""

    def __init__(self, broker: Broker, rooms: tuple[str, ...] = OURS) -> None:
        self._broker, self._rooms = broker, rooms
        self.number = -1
        self.where = ""
        self._seen = set[object]()
        self._states: object = None

    def arm(self, number: int) -> None:
        self._seen.clear()
        self.number, self.where = number, ""

    def watched(self, original: Callable[..., Any], *given: Any) -> Any:
        requests = self._broker.requests.all()
        self._states = tuple(request.state for request in requests if not request.state.over)
        sys.settrace(self._called)
        try:
            return original(*given)
        finally:
            sys.settrace(None)

    def _called(self, frame: FrameType, _event: str, _given: Any) -> Any:
        return self._happened if frame.f_code.co_filename.startswith(self._rooms) else None

    def _happened(self, frame: FrameType, event: str, _given: Any) -> Any:
        if event == "line" and self.number >= 0:
            self._seen.add((frame.f_code, frame.f_lineno, self._states))
            if len(self._seen) > self.number:
                self.number = -1
                name = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
                self.where = f"{name}:{frame.f_lineno} in {frame.f_code.co_name}, {self._states}"
                raise Killed
        return self._happened


@contextmanager
def killing(served: Library) -> Iterator[Killer]:
    broker = served.broker
    assert broker is not None
    broker.stop()
    killer, original = Killer(broker), broker._thread._turn
    broker._thread._turn = lambda *given: killer.watched(original, *given)
    broker._thread.pause_seconds = NEVER  # not by itself here
    broker.start()
    yield killer


def until(broker: Broker, condition: Callable[[], Any]) -> None:
    """Starts the broker again where it is down."""

    def met() -> bool:
        if not broker.up:
            assert broker.down.startswith("the broker has failed (its thread was ended by Killed)")
            with pytest.raises(BrokerDown, match="nothing is granted or renewed; start it: tapebay broker start"):
                broker.ask(HOST, WANTED, lease_seconds=600)
            broker.start()
        return bool(condition())

    eventually(met)


def a_life(served: Library, *, by_gate: bool) -> None:
    """Two drives with their volumes, which hold what was written in the last one."""
    broker = served.broker
    assert broker is not None
    made = broker.ask(HOST, WANTED, lease_seconds=600, by_gate=by_gate)

    def request() -> Request:
        return broker.requests.get(made.name)

    until(broker, lambda: request().state is RequestState.GRANTED or (by_gate and broker.key(request())))
    with login(served, request()) as session:
        until(broker, lambda: request().state is RequestState.GRANTED)
        for unit in request().units:
            until(broker, lambda lun=unit.lun: command(session, lun, READY).status == 0)  # type: ignore[misc]
            for cdb, data in ((WRITE_BLOCK, BLOCK), (FILEMARK, None), (REWIND, None)):
                assert command(session, unit.lun, cdb, data).status == 0
        until(broker, lambda: request().port)
        nothing_is_doubled(served)
    broker.end(made.name, RequestStep.FREE, "released")
    until(broker, lambda: request().state is RequestState.DONE)


@pytest.mark.parametrize("by_gate", [False, True], ids=["broker chooses", "gate chooses"])
def test_killed_at_any_line(tmp_path: Path, by_gate: bool) -> None:
    """At one of EVERY lines; with TAPEBAY_TEST_EVERY=1 at all of them, which takes minutes."""
    print(f"TAPEBAY_TEST_SEED={SEED}")
    number, killed_at = random.Random(SEED).randrange(EVERY), list[str]()
    with serving(library(tmp_path)) as served, killing(served) as killer:
        while True:
            killer.arm(number)
            try:
                a_life(served, by_gate=by_gate)
                everything_is_home(served)
            except BaseException as error:
                error.add_note(f"killed at {killer.where}; before that at {killed_at[-3:]}")
                raise
            if not killer.where:
                break
            killed_at.append(killer.where)
            number += EVERY
    assert killed_at


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_login_is_killed_within_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At one line of several. The host comes again and has the drive that was chosen for it, and no other."""
    print(f"TAPEBAY_TEST_SEED={SEED}")
    open_, step = Gate.open, min(EVERY, 9)
    number = random.Random(SEED).randrange(step)
    with serving(library(tmp_path)) as served:
        broker = served.broker
        assert broker is not None
        killer = Killer(broker, (f"{ROOT}/appliance/access/",))
        monkeypatch.setattr(Gate, "open", lambda *given: killer.watched(open_, *given))
        while True:
            made = broker.ask(HOST, WANTED[:1], lease_seconds=600, by_gate=True)
            eventually(lambda made=made: broker.key(broker.requests.get(made.name)))  # type: ignore[misc]
            killer.arm(number)
            try:
                eventually(lambda made=made: _logs_in(served, made.name), despite=(InitiatorError,))  # type: ignore[misc]
                becomes(RequestState.GRANTED, lambda made=made: broker.requests.get(made.name).state)  # type: ignore[misc]
                assert [drive.lent_to for drive in served.drives.values()].count(None) == 1
                broker.end(made.name, RequestStep.FREE, "released")
                becomes(RequestState.DONE, lambda made=made: broker.requests.get(made.name).state)  # type: ignore[misc]
                everything_is_home(served)
            except BaseException as error:
                error.add_note(f"killed at {killer.where}")
                raise
            if not killer.where:
                break
            number += step
    assert number > 30


def _logs_in(served: Library, name: str) -> bool:
    assert served.broker is not None
    login(served, served.broker.requests.get(name)).close()
    return True


def test_it_is_started_anew_by_itself(tmp_path: Path) -> None:
    """In a daemon, killed from outside at whatever it does just then, and again in the middle of a transaction."""
    directory, path = library(tmp_path), tmp_path / "threads"
    daemon, threads = Daemon(directory, **{VARIABLE: str(path)}), Threads(path)
    try:
        daemon.wait_ready()
        daemon.call("cartridge.create", barcode="A00001L6", count=2)
        request = granted(daemon)
        with daemon_login(request["grant"]) as session:
            threads.refuse("broker")
            threads.kill("broker")
            for verb in ("broker.show", "status", "health"):
                shown = daemon.call(verb)
                shown = shown.get("broker", shown)
                assert not shown["up"] and re.fullmatch(DOWN, shown["why"]), shown
            for verb, given in (
                ("grant.renew", {"request": request["request"]}),
                ("request.create", {"initiator": HOST}),
            ):
                with pytest.raises(
                    OperatorError, match="nothing is granted or renewed; start it: tapebay broker start"
                ):
                    daemon.call(verb, **given)
            with pytest.raises(OperatorError, match="cannot be started: can't start new thread; it is tried again"):
                daemon.call("broker.start")
            assert command(session, 1, WRITE_BLOCK, BLOCK).status == 0
            threads.allow("broker")
            eventually(lambda: daemon.call("broker.show")["up"])
            assert daemon.call("grant.renew", request=request["request"])
            threads.kill_in_a_transaction("broker")
            second = daemon.call("request.create", initiator=OTHER)["request"]
            eventually(lambda: state(daemon, second) == "granted")
            assert command(session, 1, WRITE_BLOCK, BLOCK).status == 0
        for name in (request["request"], second):
            daemon.call("grant.release", request=name)
            assert over(daemon, name)["state"] == "done"
        told = [line["event"] for line in daemon.log if line.get("level") == "error"]
        assert told.count("the broker is down; it is started anew") >= 2
    finally:
        status = daemon.stop()
        print(*daemon.log, sep="\n")
    assert status == 0
