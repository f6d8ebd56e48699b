"""Hooks: what they are told, and how they fail."""

import os
import subprocess
import sys
from pathlib import Path
from subprocess import Popen

import pytest

from appliance.agent.hooks import run_hook
from appliance.failures import OperatorError


def test_a_hook_is_told_of_the_job(tmp_path: Path) -> None:
    made = tmp_path / "made"
    run_hook("before", ["sh", "-c", f"echo $TAPEBAY_JOB > {made}"], {"job": "nightly"})
    assert made.read_text() == "nightly\n"


@pytest.mark.parametrize(
    ("command", "seconds", "why"),
    [
        (["sh", "-c", "echo no room; exit 3"], 60, "before hook .* failed with 3: no room"),
        (["/nowhere/hook"], 60, "No such file"),
        (["sh", "-c", "sleep 600 & wait"], 0.2, "did not end in 0.2 s, and was ended"),
    ],
)
def test_one_that_fails_is_named(command: list[str], seconds: float, why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        run_hook("before", command, {}, seconds=seconds)


def test_what_a_slow_one_started_is_ended_too(tmp_path: Path) -> None:
    """The reading end of a pipe hears that nobody has the other end open any more."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    command = [sys.executable, "-c", f"import os, time; os.fork(); os.write({writing}, b'x'); time.sleep(600)"]

    def inheriting(*arguments: object, **options: object) -> "subprocess.Popen[str]":
        return Popen(*arguments, **options, close_fds=False)  # type: ignore[call-overload, no-any-return]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OperatorError):
        patch.setattr(subprocess, "Popen", inheriting)
        run_hook("after", command, {}, seconds=2)
    os.close(writing)
    while os.read(reading, 100):
        pass
    os.close(reading)
