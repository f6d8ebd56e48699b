"""Commands of an operator before the instant of a snapshot and after it: what a database wants to have done."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from appliance.failures import Failure, OperatorError

HOOK_SECONDS = 60.0


def run_hook(what: str, command: Sequence[str], facts: Mapping[str, str], seconds: float = HOOK_SECONDS) -> None:
    """Run one to its end, with the facts in its environment (TAPEBAY_JOB, TAPEBAY_SNAPSHOT). what: "before", "after".

    Raises OperatorError REFUSED where it fails, cannot be run, or takes too long; then it and all it started are
    ended."""
    environment = {**os.environ, **{f"TAPEBAY_{name.upper()}": value for name, value in facts.items()}}
    shown = " ".join(command)
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise OperatorError(Failure.REFUSED, f"{what} hook {shown}: {error.strerror}") from None
    with process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            message = f"{what} hook {shown} did not end in {seconds:g} s, and was ended"
            raise OperatorError(Failure.REFUSED, message) from None
    if process.returncode:
        message = f"{what} hook {shown} failed with {process.returncode}: {said.strip()[-500:]}"
        raise OperatorError(Failure.REFUSED, message)
