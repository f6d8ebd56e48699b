"""Hooks: what they are told, and how they fail."""

import os
import select
from pathlib import Path

import pytest

from appliance.agent.hooks import run_hook
from appliance.failures import OperatorError


def test_a_hook_is_told_of_the_job(tmp_path: Path) -> None:
    made = tmp_path / "made"
    run_hook("before", ["sh", "-c", f"echo $TAPEBAY_JOB > {made}"], {"job": "nightly"})
    assert made.read_text() == "nightly\n"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["sh", "-c", "echo no room; exit 3"], "before hook .* failed with 3: no room"),
        (["/nowhere/hook"], "No such file"),
        (["sh", "-c", "sleep 600 & wait"], "did not end in 0.2 s, and was ended"),
    ],
)
def test_one_that_fails_is_named(command: list[str], why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        run_hook("before", command, {}, seconds=0.2)


def test_what_a_slow_one_started_is_ended_too(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OperatorError):
        run_hook("after", ["sh", "-c", f"sleep 600 > {fifo} & cat {fifo}"], {}, seconds=0.5)
    poll = select.poll()
    poll.register(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), 0)
    assert [event for _, event in poll.poll(20_000)] == [select.POLLHUP]  # nobody has it open for writing any more
