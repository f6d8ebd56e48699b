"""A `tapebay serve` of this tree in a process of its own."""

import signal
from pathlib import Path
from typing import Any

from appliance.control import client as control
from tests.support.daemon_log import DaemonLog
from tests.support.prepared import Process

ROOT = Path(__file__).resolve().parents[3]
WAIT_SECONDS = 60.0


class Daemon:
    """Starts on construction; wait_ready() before use, stop() or kill() at the end. `log` is what it has said."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.directory = directory
        self._log = DaemonLog()
        self.process = Process(["serve", "--config", str(directory), *options], self._log.file, **environment)

    @property
    def log(self) -> list[dict[str, Any]]:
        """All that it has said so far."""
        return self._log.entries()

    def wait_ready(self) -> dict[str, Any]:
        """The log line that says so."""
        ready = self._log.wait_for("ready", self.process)
        assert ready, self.log
        return ready

    def call(self, method: str, **params: Any) -> Any:
        return control.call(self.directory / "tapebay.sock", method, **params)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Exit status."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Waits for it to end by itself."""
        try:
            return self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
