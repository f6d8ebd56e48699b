"""Starting the daemon in the background, for the demonstration."""

import subprocess
import time
from pathlib import Path

from appliance.control import client as control
from appliance.failures import Failure, OperatorError
from appliance.own_program import own_command, own_environment
from appliance.settings.settings import Settings

LOG_FILE = "tapebay.log"
START_SECONDS = 60.0
POLL_SECONDS = 0.05


def ensure_served(path: Path, settings: Settings) -> bool:
    """Start the daemon of the library at `path` unless it runs; True when it was started. Raises OperatorError."""
    if _answers(settings):
        return False
    log = path.parent / LOG_FILE
    process = _start(path, log)
    deadline = time.monotonic() + START_SECONDS
    while not _answers(settings):
        if process.poll() is not None:
            raise OperatorError(Failure.REFUSED, f"the daemon did not start; its log {log} ends with:\n{_end_of(log)}")
        if time.monotonic() > deadline:
            process.terminate()
            raise OperatorError(Failure.REFUSED, f"the daemon was not ready in {START_SECONDS:.0f} seconds, see {log}")
        time.sleep(POLL_SECONDS)
    return True


def _start(path: Path, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        return subprocess.Popen(
            own_command("appliance", "serve", "--config", str(path)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that closing the terminal does not end it
            env=own_environment(),
        )


def _answers(settings: Settings) -> bool:
    try:
        control.call(settings.library.control_socket, "health")
    except OperatorError as error:
        if error.failure is Failure.NOT_RUNNING:
            return False
        raise
    return True


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
