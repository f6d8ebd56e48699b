"""The process of the API: what happens when it, or the daemon, is gone."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.access.caller import Caller, Scope
from appliance.control.client import Client
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.verb import Window
from appliance.web.idempotency import Once
from appliance.web.job import VerbEnd, VerbJob
from tests.support.appliance import Appliance
from tests.support.killed_threads import VARIABLE, Threads
from tests.support.ports import free_port
from tests.support.processes import children, is_there
from tests.support.waiting import eventually

LOWEST_PRIORITY = 19


def test_it_is_started_anew_and_ends_with_the_daemon(tmp_path: Path) -> None:
    port = free_port()
    with Appliance(tmp_path, cartridges=1, more=f'[api]\nlisten = "127.0.0.1:{port}"\n') as appliance:
        token = appliance.call("token.create", name="a", scope="operate")["token"]
        client = Client.at(f"http://127.0.0.1:{port}", token)
        assert client.call("health")["sessions"] == 0
        (front,) = children(appliance.process_id)
        os.kill(front, signal.SIGKILL)
        assert eventually(lambda: _healthy(client))
        assert appliance.call("health")["sessions"] == 0
        (again,) = children(appliance.process_id)
        assert again != front
        assert [entry["event"] for entry in appliance.problems()] == ["the API's process has ended; it is started anew"]
    assert not is_there(again)


def _healthy(client: Client) -> bool:
    try:
        return "portals" in client.call("health", timeout_seconds=60)
    except OperatorError as error:
        assert error.failure in (Failure.NOT_RUNNING, Failure.REFUSED)
        return False


def test_it_ends_when_the_daemon_is_killed(tmp_path: Path) -> None:
    port = free_port()
    appliance = Appliance(tmp_path, cartridges=0, more=f'[api]\nlisten = "127.0.0.1:{port}"\n')
    token = appliance.call("token.create", name="a", scope="read")["token"]
    assert Client.at(f"http://127.0.0.1:{port}", token).call("health")
    (front,) = children(appliance.process_id)
    appliance.kill()
    assert eventually(lambda: not is_there(front))


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_it_ends_though_somebody_follows_the_events(tmp_path: Path, killed: bool) -> None:
    """At once, or its port would be taken when the daemon is started anew. An end that was asked for is no error."""
    port = free_port()
    appliance = Appliance(tmp_path, cartridges=0, more=f'[api]\nlisten = "127.0.0.1:{port}"\n')
    token = appliance.call("token.create", name="a", scope="read")["token"]
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    with httpx.stream("GET", f"http://127.0.0.1:{port}/v1/events", headers=headers, timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 2000"
        (front,) = children(appliance.process_id)
        (appliance.kill if killed else appliance.stop)()
        assert all(line == "" or line.startswith((":", "id:")) for line in lines)
    assert eventually(lambda: not is_there(front))
    assert appliance.problems() == []


def test_the_thread_that_answers_it_is_started_anew(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "threads"
    more, environment = f'[api]\nlisten = "127.0.0.1:{port}"\n', {VARIABLE: str(path)}
    with Appliance(tmp_path, cartridges=1, more=more, environment=environment) as appliance:
        token = appliance.call("token.create", name="a", scope="operate")["token"]
        client = Client.at(f"http://127.0.0.1:{port}", token)
        assert client.call("health")
        (front,) = children(appliance.process_id)
        Threads(path).doom("api")
        with suppress(OperatorError):  # what it was asked last is not answered
            client.call("health", timeout_seconds=60)
        assert eventually(lambda: _healthy(client))
        assert not is_there(front)
        events = client.events("B00001L6", timeout_seconds=60)
        assert next(events) is None
        appliance.call("cartridge.create", barcode="B00001L6")
        assert next(event for event in events if event is not None)["action"] == "cartridge added"
        told = [entry["event"] for entry in appliance.problems()]
        assert told == ["the api's thread is ended", "the api is down; it is started anew"]


def test_its_data_goes_first(tmp_path: Path) -> None:
    """Where processors are scarce: the API's process has a lower priority, and no thread of the daemon has."""
    port = free_port()
    with Appliance(tmp_path, cartridges=0, more=f'[api]\nlisten = "127.0.0.1:{port}"\n') as appliance:
        token = appliance.call("token.create", name="a", scope="read")["token"]
        assert Client.at(f"http://127.0.0.1:{port}", token).call("health")
        (front,) = children(appliance.process_id)
        front_has, daemon_has = (os.getpriority(os.PRIO_PROCESS, one) for one in (front, appliance.process_id))
        assert front_has > daemon_has or daemon_has == LOWEST_PRIORITY  # where the tests have the lowest themselves


def test_progress_and_cancelling_and_events_come_through(tmp_path: Path) -> None:
    port = free_port()
    with Appliance(tmp_path, slots=300, cartridges=1, more=f'[api]\nlisten = "127.0.0.1:{port}"\n') as appliance:
        token = appliance.call("token.create", name="a", scope="operate")["token"]
        client = Client.at(f"http://127.0.0.1:{port}", token)
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        seen: list[tuple[int, int]] = []
        with httpx.stream("GET", f"http://127.0.0.1:{port}/v1/events", headers=headers, timeout=60) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            made = client.call(
                "cartridge.create",
                barcode="B00001L6",
                count=200,
                progress=lambda done, total: seen.append((done, total)),
            )
            assert len(made) == 200
            assert seen
            data = (line for line in lines if line.startswith("data: "))
            assert "B00001L6" in next(data)
        authorization = {"Authorization": f"Bearer {token}"}
        bad = httpx.post(f"http://127.0.0.1:{port}/v1/nothing", headers=authorization, timeout=60)
        assert bad.status_code == 404
        (told,) = [e for e in appliance.call("audit.list", count=5) if e["action"] == "request refused"]
        assert told["actor"] == "token a"
        appliance.call("token.revoke", name="a")
        with pytest.raises(OperatorError, match="revoked or expired"):
            client.call("health")


def test_jobs_and_ends_are_the_same_on_the_other_side() -> None:
    verb = VERBS["disk.create"]
    parameters = verb.parameters.model_validate({"name": "d", "size": "1 MiB"})
    caller = Caller("token ä", Scope.OPERATE, frozenset(["left"]), frozenset())
    once = Once.of("token ä", "Bearer x", "key", "request")
    jobs: list[Any] = [
        VerbJob(verb, parameters, caller, "digest", Window(("a", 1), 5), '"tag"', once),
        VerbJob(verb, parameters, caller, window=Window(None, 5)),
        VerbJob(verb, parameters, caller),
    ]
    for job in jobs:
        assert VerbJob.of_json(job.to_json()) == job
    for ended in (VerbEnd(b"[1]", tag='"x"'), VerbEnd(b"null")):
        assert VerbEnd.of_json(ended.to_json(), ended.content) == ended
    failed = VerbEnd.of_json(VerbEnd(error=OperatorError(Failure.BUSY, "wait"), status=429).to_json(), b"")
    assert failed.error is not None
    assert (failed.error.failure, str(failed.error), failed.status) == (Failure.BUSY, "wait", 429)
