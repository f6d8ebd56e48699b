"""The agent's network process: what it passes on, whom it becomes, and how it ends."""

from __future__ import annotations

import os
import pwd
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.agent.asking import Asking
from appliance.agent.backup import HotBackup
from appliance.agent.network_process import NetworkProcess, NetworkProcessEnded, user_of_network
from appliance.agent.serving import serve
from appliance.failures import Failure, NoAnswer, OperatorError
from tests.support.processes import is_there
from tests.support.waiting import eventually


class Appliance:
    """What is asked over the network; in the other process."""

    host = "library.example"
    traffic = SimpleNamespace(bytes=4711)

    def call(self, verb: str, /, **parameters: Any) -> Any:
        if verb == "status":
            return Path("/proc/self/status").read_text()
        if verb == "lost":
            raise NoAnswer(Failure.REFUSED, "nobody answered")
        if verb == "refused":
            raise OperatorError(Failure.NOT_FOUND, "there is no such thing: ä\udcff")
        if verb == "dies":
            os._exit(1)
        return [verb, parameters]

    def events(self, subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        yield None
        yield {"subject": subject, "seconds": timeout_seconds}
        raise OperatorError(Failure.REFUSED, "no event for a while")


@pytest.fixture
def network() -> Iterator[NetworkProcess]:
    made = NetworkProcess(Appliance(), user_of_network())
    yield made
    made.close()


def test_what_is_asked_and_answered(network: NetworkProcess) -> None:
    assert network.call("look", name="ä\udcff", paths=[Path("/srv")], n=1.5) == [
        "look", {"name": "ä\udcff", "paths": ["/srv"], "n": 1.5},
    ]  # fmt: skip
    length_bytes, seconds = network.cost()
    assert (network.host, length_bytes, seconds > 0) == ("library.example", 4711, True)
    with pytest.raises(NoAnswer, match="nobody answered") as lost:
        network.call("lost")
    assert lost.value.failure is Failure.REFUSED
    with pytest.raises(OperatorError, match="no such thing: ä\udcff") as refused:
        network.call("refused")
    assert (refused.value.failure, isinstance(refused.value, NoAnswer)) == (Failure.NOT_FOUND, False)


def test_events_until_they_end(network: NetworkProcess) -> None:
    told = network.events("x", timeout_seconds=3)
    assert [next(told), next(told)] == [None, {"subject": "x", "seconds": 3}]
    with pytest.raises(OperatorError, match="no event for a while"):
        next(told)


def test_calls_do_not_wait_for_each_other(network: NetworkProcess) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: found.append(network.call("look", n=n))) for n in range(20)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(row[1]["n"] for row in found) == list(range(20))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_has_no_right(network: NetworkProcess) -> None:
    status = dict(line.split(":\t", 1) for line in network.call("status").splitlines() if ":\t" in line)
    user = user_of_network()
    assert user is not None
    assert set(status["Uid"].split()) == {str(user.pw_uid)} != {"0"}
    assert set(status["Gid"].split()) == {str(user.pw_gid)}
    assert status["Groups"].split() == []
    for capabilities in ("CapPrm", "CapEff", "CapAmb"):
        assert int(status[capabilities], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_one_that_ends_is_told_of_and_a_killed_agent_takes_it_along(network: NetworkProcess) -> None:
    with pytest.raises(OperatorError, match="network process has ended"):
        network.call("dies")
    with pytest.raises(OperatorError, match="network process has ended"):
        network.call("look")
    asking = Asking(network)
    with pytest.raises(NetworkProcessEnded):  # a service that is started anew
        serve(HotBackup(asking, None, name="web"), lambda _name: None, asking)  # type: ignore[arg-type,return-value]
    hear, tell = os.pipe()
    agent = os.fork()
    if agent == 0:
        mine = NetworkProcess(Appliance(), user_of_network())
        os.write(tell, b"%d\n" % mine._process)
        signal.pause()
        os._exit(1)
    process = int(os.read(hear, 20))
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    eventually(lambda: not is_there(process))
    os.close(hear)
    os.close(tell)


def test_whom_it_becomes() -> None:
    user = user_of_network()
    assert user is None or user.pw_name in {entry.pw_name for entry in pwd.getpwall()} - {"root"}
