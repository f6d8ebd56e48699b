"""A `tapebay serve` of this tree in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from appliance.control import client as control

ROOT = Path(__file__).resolve().parents[3]
WAIT_SECONDS = 60.0


class Daemon:
    """Starts on construction; wait_ready() before use, stop() or kill() at the end. `log` grows as it speaks."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.directory = directory
        self.log: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "appliance", "serve", "--config", str(directory), *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(
                json.loads(line) if line.startswith(b"{") else {"event": line.decode(errors="surrogateescape")}
            )
            if self.log[-1]["event"] == "ready":
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> dict[str, Any]:
        """The log line that says so."""
        assert self._ready.wait(WAIT_SECONDS)
        ready = [line for line in self.log if line["event"] == "ready"]
        assert ready, self.log
        return ready[0]

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
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()
